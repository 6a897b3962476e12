"""`run` hands the settings over and says where the daemon is; `check-config` tells what is in force and why."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events import daemon, settings
from opencode_events.cli.main import main
from opencode_events.errors import DaemonError
from opencode_events.settings import Settings


def rows(output: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in output.splitlines()}


def test_every_setting_is_shown_with_where_it_came_from(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state_dir: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text("drain_s = 2\nport = 1\n")
    monkeypatch.setenv("OPENCODE_EVENTS_CONFIG", str(file))

    result = runner.invoke(main, ["check-config", "--port", "2", "--no-takeover"])

    shown = rows(result.output)
    assert shown.pop("setting") == ["value", "from"]
    assert shown.keys() == settings.specs().keys()
    assert shown["port"] == ["2", "--port"]
    assert shown["drain_s"] == ["2.0", str(file)]
    assert shown["state_dir"] == [str(state_dir), "OPENCODE_EVENTS_STATE_DIR"]
    assert shown["takeover"] == ["false", "--takeover"]
    assert shown["uvloop"] == ["true", "default"]
    assert shown["log_file"] == ["empty", "default"]
    assert result.exit_code == 0


def test_good_settings_may_be_passed_over_in_silence(runner: CliRunner) -> None:
    assert runner.invoke(main, ["check-config", "--quiet"]).output == ""
    assert "error: port" in runner.invoke(main, ["check-config", "--quiet", "--port=-1"]).output


@pytest.mark.parametrize("command", ["check-config", "run", "start", "restart"])
def test_a_bad_setting_is_named_and_is_2(runner: CliRunner, command: str) -> None:
    result = runner.invoke(main, [command, "--port", "many"])

    assert result.output == "error: port (--port): expects a whole number, not 'many'\n"
    assert result.exit_code == 2


@pytest.mark.parametrize("command", ["check-config", "run", "start", "restart", "stop", "status", "tail"])
def test_a_file_that_is_not_there_is_2(runner: CliRunner, command: str, tmp_path: Path) -> None:
    result = runner.invoke(main, [command, "--config", str(tmp_path / "absent")])

    assert result.output.startswith(f"error: config ({tmp_path / 'absent'}): cannot be read: ")
    assert result.exit_code == 2


def test_each_setting_has_an_option_with_its_reason_in_the_help(runner: CliRunner) -> None:
    text = " ".join(runner.invoke(main, ["run", "--help"], terminal_width=10_000).output.split())

    for spec in settings.specs().values():
        assert spec.flag in text
        assert " ".join(spec.reason.split()) in text.replace("- ", "-")
        assert spec.env in text


def test_run_gives_the_settings_to_the_daemon_and_says_where_it_answers(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []

    def fake(chosen: Settings, *, ready: Callable[[str], None] | None = None, **more: object) -> int:
        given.append(chosen)
        assert ready is not None
        ready("http://127.0.0.1:5")
        return 5

    monkeypatch.setattr(daemon, "run", fake)
    result = runner.invoke(main, ["run", "--port", "5", "--no-uvloop"])

    assert (given[0].server.port, given[0].server.uvloop) == (5, False)
    assert result.stderr.splitlines()[0].endswith(" listens on http://127.0.0.1:5")
    assert result.stderr.splitlines()[1] == "  curl -N http://127.0.0.1:5/global/event"
    assert result.stdout == ""
    assert result.exit_code == 5


def test_a_daemon_that_cannot_start_ends_with_its_code(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(chosen: Settings, *, ready: Callable[[str], None] | None = None, **more: object) -> int:
        raise DaemonError("the port is taken", exit_code=1)

    monkeypatch.setattr(daemon, "run", fake)
    result = runner.invoke(main, ["run"])

    assert (result.output, result.exit_code) == ("error: the port is taken\n", 1)
