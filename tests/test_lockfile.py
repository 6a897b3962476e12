"""What root makes in somebody's directory is theirs, and no link leads it elsewhere."""

import os
import sqlite3
from pathlib import Path

import pytest

from opencode_events import lockfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from opencode_events.statedir import StateDir

SERVICE = 12_345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of somebody else's, if this is root."""
    path = tmp_path / "state"
    path.mkdir(0o700)
    if os.geteuid() == 0:
        os.chown(path, SERVICE, SERVICE + 1)
    return path


def owners(directory: Path) -> set[tuple[int, int]]:
    return {(found.st_uid, found.st_gid) for found in (path.lstat() for path in directory.iterdir())}


@needs_root
def test_a_log_that_root_begins_is_the_service_s(directory: Path) -> None:
    with StateDir(directory):
        log = SqliteLog(directory / "log", EventLogSettings())
        names = {path.name for path in directory.iterdir()}
        assert names == {"daemon.lock", "log", "log-wal", "log-shm", "log.lock"}
        assert owners(directory) == {(SERVICE, SERVICE + 1)}
        log.close()


@needs_root
def test_a_log_that_root_opens_stays_the_service_s(directory: Path) -> None:
    sqlite3.connect(directory / "log").execute("PRAGMA user_version = 0").connection.close()
    os.chown(directory / "log", SERVICE, SERVICE + 1)

    SqliteLog(directory / "log", EventLogSettings()).close()

    assert owners(directory) == {(SERVICE, SERVICE + 1)}


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("root's own")
    (directory / "link").symlink_to(target)
    (directory / "dangling").symlink_to(tmp_path / "absent")

    for name in ("link", "dangling"):
        with pytest.raises(OSError, match="symbolic links"):
            lockfile.open_lock(directory / name)

    lockfile.give_to_owner(directory / "link")
    assert target.stat().st_uid == os.geteuid()
    assert target.read_text() == "root's own"
    assert not (tmp_path / "absent").exists()


def test_a_file_with_another_name_is_not_given_away(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    os.link(tmp_path / "target", directory / "name")

    lockfile.give_to_owner(directory / "name")

    assert (tmp_path / "target").stat().st_uid == os.geteuid()


def test_what_is_one_s_own_stays(tmp_path: Path) -> None:
    os.close(lockfile.open_lock(tmp_path / "lock"))
    os.close(lockfile.open_lock(tmp_path / "lock"))

    assert (tmp_path / "lock").stat().st_uid == os.geteuid()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
