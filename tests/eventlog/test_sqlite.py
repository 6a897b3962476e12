"""The log in SQLite: the contract, what outlives the process, and what goes to its thread."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from opencode_events.cursor import Cursor
from opencode_events.eventlog import sqlite
from opencode_events.eventlog.base import Appended, EventLog
from opencode_events.eventlog.sqlite import INLINE_BYTES, INLINE_EVENTS, SqliteLog
from opencode_events.settings import EventLogSettings
from tests.eventlog.contract import EventLogContract
from tests.eventlog.files import other
from tests.samples import event, make, recorded, twin

NORMAL, FULL = EventLogSettings(), EventLogSettings(durability="full")


class TestInMemory(EventLogContract):
    @pytest.fixture
    def log(self) -> Iterator[EventLog]:
        log = SqliteLog(None, FULL)  # there is nothing to be durable on
        yield log
        log.close()


class TestInAFile(EventLogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[EventLog]:
        log = SqliteLog(tmp_path / "events.sqlite3", NORMAL)
        yield log
        log.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


# --- what is kept


def test_the_bytes_are_kept_as_they_were_published(path: Path) -> None:
    lines = [line for line in recorded() if b'"payload":{"id":"evt' in line and b'"type":"server.' not in line]
    lines.append(b'{"payload":{"id":"x","type":"a","properties":{"t":"\\u0000\\ud800\xf0\x9f\x98\x80\xe2\x80\xa8"}}}')
    log = SqliteLog(path, NORMAL)
    log.append_nowait([[make(line) for line in lines]])
    log.close()

    with other(path) as db:
        rows = db.execute("SELECT position, envelope, payload_start, payload_end FROM event").fetchall()
    assert [envelope for _, envelope, _, _ in rows] == lines
    assert [position for position, _, _, _ in rows] == list(range(1, len(lines) + 1))
    assert [envelope[start:end] for _, envelope, start, end in rows] == [make(line).payload for line in lines]


def test_what_filters_ask_for_is_kept_beside_them(path: Path) -> None:
    log = SqliteLog(path, NORMAL)
    log.append_nowait(
        [[event(1, workspace="w"), twin(1, "a.b.7", session="agg"), event(2, directory=None, session=None)]]
    )
    log.close()

    with other(path) as db:
        rows = db.execute("SELECT id, is_sync, type, directory, workspace, session FROM event").fetchall()
    assert rows == [
        ("evt_1", 0, "session.idle", "/srv/a", "w", "ses_1"),
        ("evt_1", 1, "a.b", "/srv/a", None, "agg"),
        ("evt_2", 0, "session.idle", None, None, None),
    ]


def test_a_text_with_a_nul_is_told_from_one_without(path: Path) -> None:
    log = SqliteLog(path, NORMAL)
    one, another = event(1)._replace(id="a\0b"), event(2)._replace(id="a")

    assert log.append_nowait([[one, another, one]]) == [Appended(1, [one, another], 1)]
    log.close()


# --- the next start


def test_the_next_start_goes_on_where_the_last_one_ended(path: Path) -> None:
    first = SqliteLog(path, NORMAL)
    first.append_nowait([[event(1), event(2)]])
    first.close()
    second = SqliteLog(path, NORMAL)

    assert second.head == 2
    assert second.epoch != first.epoch
    assert second.append_nowait([[event(1), event(2), event(3)]]) == [Appended(3, [event(3)], 2)]
    second.close()


def test_an_earlier_start_s_cursors_are_good_within_its_bounds(path: Path) -> None:
    logs = []
    for numbers in ([1, 2], [], [3]):
        logs.append(SqliteLog(path, NORMAL))
        logs[-1].append_nowait([[event(number) for number in numbers]])
        logs[-1].close()
    last = SqliteLog(path, NORMAL)
    known = [[position for position in range(6) if last.is_known(Cursor(log.epoch, position))] for log in (*logs, last)]

    assert known == [[0, 1, 2], [2], [2, 3], [3]]
    last.append_nowait([[event(4)]])
    assert last.is_known(Cursor(last.epoch, 4))
    assert not last.is_known(Cursor(logs[2].epoch, 4))
    last.close()


def test_a_start_that_was_killed_ends_where_its_events_do(path: Path, tmp_path: Path) -> None:
    """The files are copied while the log is open: what a process that is killed leaves behind."""
    killed = SqliteLog(path, NORMAL)
    killed.append_nowait([[event(1)]])
    killed.append_nowait([[event(2), event(3)]])
    (tmp_path / "left").mkdir()
    for part in tmp_path.glob("events.sqlite3*"):
        (tmp_path / "left" / part.name).write_bytes(part.read_bytes())
    killed.append_nowait([[event(4)]])
    killed.close()

    log = SqliteLog(tmp_path / "left" / path.name, NORMAL)
    assert log.head == 3
    assert [log.is_known(Cursor(killed.epoch, position)) for position in (2, 3, 4)] == [True, True, False]
    log.close()


def test_memory_keeps_nothing() -> None:
    first = SqliteLog(None, NORMAL)
    first.append_nowait([[event(1)]])
    first.close()
    second = SqliteLog(None, NORMAL)

    assert second.head == 0
    assert not second.is_known(Cursor(first.epoch, 0))
    second.close()


# --- what goes to the thread


@pytest.mark.parametrize(
    ("counts", "is_taken"),
    [
        ([INLINE_EVENTS], True),
        ([INLINE_EVENTS + 1], False),
        ([INLINE_EVENTS - 1, 1], True),
        ([INLINE_EVENTS, 1], False),
    ],
    ids=["as many as may", "one more", "in two batches", "one more in two batches"],
)
def test_many_events_are_declined_on_the_loop(path: Path, counts: list[int], is_taken: bool) -> None:
    log = SqliteLog(path, NORMAL)
    numbers = iter(range(1000))
    found = log.append_nowait([[event(next(numbers)) for _ in range(count)] for count in counts])

    assert (found is not None) is is_taken
    assert log.head == (sum(counts) if is_taken else 0)
    log.close()


@pytest.mark.parametrize(("more", "is_taken"), [(0, True), (1, False)], ids=["as much as may", "one byte more"])
def test_many_bytes_are_declined_on_the_loop(path: Path, more: int, is_taken: bool) -> None:
    log = SqliteLog(path, NORMAL)
    one = event(1)
    other_one = event(2, pad=INLINE_BYTES - len(one.envelope) - len(event(2).envelope) + more)

    assert (log.append_nowait([[one], [other_one]]) is not None) is is_taken
    log.close()


async def test_what_must_outlive_a_power_cut_is_declined_on_the_loop(path: Path) -> None:
    log = SqliteLog(path, FULL)

    assert log.append_nowait([[event(1)]]) is None
    assert await log.append([[event(1)]]) == [Appended(1, [event(1)], 0)]
    assert log.statistics()["durability"] == "full"
    log.close()


async def test_the_wal_does_not_grow_without_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many bytes a commit goes to the thread, which then brings the pages home."""
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 512 * 1024)
    log, wal = SqliteLog(path, NORMAL), path.with_name(path.name + "-wal")
    declined = largest = 0
    for number in range(200):
        batch = [[event(number, pad=60_000)]]
        if log.append_nowait(batch) is None:
            declined += 1
            await log.append(batch)
        largest = max(largest, wal.stat().st_size)

    assert log.head == 200  # 12 MB
    assert 15 <= declined <= 25
    assert largest < 1024 * 1024
    log.close()
    assert not wal.exists()


async def test_a_reader_elsewhere_delays_a_checkpoint_and_fails_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 64 * 1024)
    log = SqliteLog(path, NORMAL)
    log.append_nowait([[event(0)]])
    with other(path) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM event").fetchone() == (1,)
        for number in range(1, 20):
            batch = [[event(number, pad=30_000)]]
            assert log.append_nowait(batch) or await log.append(batch)

    assert log.head == 20
    log.close()


def test_statistics_name_the_file(path: Path) -> None:
    log = SqliteLog(path, NORMAL)
    assert log.statistics() == {"path": str(path), "epoch": log.epoch, "head": 0, "durability": "normal"}
    log.close()
    log = SqliteLog(None, NORMAL)
    assert log.statistics()["path"] == ":memory:"
    log.close()
