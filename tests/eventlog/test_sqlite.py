"""The log in SQLite: the contract, what goes to its thread, and what a process that was killed leaves behind."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opencode_events.cursor import Cursor
from opencode_events.eventlog import database
from opencode_events.eventlog.base import Appended
from opencode_events.eventlog.sqlite import INLINE_BYTES, INLINE_EVENTS, SqliteLog
from opencode_events.settings import EventLogSettings
from tests.eventlog.contract import EventLogContract
from tests.eventlog.contract_lasting import LastingContract
from tests.eventlog.files import beside, copy_of, other
from tests.eventlog.steps import Clock, OpenLog, positions, put
from tests.samples import event, make, recorded, twin

OpenFile = Callable[..., SqliteLog]


class TestInMemory(EventLogContract):
    @pytest.fixture
    def open_log(self, clock: Clock) -> Iterator[OpenLog]:
        with contextlib.ExitStack() as stack:

            def opened(**changes: Any) -> SqliteLog:
                # There is nothing to be durable on.
                log = SqliteLog(None, EventLogSettings(durability="full", **changes), clock=clock)
                stack.callback(log.close)
                return log

            yield opened


class TestInAFile(EventLogContract, LastingContract):
    @pytest.fixture
    def open_log(self, open_file: OpenFile) -> OpenLog:
        return open_file


class TestInAFileThatOutlivesAPowerCut(EventLogContract, LastingContract):
    @pytest.fixture
    def open_log(self, open_file: OpenFile) -> OpenLog:
        def opened(**changes: Any) -> SqliteLog:
            return open_file(durability="full", **changes)

        return opened


# --- what is kept


async def test_a_recording_is_in_the_file_as_it_was_published(log: SqliteLog, path: Path) -> None:
    lines = [line for line in recorded() if b'"payload":{"id":"evt' in line and b'"type":"server.' not in line]
    await put(log, [make(line) for line in lines])
    log.close()

    with other(path) as db:
        rows = db.execute("SELECT position, envelope, payload_start, payload_end FROM event").fetchall()
    assert [envelope for _, envelope, _, _ in rows] == lines
    assert [position for position, _, _, _ in rows] == list(range(1, len(lines) + 1))
    assert [envelope[start:end] for _, envelope, start, end in rows] == [make(line).payload for line in lines]


async def test_what_filters_ask_for_is_kept_beside_them(log: SqliteLog, path: Path, clock: Clock) -> None:
    await put(log, [event(1, workspace="w"), twin(1, "a.b.7", session="agg", seq=3)])
    clock.now += 1.5
    await put(log, [event(2, directory=None, session=None)])
    log.close()

    with other(path) as db:
        rows = db.execute(
            "SELECT id, is_sync, type, directory, workspace, session, aggregate, seq, stored_ms FROM event"
        ).fetchall()
    assert rows == [
        ("evt_1", 0, "session.idle", "/srv/a", "w", "ses_1", None, None, 1_800_000_000_000),
        ("evt_1", 1, "a.b", "/srv/a", None, "agg", "agg", 3, 1_800_000_000_000),
        ("evt_2", 0, "session.idle", None, None, None, None, None, 1_800_000_001_500),
    ]


# --- the next start


async def test_a_start_that_was_killed_ends_where_its_events_do(log: SqliteLog, path: Path, tmp_path: Path) -> None:
    await put(log, [event(1)])
    await put(log, [event(2), event(3)])
    left = copy_of(path, tmp_path / "left")
    await put(log, [event(4)])

    again = SqliteLog(left, EventLogSettings())
    assert again.head == 3
    assert [again.is_known(Cursor(log.epoch, position)) for position in (2, 3, 4)] == [True, True, False]
    assert await put(again, [event(5)]) == [Appended(4, [event(5)], 0, again.epoch)]
    again.close()


async def test_memory_keeps_nothing() -> None:
    first = SqliteLog(None, EventLogSettings())
    await put(first, [event(1)])
    first.close()
    second = SqliteLog(None, EventLogSettings())

    assert second.head == 0
    assert not second.is_known(Cursor(first.epoch, 0))
    second.close()


def test_a_file_is_found_through_a_link(path: Path, tmp_path: Path, open_file: OpenFile) -> None:
    """SQLite has the WAL beside what the link leads to."""
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "log")
    log = open_file()
    assert log.append_nowait([[event(1)]]) is not None
    log.close()

    assert path.is_symlink()
    again = open_file()
    assert (again.head, again.epoch != log.epoch) == (1, True)


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
def test_many_events_are_declined_on_the_loop(log: SqliteLog, counts: list[int], is_taken: bool) -> None:
    numbers = iter(range(1000))
    found = log.append_nowait([[event(next(numbers)) for _ in range(count)] for count in counts])

    assert (found is not None) is is_taken
    assert log.head == (sum(counts) if is_taken else 0)


@pytest.mark.parametrize(("more", "is_taken"), [(0, True), (1, False)], ids=["as much as may", "one byte more"])
def test_many_bytes_are_declined_on_the_loop(log: SqliteLog, more: int, is_taken: bool) -> None:
    one = event(1)
    other_one = event(2, pad=INLINE_BYTES - len(one.envelope) - len(event(2).envelope) + more)

    assert (log.append_nowait([[one], [other_one]]) is not None) is is_taken


async def test_what_must_outlive_a_power_cut_is_declined_on_the_loop(open_file: OpenFile) -> None:
    log = open_file(durability="full")

    assert log.append_nowait([[event(1)]]) is None
    assert await log.append([[event(1)]]) == [Appended(1, [event(1)], 0, log.epoch)]
    assert log.statistics()["durability"] == "full"


async def test_the_wal_does_not_grow_without_bound(log: SqliteLog, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many bytes a commit goes to the thread, which then brings the pages home."""
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 512 * 1024)
    wal = beside(path, "-wal")
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


async def test_trimming_counts_for_the_wal_too(
    open_file: OpenFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 512 * 1024)
    log, largest = open_file(log_max_events=20), 0
    for number in range(100):
        batch = [[event(number, pad=60_000)]]
        assert log.append_nowait(batch) or await log.append(batch)
        await log.maintain()
        largest = max(largest, beside(path, "-wal").stat().st_size)

    assert log.oldest == 81
    assert largest < 2 * 1024 * 1024


async def test_a_checkpoint_that_is_due_needs_nobody_to_publish(log: SqliteLog) -> None:
    log._database.written = database.CHECKPOINT_BYTES + 1
    assert log.append_nowait([[event(1)]]) is None
    await log.maintain()

    assert log._database.written == 0
    assert log.append_nowait([[event(1)]]) == [Appended(1, [event(1)], 0, log.epoch)]


async def test_a_reader_elsewhere_delays_a_checkpoint_and_fails_nothing(
    log: SqliteLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 64 * 1024)
    await put(log, [event(0)])
    with other(path) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM event").fetchone() == (1,)
        for number in range(1, 20):
            batch = [[event(number, pad=30_000)]]
            assert log.append_nowait(batch) or await log.append(batch)

    assert log.head == 20
    assert await positions(log) == list(range(1, 21))


# --- what is told


async def test_statistics_name_the_file_and_what_is_in_it(log: SqliteLog, path: Path) -> None:
    found = log.statistics()
    used = found.pop("used_bytes")
    assert found == {
        "path": str(path),
        "epoch": log.epoch,
        "head": 0,
        "oldest": 1,
        "events": 0,
        "durability": "normal",
    }
    await put(log, [event(1, pad=500_000)])
    await log.maintain()

    assert isinstance(used, int)
    assert used + 490_000 < int(str(log.statistics()["used_bytes"])) < used + 520_000


def test_statistics_name_memory_by_sqlites_name_for_it() -> None:
    log = SqliteLog(None, EventLogSettings())
    assert log.statistics()["path"] == ":memory:"
    log.close()


async def test_another_program_s_trimming_is_found_out(log: SqliteLog, path: Path) -> None:
    await put(log, [event(number) for number in range(5)])
    with other(path) as db:
        db.execute("DELETE FROM event WHERE position <= 3")
    await log.maintain()

    assert log.oldest == 4
    assert await positions(log, 3) == [4, 5]
