"""A log that cannot be written says so, keeps what it has and goes on when it can; one that cannot open says why."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from opencode_events.errors import DaemonError, LogUnavailable
from opencode_events.eventlog import database
from opencode_events.eventlog.base import Aggregate, Appended
from opencode_events.eventlog.schema import VERSION
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings
from tests.eventlog.files import deny, other
from tests.eventlog.steps import EVERYTHING, history, positions, put
from tests.samples import event, twin

NORMAL = EventLogSettings()
OpenFile = Callable[..., SqliteLog]


@pytest.fixture
def log(open_file: OpenFile) -> SqliteLog:
    """A log with one event."""
    log = open_file()
    log.append_nowait([[event(1)]])
    return log


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for another process for long."""
    monkeypatch.setattr(database, "BUSY_S", 0.02)


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
    log: SqliteLog, path: Path, open_file: OpenFile, how: str, batches: list[list[Event]]
) -> None:
    refuse(path, how)
    with pytest.raises(LogUnavailable, match="no room"):
        log.append_nowait(batches)
    with pytest.raises(LogUnavailable, match="no room"):
        await log.append(batches)
    assert log.head == 1

    assert await put(log, [event(2)], [event(3)]) == [
        Appended(2, [event(2)], 0, log.epoch),
        Appended(3, [event(3)], 0, log.epoch),
    ]
    log.close()
    assert open_file().head == 3


async def test_after_a_failure_nothing_is_tried_on_the_loop_until_something_works(log: SqliteLog, path: Path) -> None:
    """What failed may also take long."""
    refuse(path, "ABORT")
    with pytest.raises(LogUnavailable):
        log.append_nowait([[BAD]])
    assert log.append_nowait([[event(2)]]) is None
    assert await log.append([[event(2)]]) == [Appended(2, [event(2)], 0, log.epoch)]
    assert log.append_nowait([[event(3)]]) == [Appended(3, [event(3)], 0, log.epoch)]

    with pytest.raises(LogUnavailable):
        await log.append([[BAD]])
    assert log.append_nowait([[event(4)]]) is None
    assert await log.maintain() is False
    assert log.append_nowait([[event(4)]]) == [Appended(4, [event(4)], 0, log.epoch)]


async def test_a_full_disk_refuses_and_what_is_there_stays(log: SqliteLog, path: Path) -> None:
    """SQLite's own limit of pages stands for the disk's: it is reached in the middle of a commit."""
    db = log._database.writer
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(LogUnavailable, match="full"):
        log.append_nowait([[event(2), event(3, pad=100_000)], [event(4)]])
    assert log.head == 1

    assert await put(log, [event(2)]) == [Appended(2, [event(2)], 0, log.epoch)]
    db.execute("PRAGMA max_page_count = 100000")
    assert await put(log, [event(3, pad=100_000)]) == [Appended(3, [event(3, pad=100_000)], 0, log.epoch)]
    assert await positions(log) == [1, 2, 3]


async def test_what_cannot_be_learned_changes_nothing(log: SqliteLog, path: Path) -> None:
    await log.learn({"a": Aggregate(3)})
    with other(path) as db:
        db.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON aggregate WHEN new.id = 'bad' "
            "BEGIN SELECT raise(ABORT, 'no room'); END"
        )
    with pytest.raises(LogUnavailable, match="no room"):
        await log.learn({"a": Aggregate(9), "bad": Aggregate(1), "c": Aggregate(2)})
    assert log.append_nowait([[event(2)]]) is None

    assert await log.aggregates() == {"a": Aggregate(3)}
    await log.learn({"c": Aggregate(2)})
    assert await log.aggregates() == {"a": Aggregate(3), "c": Aggregate(2)}
    assert log.append_nowait([[event(2)]]) == [Appended(2, [event(2)], 0, log.epoch)]


async def test_a_first_lesson_that_fails_leaves_the_log_unlearned(log: SqliteLog, path: Path) -> None:
    with other(path) as db:
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON mark BEGIN SELECT raise(ABORT, 'no room'); END")
    with pytest.raises(LogUnavailable):
        await log.learn({"a": Aggregate(9)})

    assert await log.aggregates() is None


ONE, TWO, SEQUENCED = [event(2)], [event(2), event(3)], [twin(2, seq=5)]


@pytest.mark.parametrize("events", [ONE, TWO, SEQUENCED], ids=["alone", "with another", "a sync event"])
async def test_a_file_locked_by_somebody_else_is_waited_for_but_not_on_the_loop(
    log: SqliteLog, path: Path, events: list[Event]
) -> None:
    with other(path) as db:
        db.execute("BEGIN IMMEDIATE")
        assert log.append_nowait([events]) is None
        assert log.head == 1
        appending = asyncio.ensure_future(log.append([events]))
        await asyncio.sleep(0)
        db.execute("ROLLBACK")
        assert await appending == [Appended(2, events, 0, log.epoch)]


@pytest.mark.usefixtures("impatient")
async def test_a_file_that_stays_locked_refuses_until_it_is_free(log: SqliteLog, path: Path) -> None:
    with other(path) as db:
        db.execute("BEGIN IMMEDIATE")
        for batches in ([ONE], [TWO], [SEQUENCED]):
            with pytest.raises(LogUnavailable, match="locked"):
                await log.append(batches)
        with pytest.raises(LogUnavailable, match="locked"):
            await log.maintain()
        assert await positions(log) == [1]
        db.execute("ROLLBACK")

    assert await log.maintain() is False
    assert log.append_nowait([ONE]) == [Appended(2, ONE, 0, log.epoch)]


async def test_trimming_waits_for_somebody_else_too(open_file: OpenFile, path: Path) -> None:
    log = open_file(log_max_events=1)
    await put(log, [event(1), event(2)])
    with other(path) as db:
        db.execute("BEGIN IMMEDIATE")
        trimming = asyncio.ensure_future(log.maintain())
        await asyncio.sleep(0)
        db.execute("ROLLBACK")
        assert await trimming is True

    assert log.oldest == 2


async def test_events_that_somebody_else_wrote_are_not_written_over(log: SqliteLog, path: Path) -> None:
    with other(path) as db:
        db.execute("CREATE TEMP TABLE copy AS SELECT * FROM event")
        db.execute("UPDATE copy SET position = 2, id = 'evt_x'")
        db.execute("INSERT INTO event SELECT * FROM copy")

    for batch in ([event(2)], [event(2), event(3)]):
        with pytest.raises(LogUnavailable):
            await put(log, batch)
    assert log.head == 1
    page = await log.read(0, 2, EVERYTHING)
    assert [one.event.id for one in page.events] == ["evt_1", "evt_x"]


async def test_a_checkpoint_that_fails_fails_no_append(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 0)
    deny(log._database.writer, "wal_checkpoint")
    for number in range(2, 5):
        assert await put(log, [event(number)]) == [Appended(number, [event(number)], 0, log.epoch)]
        assert await log.maintain() is False


async def test_closing_waits_for_the_append_that_is_under_way(log: SqliteLog, open_file: OpenFile) -> None:
    events = [event(number) for number in range(2, 5000)]
    appending = asyncio.ensure_future(log.append([events]))
    await asyncio.sleep(0)
    log.close()

    assert await appending == [Appended(2, events, 0, log.epoch)]
    assert open_file().head == 4999


async def test_closing_waits_for_who_reads(log: SqliteLog) -> None:
    reading = asyncio.ensure_future(log.read(0, 1, EVERYTHING))
    await asyncio.sleep(0)
    log.close()

    assert [one.position for one in (await reading).events] == [1]


# --- reading


async def test_who_cannot_read_is_told_why(log: SqliteLog, path: Path) -> None:
    with other(path) as db:
        db.execute("ALTER TABLE event RENAME TO gone")
        db.execute("ALTER TABLE aggregate RENAME TO gone_too")

    with pytest.raises(LogUnavailable, match="no such table: event"):
        await log.read(0, 1, EVERYTHING)
    with pytest.raises(LogUnavailable, match="no such table: aggregate"):
        await history(log)


# --- opening


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


@pytest.mark.usefixtures("impatient")
def test_a_log_that_stays_locked_is_refused(path: Path) -> None:
    SqliteLog(path, NORMAL).close()
    with other(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(DaemonError, match="locked"):
            SqliteLog(path, NORMAL)


def test_what_cannot_be_opened_is_not_kept_open(path: Path) -> None:
    """Who alone has a file open may change its journal; the error holds the log that failed."""
    SqliteLog(path, NORMAL).close()
    with other(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(DaemonError) as refused:
        SqliteLog(path, NORMAL)

    with other(path) as db:
        assert db.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    assert refused.value.exit_code == 1
