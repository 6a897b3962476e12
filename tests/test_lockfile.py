"""What root makes in somebody's directory is theirs, and no link leads it elsewhere."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from opencode_events import lockfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from opencode_events.statedir import StateDir

SERVICE = 12_345


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


def status(*, owner: int, mode: int = stat.S_IFREG, links: int = 1) -> os.stat_result:
    return os.stat_result((mode, 0, 0, links, owner, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("directory", "found", "expected"),
    [
        (status(owner=SERVICE), status(owner=0), True),
        (status(owner=SERVICE), status(owner=SERVICE), False),
        (status(owner=SERVICE), status(owner=SERVICE + 1), False),
        (status(owner=0), status(owner=0), False),
        (status(owner=SERVICE), status(owner=0, mode=stat.S_IFLNK), False),
        (status(owner=SERVICE), status(owner=0, links=2), False),
    ],
    ids=["root's", "the service's", "another's", "in root's own", "a link", "with another name"],
)
def test_only_a_file_of_root_s_in_another_s_directory_is_given(
    directory: os.stat_result, found: os.stat_result, expected: bool
) -> None:
    assert lockfile.is_to_be_given(directory, found) is expected


if os.geteuid() == 0:  # nobody else can give files away

    def test_a_log_that_root_begins_is_the_service_s(directory: Path) -> None:
        with StateDir(directory):
            log = SqliteLog(directory / "log", EventLogSettings())
            names = {path.name for path in directory.iterdir()}
            assert names == {"daemon.lock", "log", "log-wal", "log-shm", "log.lock"}
            assert owners(directory) == {(SERVICE, SERVICE + 1)}
            log.close()

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
