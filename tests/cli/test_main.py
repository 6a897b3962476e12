"""The commands together: their exit codes, completion, the version, and the page that is made from the settings."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from opencode_events import __version__, errors, statedir
from opencode_events.cli import exits
from opencode_events.cli.exits import Exit
from opencode_events.cli.main import Commands, main
from opencode_events.cli.settings_table import settings_table

ROOT = Path(__file__).parents[2]


def group(effect: BaseException | int | None) -> click.Group:
    """Return a group whose one command `go` does what is said."""

    @click.group(cls=Commands)
    def commands() -> None:
        """Nothing."""

    @commands.command()
    def go() -> int | None:
        if isinstance(effect, BaseException):
            raise effect
        return effect

    return commands


@pytest.mark.parametrize(
    ("effect", "code", "says"),
    [
        (None, Exit.OK, ""),
        (0, Exit.OK, ""),
        (7, 7, ""),
        (errors.OpencodeEventsError("no"), Exit.FAILED, "error: no\n"),
        (errors.OpencodeEventsError("a\nb\x1b[2J\r\x85c"), Exit.FAILED, "error: a\nb\\x1b[2J\\r\\x85c\n"),
        (errors.SettingError("port", "is bad", source="--port"), Exit.USAGE, "error: port (--port): is bad\n"),
        (errors.DaemonError("taken"), Exit.FAILED, "error: taken\n"),
        (errors.DaemonError("there", exit_code=statedir.ALREADY_RUNNING), Exit.ALREADY_RUNNING, "error: there\n"),
        (errors.DaemonError("absent", exit_code=Exit.NOT_RUNNING), Exit.NOT_RUNNING, "error: absent\n"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
        (click.ClickException("what?"), Exit.FAILED, "Error: what?\n"),
    ],
    ids=["nothing", "0", "7", "any", "strange", "setting", "daemon", "running", "absent", "Ctrl-C", "click's own"],
)  # fmt: skip
def test_what_a_command_raises_becomes_a_sentence_and_a_code(
    runner: CliRunner, effect: BaseException | int | None, code: int, says: str
) -> None:
    result = runner.invoke(group(effect), ["go"])

    assert (result.exit_code, result.stderr, result.stdout) == (code, says, "")


def test_a_bug_is_not_made_a_sentence(runner: CliRunner) -> None:
    assert isinstance(runner.invoke(group(RuntimeError("bug")), ["go"]).exception, RuntimeError)


@pytest.mark.parametrize("where", ["docstring", "docs/cli.md"])
def test_every_exit_code_is_documented(where: str) -> None:
    text = exits.__doc__ if where == "docstring" else (ROOT / where).read_text()

    assert text is not None
    for code in Exit:
        assert f"| {code.value} |" in text


def test_every_command_has_help(runner: CliRunner) -> None:
    for name, command in main.commands.items():
        result = runner.invoke(main, [name, "--help"])

        assert result.exit_code == 0
        assert command.help, name


@pytest.mark.parametrize("words", [[], ["log"]], ids=["all", "log"])
def test_the_help_says_of_each_command_what_it_is_for(runner: CliRunner, words: list[str]) -> None:
    listed = main.commands["log"] if words else main
    assert isinstance(listed, click.Group)
    told = runner.invoke(main, [*words, "--help"], terminal_width=80).output.splitlines()

    for name, command in listed.commands.items():
        lines = [line for line in told if line.startswith(f"  {name} ")]
        assert len(lines) == (not command.hidden), name
        assert not any(line.endswith("...") for line in lines), lines


def test_the_documentation_names_every_command() -> None:
    text = (ROOT / "docs/cli.md").read_text()

    assert [name for name, command in main.commands.items() if not command.hidden and f"`{name}" not in text] == []


def test_the_version_is_the_packages(runner: CliRunner) -> None:
    assert runner.invoke(main, ["--version"]).output == f"opencode-events, version {__version__}\n"


def test_the_package_can_be_run() -> None:
    command = [sys.executable, "-m", "opencode_events", "--version"]

    assert subprocess.run(command, capture_output=True, check=True, timeout=30).stdout.startswith(b"opencode-events, ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion_script(runner: CliRunner, shell: str) -> None:
    result = runner.invoke(main, ["completion", shell])

    assert f"_OPENCODE_EVENTS_COMPLETE={shell}_complete" in result.output
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        ("opencode-events sta", {"start", "status"}),
        ("opencode-events run --log-l", {"--log-level"}),
        ("opencode-events run --log-level w", {"warning"}),
        ("opencode-events tail --sync ", {"all", "none", "only"}),
    ],
    ids=["commands", "options", "a setting's choices", "an option's choices"],
)
def test_a_shell_completes(runner: CliRunner, words: str, suggested: set[str]) -> None:
    env = {
        "_OPENCODE_EVENTS_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    result = runner.invoke(main, env=env, prog_name="opencode-events")

    assert {line.partition(",")[2] for line in result.output.splitlines()} == suggested


def test_the_page_of_settings_is_the_one_made_from_them(runner: CliRunner) -> None:
    result = runner.invoke(main, ["settings-table"])

    assert result.output == settings_table()
    assert (ROOT / "docs/settings.md").read_text() == settings_table(), (
        "run `opencode-events settings-table > docs/settings.md`"
    )
