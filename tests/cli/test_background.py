"""A real daemon in the background: started, found, refused a second time, stopped, and killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from click.testing import CliRunner

from opencode_events import statedir
from opencode_events.cli import background
from opencode_events.cli.background import child_arguments
from opencode_events.cli.main import main
from opencode_events.statedir import DaemonInfo, StateDir

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs commands as a person would, on one state directory and on whatever port is free."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.env = os.environ | {
            "OPENCODE_EVENTS_STATE_DIR": str(state_dir),
            "OPENCODE_EVENTS_PORT": "0",
            "PYTHONPATH": str(ROOT),
        }

    def __call__(self, *arguments: str, cwd: Path = ROOT, code: int = 0) -> str:
        """Run one command; return what it printed, once its exit code is the one expected."""
        command = [sys.executable, "-P", "-m", "opencode_events", *arguments]
        done = subprocess.run(
            command,
            env=self.env,
            cwd=cwd,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def daemon(self) -> DaemonInfo:
        """Return the daemon that runs."""
        info = statedir.read(self.state_dir)
        assert info is not None
        return info


@pytest.fixture
def shell(state_dir: Path) -> Iterator[Shell]:
    """A shell whose daemon, if there is one at the end, is killed."""
    yield Shell(state_dir)
    pid = statedir.holder_pid(state_dir)
    if pid is not None and pid != os.getpid():
        os.kill(pid, signal.SIGKILL)
        until(lambda: not statedir.is_held(state_dir))


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_day_in_the_life_of_a_daemon(shell: Shell) -> None:
    said = shell("start", "--log-level=debug", "--no-uvloop", "--drain-s", "0.5")
    info = shell.daemon()
    assert said == f"started: pid {info.pid} at {info.url}, log in {shell.state_dir / 'daemon.log'}\n"
    with urlopen(f"{info.url}/-/healthy", timeout=10) as response:
        assert response.status == 200
    assert os.getsid(info.pid) == info.pid, "it has left the terminal"
    assert (shell.state_dir / "daemon.log").read_text().count("daemon.started") == 1

    assert json.loads(shell("status", "--json"))["pid"] == info.pid
    assert shell("status").startswith(info.url)

    assert f"already running: pid {info.pid} at {info.url}" in shell("start", code=3)
    assert f"already running: pid {info.pid} at {info.url}" in shell("run", code=3)
    assert shell.daemon() == info, "the refused ones did no harm"

    assert shell("stop") == f"stopped: pid {info.pid}\n"
    assert not (shell.state_dir / "daemon.json").exists()
    assert "not running" in shell("stop", code=4)
    assert "not running" in shell("status", code=4)


def test_what_is_published_is_seen_by_tail(shell: Shell, tmp_path: Path) -> None:
    shell("start")
    command = [sys.executable, "-m", "opencode_events", "tail", "--json", "--control", "--count=3", "--directory=/a"]
    with subprocess.Popen(command, env=shell.env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert json.loads(tail.stdout.readline())["type"] == "server.connected"

        recording = tmp_path / "recording"
        recording.write_text(
            'id: 1\ndata: {"directory":"/a","payload":{"type":"t","properties":{"n":1}}}\n\n'
            'data: {"payload":{"type":"server.heartbeat","properties":{}}}\n\n'
            'data: {"directory":"/b","payload":{"type":"t","properties":{"n":2}}}\n\n'
        )
        assert shell("publish", str(recording)).startswith("2 accepted, 0 duplicates, 1 skipped: ")
        ident, cursor = shell("publish", "--directory=/a", "--type=t", '--properties={"n":3}').split()
        refused = tmp_path / "refused"
        refused.write_text('data: {"type":"t","properties":{"n":4}}\n\ndata: {"type":5}\n\n')
        assert "error: line 3: type: " in shell("publish", "--directory=/a", str(refused), code=1)

        events = [json.loads(line) for line in tail.stdout if "server." not in line]
        assert tail.wait(20) == 0

    assert [event["properties"]["n"] for event in events] == [1, 3, 4]
    assert events[1]["id"] == ident
    assert "-" in cursor


def test_a_killed_daemon_is_recognised_and_its_file_removed(shell: Shell) -> None:
    shell("start")
    os.kill(shell.daemon().pid, signal.SIGKILL)
    until(lambda: not statedir.is_held(shell.state_dir))
    assert (shell.state_dir / "daemon.json").exists()

    assert "not running" in shell("status", code=4)
    assert "daemon.json was removed" in shell("stop", code=4)
    assert not (shell.state_dir / "daemon.json").exists()
    assert shell("start").startswith("started: ")


def test_restart_is_another_daemon_and_starts_one_where_there_is_none(shell: Shell) -> None:
    shell("restart")
    first = shell.daemon()

    assert "error: port" in shell("restart", "--port=many", code=2)
    assert "error: tokens_file" in shell("restart", "--tokens-file=/nonexistent", code=2)
    assert "error: host" in shell("restart", "--host=0.0.0.0", code=2)
    assert shell.daemon() == first, "a bad setting is told before anything is stopped"

    said = shell("restart", "--drain-s=1")
    assert said.startswith(f"stopped: pid {first.pid}\nstarted: pid {shell.daemon().pid} ")
    assert shell.daemon().pid != first.pid


def test_a_port_that_is_taken_is_told_by_start(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        said = shell("start", f"--port={port}", code=1)

    assert "ended with exit code 1; its last words:\n" in said
    assert str(port) in said
    assert not statedir.is_held(shell.state_dir)


def test_a_daemon_that_does_not_answer_in_time_is_not_left_behind(shell: Shell) -> None:
    said = shell("start", "--timeout=0", code=1)

    assert "did not answer within 0 s" in said
    assert not statedir.is_held(shell.state_dir)


def test_a_state_directory_that_cannot_be_used_is_told_in_one_line(shell: Shell) -> None:
    shell.state_dir.write_text("")

    for command in ("start", "run"):
        said = shell(command, code=1)
        assert said.startswith(f"error: the state directory {shell.state_dir} cannot be used: ")
        assert said.count("\n") == 1


def test_modules_in_the_current_directory_do_not_become_part_of_the_daemon(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "here.toml").write_text("drain_s = 1\n")

    assert shell("start", "--config=here.toml", cwd=tmp_path).startswith("started: ")


def test_stop_waits_for_readers_and_now_does_not(shell: Shell, tmp_path: Path) -> None:
    shell("start", "--drain-s=60", "--close-flush-s=60")
    address = urlsplit(shell.daemon().url)
    assert address.hostname is not None
    assert address.port is not None
    recording = tmp_path / "large"
    line = json.dumps({"payload": {"type": "t", "properties": {"text": "x" * 1_000_000}}})
    recording.write_text(f"{line}\n" * 12)
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((address.hostname, address.port))
        stuck.sendall(b"GET /global/event HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stuck.recv(12) == b"HTTP/1.1 200"
        shell("publish", str(recording))

        said = shell("stop", "--timeout=0.5", code=1)
        assert "has not ended within 0.5 s" in said
        assert statedir.is_held(shell.state_dir)

        assert shell("stop", "--now", "--timeout=15").startswith("stopped: ")


def test_a_log_file_that_was_chosen_is_used(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "chosen.log"

    said = shell("start", f"--log-file={file}")

    assert said.endswith(f"log in {file}\n")
    assert "daemon.started" in file.read_text()
    assert not (shell.state_dir / "daemon.log").exists()


def test_stop_signals_a_daemon_that_has_not_announced_itself(
    runner: CliRunner, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StateDir(state_dir) as state:

        def end(pid: int) -> None:
            assert pid == os.getpid()
            state.__exit__(None, None, None)

        monkeypatch.setattr(background, "_signal", end)
        result = runner.invoke(main, ["stop"])

    assert (result.output, result.exit_code) == (f"stopped: pid {os.getpid()}\n", 0)


def test_stop_finds_a_daemon_though_another_setting_is_spoiled(
    runner: CliRunner, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_EVENTS_PORT", "spoiled")

    assert runner.invoke(main, ["stop"]).exit_code == 4


def test_flags_are_passed_on_as_they_were_given() -> None:
    flags = {"port": "5", "host": None, "takeover": False, "uvloop": True, "log_file": "", "state_dir": "-x y"}

    assert child_arguments(Path("c.toml"), flags) == [
        "--config=c.toml",
        "--port=5",
        "--no-takeover",
        "--uvloop",
        "--log-file=",
        "--state-dir=-x y",
    ]


def test_a_daemon_whose_certificate_only_its_settings_know_is_seen_to_answer(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'tls_cert = "{ROOT / "tests/data/localhost.pem"}"\n')

    assert "started: pid " in shell("start", f"--config={file}")
    assert "at https://127.0.0.1:" in shell("restart", f"--config={file}")

    shell("stop", "--now")


@pytest.mark.parametrize("seconds", ["nan", "inf"])
def test_seconds_are_a_number(shell: Shell, seconds: str) -> None:
    assert f"'{seconds}' is no number of seconds" in shell("stop", f"--drain={seconds}", code=2)
