"""A log that cannot be written says so, keeps what it has and goes on when it can; one that cannot open says why."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from opencode_events.errors import DaemonError, LogUnavailable
from opencode_events.eventlog.base import Appended
from opencode_events.eventlog.sqlite import SCHEMA_VERSION, SqliteLog
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings
from tests.eventlog.files import other
from tests.samples import event

NORMAL = EventLogSettings()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
def log(path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(path, NORMAL)
    log.append_nowait([[event(1)]])
    yield log
    log.close()


def refuse(path: Path, how: str) -> None:
    """Have SQLite fail at evt_bad: `how` is what it does then with the transaction."""
    with other(path) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON event WHEN new.id = 'evt_bad' "
            f"BEGIN SELECT raise({how}, 'no room'); END"
        )


BAD = event(9)._replace(id="evt_bad")


# --- writing


@pytest.mark.parametrize("how", ["ABORT", "FAIL", "ROLLBACK"])
@pytest.mark.parametrize(
    "batches",
    [[[BAD]], [[event(2), BAD]], [[event(2)], [event(3), BAD, event(4)]], [[event(2)], [event(1), BAD]]],
    ids=["alone", "behind another", "in the second batch", "behind a duplicate"],
)
async def test_all_of_a_commit_has_its_place_or_nothing_has(
    log: SqliteLog, path: Path, how: str, batches: list[list[Event]]
) -> None:
    refuse(path, how)
    with pytest.raises(LogUnavailable, match="no room"):
        log.append_nowait(batches)
    with pytest.raises(LogUnavailable, match="no room"):
        await log.append(batches)
    assert log.head == 1

    assert log.append_nowait([[event(2)], [event(3)]]) == [Appended(2, [event(2)], 0), Appended(3, [event(3)], 0)]
    log.close()
    again = SqliteLog(path, NORMAL)
    assert again.head == 3
    again.close()


def test_a_full_disk_refuses_and_what_is_there_stays(log: SqliteLog, path: Path) -> None:
    """SQLite's own limit of pages stands for the disk's: it is reached in the middle of a commit."""
    db = log._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(LogUnavailable, match="full"):
        log.append_nowait([[event(2), event(3, pad=100_000)], [event(4)]])
    assert log.head == 1

    assert log.append_nowait([[event(2)]]) == [Appended(2, [event(2)], 0)]
    db.execute("PRAGMA max_page_count = 100000")
    assert log.append_nowait([[event(3, pad=100_000)]]) == [Appended(3, [event(3, pad=100_000)], 0)]


@pytest.mark.parametrize("count", [1, 2], ids=["alone", "with another"])
def test_a_file_locked_by_somebody_else_refuses_at_once_until_it_is_free(
    log: SqliteLog, path: Path, count: int
) -> None:
    events = [event(number) for number in range(2, 2 + count)]
    with other(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="locked"):
            log.append_nowait([events])
        db.execute("ROLLBACK")

    assert log.append_nowait([events]) == [Appended(2, events, 0)]


def test_events_that_somebody_else_wrote_are_not_written_over(log: SqliteLog, path: Path) -> None:
    with other(path) as db:
        db.execute("INSERT INTO event SELECT 2, 'evt_x', is_sync, type, NULL, NULL, NULL, 0, 0, envelope FROM event")

    for batch in ([event(2)], [event(2), event(3)]):
        with pytest.raises(LogUnavailable):
            log.append_nowait([batch])
    assert log.head == 1


async def test_closing_waits_for_the_append_that_is_under_way(path: Path) -> None:
    log = SqliteLog(path, NORMAL)
    appending = asyncio.ensure_future(log.append([[event(number) for number in range(5000)]]))
    await asyncio.sleep(0)
    log.close()

    assert (await appending)[0].first == 1
    again = SqliteLog(path, NORMAL)
    assert again.head == 5000
    again.close()


# --- opening


def test_a_newer_schema_is_refused(path: Path) -> None:
    SqliteLog(path, NORMAL).close()
    with other(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    with pytest.raises(DaemonError, match=rf"has schema {SCHEMA_VERSION + 1}; this version knows {SCHEMA_VERSION}"):
        SqliteLog(path, NORMAL)


def test_another_programs_database_is_refused_and_stays_as_it_is(path: Path) -> None:
    with other(path) as db:
        db.execute("CREATE TABLE theirs (a)")

    with pytest.raises(DaemonError, match="is another program's database"):
        SqliteLog(path, NORMAL)
    with other(path) as db:
        assert [name for (name,) in db.execute("SELECT name FROM sqlite_master")] == ["theirs"]


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DaemonError, match="cannot be opened"):
        SqliteLog(path, NORMAL)

    assert path.read_bytes() == content


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="cannot be opened"):
        SqliteLog(tmp_path / "nowhere" / "events.sqlite3", NORMAL)
    with pytest.raises(DaemonError, match="cannot be opened"):
        SqliteLog(tmp_path, NORMAL)


def test_a_log_that_is_locked_is_refused(path: Path) -> None:
    SqliteLog(path, NORMAL).close()
    with other(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(DaemonError, match="locked"):
            SqliteLog(path, NORMAL)


def test_what_cannot_be_opened_is_not_kept_open(path: Path) -> None:
    """Who alone has a file open may change its journal; the error holds the log that failed."""
    SqliteLog(path, NORMAL).close()
    with other(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(DaemonError) as refused:
        SqliteLog(path, NORMAL)

    with other(path) as db:
        assert db.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    assert refused.value.exit_code == 1
