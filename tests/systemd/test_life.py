"""A real daemon and its manager: what it says from start to end, and how it ends as it is asked to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events import statedir
from opencode_events.cli.main import main
from opencode_events.service import END_S
from tests.clients import Client, envelope, until
from tests.servers import Daemon
from tests.systemd.manager import Manager

StartDaemon = Callable[..., Daemon]
ROOT = Path(__file__).parents[2]


def stall(client: Client) -> None:
    """Leave a subscriber behind for whom more waits than the kernel takes."""
    client.stall()
    while not client.subscribers()[-1]["queued_events"]:
        client.publish(*(envelope(f"{time.monotonic_ns()}_{number}", pad="x" * 1_000) for number in range(1_000)))


def test_a_life_is_told_from_start_to_end(
    manager: Manager, start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")

    daemon = start_daemon(drain_s=3)
    assert manager.next() == ["READY=1", "STATUS=0 subscribers, 0 lagging"]
    manager.until("WATCHDOG=1")
    streams = [daemon.client.subscribe() for _ in range(2)]
    assert manager.until("STATUS=2 subscribers, 0 lagging")[-1][0] == "WATCHDOG=1"
    daemon.signal(signal.SIGHUP)
    assert manager.until("RELOADING=1")[-1][1].startswith("MONOTONIC_USEC=")
    manager.until("READY=1")
    daemon.signal(signal.SIGTERM)
    (*_, stopping) = manager.until("STOPPING=1")

    assert stopping[1:] == [
        f"EXTEND_TIMEOUT_USEC={int((3 + END_S) * 1_000_000)}", "STATUS=ending, 2 subscribers, 0 lagging",
    ]  # fmt: skip
    assert daemon.wait() == 0
    assert all(stream.rest()[-1].type == "server.stream.closing" for stream in streams)


def test_while_it_drains_the_watchdog_is_fed_and_ready_is_503(
    manager: Manager, start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon = start_daemon(drain_s=60)
    stall(daemon.client)
    kept = daemon.client.connect()
    kept.sendall(daemon.client.request("/-/ready"))
    assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")

    daemon.signal(signal.SIGTERM)
    manager.until("STOPPING=1")
    for _ in range(3):
        manager.until("WATCHDOG=1")
    kept.sendall(daemon.client.request("/-/ready"))

    answer = kept.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"the daemon is shutting down" in answer
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_a_process_that_hangs_says_nothing_and_goes_on_when_it_can(
    manager: Manager, start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon = start_daemon()
    manager.until("WATCHDOG=1")

    daemon.signal(signal.SIGSTOP)
    until(lambda: Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(") ")[2].startswith("T"))
    manager.waiting()
    time.sleep(0.4)  # the manager's whole time
    assert manager.waiting() == []

    daemon.signal(signal.SIGCONT)
    manager.until("WATCHDOG=1")
    assert daemon.stop() == 0


def test_stop_gives_as_long_as_it_says(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(drain_s=60)
    stall(daemon.client)

    began = time.monotonic()
    result = CliRunner().invoke(main, ["stop", f"--state-dir={daemon.state_dir}", "--drain=0.5"])

    assert result.output == f"stopped: pid {daemon.pid}\n"
    assert 0.5 <= time.monotonic() - began < 10
    (line,) = [line for line in daemon.lines() if line["event"] == "daemon.stopping"]
    assert line["drain_s"] == 0.5
    assert daemon.wait() == 0
    assert not list(daemon.state_dir.glob("*daemon.drain*"))


def test_a_time_that_was_meant_for_another_daemon_is_not_taken(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(drain_s=0.25)
    statedir.ask_drain(daemon.state_dir, daemon.pid + 1, 60)

    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    (line,) = [line for line in daemon.lines() if line["event"] == "daemon.stopping"]
    assert line["drain_s"] == 0.25


@pytest.mark.parametrize("is_used", [False, True], ids=["new", "used before"])
def test_a_state_directory_that_cannot_be_written_is_told_in_one_line(
    start_daemon: StartDaemon, tmp_path: Path, is_used: bool
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    if is_used:
        start_daemon().stop()
    state.chmod(0o555)
    # Root may write everywhere, unless it is taken away from it.
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    command = [*bound, sys.executable, "-m", "opencode_events", "run", "--port=0", f"--state-dir={state}"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    state.chmod(0o755)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert str(state) in done.stderr
