"""One daemon for one log, whichever state directories they have."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opencode_events.errors import DaemonError
from opencode_events.eventlog.claim import Claim
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.clients import envelope
from tests.servers import Daemon

ROOT = Path(__file__).parents[2]


def test_a_second_one_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = SqliteLog(path, EventLogSettings())

    with pytest.raises(DaemonError) as refusal:
        SqliteLog(path, EventLogSettings())

    assert str(refusal.value) == f"the event log {path} is in use by another process: pid {os.getpid()}"
    log.close()
    SqliteLog(path, EventLogSettings()).close()


def test_a_link_leads_to_the_same_log(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there/log")
    claim = Claim(tmp_path / "there/log")

    with pytest.raises(DaemonError, match="in use"):
        Claim(tmp_path / "link")

    claim.close()
    claim.close()
    Claim(tmp_path / "link").close()


def test_links_in_a_circle_lead_to_no_log(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    with pytest.raises(DaemonError, match=r"cannot be opened: .*Too many levels of symbolic links"):
        SqliteLog(tmp_path / "a", EventLogSettings())


def test_a_log_that_cannot_be_opened_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no database")

    for _ in range(2):
        with pytest.raises(DaemonError, match="cannot be opened"):
            SqliteLog(tmp_path / "log", EventLogSettings())

    (tmp_path / "log").unlink()
    SqliteLog(tmp_path / "log", EventLogSettings()).close()


def test_another_daemon_elsewhere_is_refused_in_one_line_and_the_first_one_goes_on(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    path = tmp_path / "shared.sqlite3"
    daemon = start_daemon(log_path=path)
    command = [
        sys.executable, "-m", "opencode_events", "run", "--port=0", f"--state-dir={tmp_path / 'other'}",
        f"--log-path={path}",
    ]  # fmt: skip

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert done.stderr == f"error: the event log {path} is in use by another process: pid {daemon.pid}\n"
    assert daemon.client.publish(envelope(1))["accepted"] == 1
