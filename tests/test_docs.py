"""The docs are true: their commands run, what they show is what comes, their links resolve, and they leave out nothing
that a user can see.

An HTML comment before a fenced block, or alone, says what is done with it here:

    <!-- upstream -->    start a real opencode server, which the daemon will stand in front of; and so for its block:
    <!-- daemon -->      start a daemon; a ```sh block that follows is what a person would type for that
    <!-- run -->         run the ```sh block; it must succeed
    <!-- run NAME -->    leave it running, when it has subscribed, and call it NAME
    <!-- shows -->       what the last `run` printed, ids and the like aside; `...` in the first line is anything before
    <!-- shows NAME -->  what NAME has printed by now, or soon; the text may stand in the comment, to be checked unseen
    <!-- shape -->       the last `run` printed JSON with these members, of these types
    <!-- stop NAME -->   Ctrl-Z; `continue NAME` is fg

Each ```sh block has one of the first four. A block that is not to be run is ```console, ```text or the like.
"""

import ast
import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import click
import pytest

from opencode_events import configuration, errors, settings, statedir, wire
from opencode_events.broker.lifecycle import TOLD, Reason
from opencode_events.cli.main import main
from opencode_events.web.publish import ReceiptWithIds
from tests.real.opencode import Opencode
from tests.real.stub import Stub

ROOT = Path(__file__).parent.parent
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md")))}
SOURCES = sorted((ROOT / "opencode_events").rglob("*.py"))
TAIL_BYTES = 64 * 1024

# A comment, a block, or a comment with its block right below.
STEP = re.compile(
    r"^(?=<!-- (?:upstream|daemon|run|shows|shape|stop|continue)\b|```)"
    r"(?:<!-- (?P<action>\w+)(?: (?P<name>\w+))?(?:\n(?P<inside>.*?))? ?-->\n*)?"
    r"(?:```(?P<tag>\w*)\n(?P<body>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
# What differs from run to run, and what stands for it.
VOLATILE = (
    (r"\r\n", "\n"),
    (r"\b[0-9a-f]{10}-\d+\b", "CURSOR"),
    (r"\bevt_[0-9a-f]{12}[0-9A-Za-z]{14}\b", "evt_ID"),
    (r"^retry: \d{4}$", "retry: MS"),
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r"\bpid \d+\b", "pid N"),
    (r"^(Date|Server): .*$", r"\1: ..."),
    (r'"directory":"[^"]*/project"', '"directory":"PROJECT"'),
)


class Step(NamedTuple):
    """What a page says should be done, or should have come of it: `action` is the comment's, "" without one."""

    action: str
    name: str
    tag: str
    body: str


def read(page: str) -> str:
    return PAGES[page].read_text("utf-8")


def present(page: str) -> str:
    """Return a page without the sections that tell what is missing: names in them need not exist."""
    return re.sub(r"^##+ Not in this release$.*?(?=^## |\Z)", "", read(page), flags=re.DOTALL | re.MULTILINE)


def steps(text: str) -> Iterator[Step]:
    """Return a page's steps in order."""
    for found in STEP.finditer(text):
        action, name, inside, tag, body = (group or "" for group in found.groups())
        yield Step(action, name, tag, inside or body)


def eventually(condition: Callable[[], bool], within_s: float = 30.0) -> bool:
    """Ask until it holds; False when it has not in that time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def shape(value: Any) -> Any:
    """Return the members of a JSON value with their types in place of values."""
    if isinstance(value, dict):
        return {key: shape(member) for key, member in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return "number" if type(value) in (int, float) else type(value).__name__


class Reader:
    """Somebody who follows a page, in a home directory of their own and with the command in their path."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state_dir = home / ".local/state/opencode-events"
        self.printed = ""
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._upstream: Opencode | None = None
        self._behind = contextlib.ExitStack()
        command = home / "bin" / "opencode-events"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m opencode_events "$@"\n')
        command.chmod(0o755)
        self._environment = {
            "HOME": str(home),
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
            "no_proxy": "*",
            "OPENCODE_EVENTS_PORT": "0",
            "OPENCODE_EVENTS_HEARTBEAT_S": "3600",  # none between the frames that a page shows
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if statedir.is_held(self.state_dir):
            self.run("opencode-events stop --now")
        self._behind.close()

    def follow(self, step: Step) -> None:
        match step.action:
            case "upstream":
                self.start_upstream()
            case "daemon":
                self.start()
            case "run" if step.name:
                self.run_on(step.name, step.body)
            case "run":
                self.printed = self.run(step.body)
            case "shows" if step.name:
                eventually(lambda: self.agrees(self.output(step.name), step.body))
                self.expect(self.output(step.name), step.body)
            case "shows":
                self.expect(self.printed, step.body)
            case "shape":
                assert shape(json.loads(self.printed)) == shape(json.loads(step.body))
            case "stop":
                os.killpg(self._running[step.name].pid, signal.SIGSTOP)
            case "continue":
                os.killpg(self._running[step.name].pid, signal.SIGCONT)

    def start_upstream(self) -> None:
        model = self._behind.enter_context(Stub())
        self._upstream = Opencode(self.home / "opencode", model)
        self._behind.callback(self._upstream.close)
        self._upstream.start()

    def start(self) -> None:
        """Start the daemon, and wait until it is ready."""
        upstream = "" if self._upstream is None else f"--upstream {self._upstream.url}"
        self.run(f"opencode-events start {upstream}")
        assert eventually(lambda: self.ask("/-/ready")["ready"])

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.adapted(command)],
            env=self._environment, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_on(self, name: str, command: str) -> None:
        before = self.subscriptions()
        with self.file(name).open("wb") as out:
            self._running[name] = subprocess.Popen(
                ["bash", "-c", self.adapted(command)], env=self._environment, cwd=self.home,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        assert eventually(lambda: self.subscriptions() > before), f"{command} did not subscribe"

    def adapted(self, command: str) -> str:
        """Return a command as it is here: another port, and another place of the program."""
        command = command.replace(".venv/bin/opencode-events", "opencode-events")
        return command.replace("http://127.0.0.1:4097", self.url())

    def url(self) -> str:
        found = statedir.read(self.state_dir)
        return "http://127.0.0.1:4097" if found is None else found.url

    def subscriptions(self) -> int:
        opened = self.ask("/-/status")["broker"]["subscribers_opened"]
        assert isinstance(opened, int)
        return opened

    def ask(self, path: str) -> Any:
        connection = http.client.HTTPConnection(urlsplit(self.url()).netloc, timeout=30)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def file(self, name: str) -> Path:
        return self.home / f"{name}.output"

    def output(self, name: str) -> str:
        with self.file(name).open("rb") as file:
            file.seek(max(0, self.file(name).stat().st_size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace")

    def normal(self, text: str) -> str:
        text = text.replace(str(self.home), "~")
        for pattern, replacement in VOLATILE:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        return text.rstrip("\n")

    def agrees(self, printed: str, shown: str) -> bool:
        have, want = self.normal(printed), self.normal(shown)
        return have.endswith(want.removeprefix("...")) if want.startswith("...\n") else have == want

    def expect(self, printed: str, shown: str) -> None:
        if not self.agrees(printed, shown):
            assert self.normal(printed) == self.normal(shown)


@pytest.mark.parametrize("page", [page for page in PAGES if any(step.action for step in steps(read(page)))])
def test_the_commands_of_a_page_do_what_it_shows(page: str, tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        for step in steps(read(page)):
            reader.follow(step)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_of_shell_commands_is_run(page: str) -> None:
    idle = [
        step.body for step in steps(read(page)) if step.tag == "sh" and step.action not in ("upstream", "daemon", "run")
    ]
    empty = [step for step in steps(read(page)) if step.action in ("run", "shows", "shape") and not step.body]

    assert not idle, "put <!-- run --> above it, or tag it console"
    assert not empty, "a comment without its block"


def slugs(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in HEADING.findall(CODE.sub("", text))}


@pytest.mark.parametrize("page", PAGES)
def test_a_link_within_the_repository_leads_somewhere(page: str) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", read(page))):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = PAGES[page].parent / path if path else PAGES[page]
        if not target.exists() or (anchor and anchor not in slugs(target.read_text("utf-8"))):
            broken.append(link)

    assert not broken


def every_command() -> dict[str, click.Command]:
    """Return all commands by what is typed for them: `tail`, and `log trim` of a group."""
    found: dict[str, click.Command] = dict(main.commands)
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": each for inner, each in command.commands.items()}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_command_that_is_shown_exists(page: str) -> None:
    code = "\n".join(CODE.findall(present(page))).replace(".venv/bin/opencode-events", "opencode-events")
    commands = set(re.findall(r"(?<![\w/-])opencode-events +([a-z][a-z-]*)", code))
    targets = set(re.findall(r"(?<!\S)`?make ([a-z]+)", code))
    options = set(re.findall(r"`(--[a-z][a-z-]*)", code))
    for line in re.findall(r"(?<![\w/-])opencode-events +[a-z].*", code):
        options |= set(re.findall(r"(?<!\S)(--[a-z][a-z-]*)", line.partition("|")[0]))

    parameters = [each for command in every_command().values() for each in command.params]
    known = {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    nested = {f"log {name}" for name in re.findall(r"(?:opencode-events +|`)log +([a-z]+)", code)}
    assert commands | nested <= every_command().keys()
    assert targets <= set(re.findall(r"^([a-z]+)(?: [a-z]+)?:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert options <= known | {"--help", "--no-"}


@pytest.mark.parametrize("page", PAGES)
def test_a_name_in_code_exists(page: str) -> None:
    """A setting, a member, a field: whatever is `snake_case` in the docs is so in the source too."""
    source = "\n".join(path.read_text("utf-8") for path in SOURCES)
    names = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", present(page))) - {"opencode_events", "proxy_read_timeout"}
    variables = set(re.findall(r"OPENCODE_EVENTS_([A-Z_]+)", present(page)))
    names = {name for name in names if not name.startswith(("opencode_events_", "process_"))}  # see test_metrics.py

    assert {name for name in names if not re.search(rf"\b{name}\b", source)} == set()
    assert {name.lower() for name in variables} <= settings.specs().keys() | configuration.NOT_SETTINGS


def test_every_command_is_told() -> None:
    visible = {name for name, command in every_command().items() if not command.hidden}

    assert {name for name in visible if f"`{name}`" not in read("docs/cli.md")} == set()


def test_every_setting_is_told() -> None:
    assert {name for name in settings.specs() if f"`{name}`" not in read("docs/settings.md")} == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    rows = [line for line in read("README.md").splitlines() if line.startswith("|")]

    names = [re.split(r"[<>=;~ ]", each)[0] for each in wanted]
    assert [name for name in names if not any(re.search(rf"(?<![\w-]){name}(?![\w-])", row) for row in rows)] == []


LEVELS = "debug|info|warning|error|exception"


def log_lines() -> dict[str, set[str]]:
    """Return the log events that the source has, with the fields that are given to them by name."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        # `tell = log.warning if ... else log.info` makes `tell` one of them.
        tellers = {
            ast.unparse(node.targets[0])
            for node in nodes
            if isinstance(node, ast.Assign) and re.search(rf"\blog\.({LEVELS})\b(?!\()", ast.unparse(node.value))
        }
        for node in nodes:
            match node:
                case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_], keywords=fields) if (
                    re.fullmatch(rf"log\.({LEVELS})", ast.unparse(func)) or ast.unparse(func) in tellers
                ):
                    found.setdefault(name, set()).update(field.arg for field in fields if field.arg)
    return found


def test_every_log_event_is_told_with_its_fields() -> None:
    section = read("docs/operations.md").partition("\n## Logs\n")[2].partition("\n### ")[0]
    rows = dict(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|(.*)$", section, re.MULTILINE))
    code = log_lines()

    assert rows.keys() == code.keys()
    assert {name: fields - set(re.findall(r"`(\w+)`", rows[name])) for name, fields in code.items()} == {
        name: set() for name in code
    }


def test_every_reason_for_an_end_is_told() -> None:
    assert {reason for reason in TOLD if f"| `{reason.value}` |" not in read("docs/protocol.md")} == set()
    assert {reason for reason in Reason if f"`{reason.value}`" not in read("docs/operations.md")} == set()


def test_every_control_frame_is_told() -> None:
    types = {value for value in vars(wire).values() if isinstance(value, str) and value.startswith("server.")}

    assert types
    assert {kind for kind in types if f"| `{kind}` |" not in read("docs/protocol.md")} == set()


def test_every_refusal_and_every_member_of_an_answer_is_told() -> None:
    titles, kinds = {"Not Found", "Method Not Allowed"}, [errors.RequestError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind is not errors.RequestError:
            titles.add(f"{kind.title}")
            assert f"| {kind.status} | `{kind.title}` |" in read("docs/protocol.md")
    problems = ast.parse((ROOT / "opencode_events/web/problems.py").read_text("utf-8"))
    for node in ast.walk(problems):
        match node:
            case ast.Call(func=ast.Name(id="problem"), args=[ast.Constant(), ast.Constant(value=str(title)), *_]):
                titles.add(title)

    assert {title for title in titles if f"`{title}` |" not in read("docs/protocol.md")} == set()
    assert {name for name in ReceiptWithIds.__struct_fields__ if f"`{name}`" not in read("docs/protocol.md")} == set()


def test_every_path_is_told() -> None:
    app = ast.parse((ROOT / "opencode_events/web/app.py").read_text("utf-8"))
    paths = {node.value for node in ast.walk(app) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    paths = {path for path in paths if re.fullmatch(r"/[a-z/-]+", path)}

    assert "/global/event" in paths
    assert {path for path in paths if path not in read("docs/protocol.md")} == set()


def test_every_member_of_the_statistics_is_told() -> None:
    """What the page shows is compared with the daemon's; here each member that is shown has its words."""
    pages = read("docs/operations.md") + read("docs/shield.md")
    shown = [json.loads(step.body) for step in steps(pages) if step.action == "shape"]
    names = set(members(shown)) - {"broker", "log"}

    assert "held_bytes_peak" in names
    told = "\n".join(line for line in read("docs/operations.md").splitlines() if line.startswith("|"))
    assert {name for name in names if f"`{name}`" not in told} == set()


def members(value: Any) -> Iterator[str]:
    """Return the names of all members in a JSON value."""
    if isinstance(value, dict):
        yield from value
        for member in value.values():
            yield from members(member)
    elif isinstance(value, list):
        for item in value:
            yield from members(item)
