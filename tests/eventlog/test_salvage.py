"""A file that was truncated: what can still be read is brought to a new one, and what cannot is counted."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from opencode_events.cursor import Cursor
from opencode_events.errors import OutOfSequence
from opencode_events.eventlog import rescue
from opencode_events.eventlog.base import Aggregate, Appended
from opencode_events.eventlog.database import Database
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings
from tests.eventlog.damage import Damage, cut_off_a_byte, cut_off_a_page, named, truncate_to_nothing, unlink
from tests.eventlog.files import beside, names_in, other, overwrite, size_of
from tests.eventlog.steps import history, positions, publish, put, read_all, settle
from tests.samples import event, twin

OpenFile = Callable[..., SqliteLog]


async def filled(opened: Callable[[], SqliteLog]) -> tuple[SqliteLog, list[Event]]:
    """Return a log of which most is home, the newest is in the WAL only, and little in SQLite's memory."""
    log = opened()
    made = await publish(log, range(60))
    log.close()
    log = opened()
    return log, made + await publish(log, range(60, 65))


async def check_salvaged(log: SqliteLog, before: list[Event], epoch: str) -> int:
    """See that every event of a damaged file is there as it was, or counted. Return the count."""
    with capture_logs() as logs:
        assert await put(log, [event(1000)]) == [Appended(131, [event(1000)], 0, log.epoch)]
    (told,) = [line for line in logs if line["event"] == "eventlog.rescued"]

    expected = dict(enumerate([*before, event(1000)], 1))
    found = {one.position: one.event for page in await read_all(log, log.oldest - 1) for one in page.events}
    assert found.items() <= expected.items()
    assert len(found) + told["unreadable_events"] == 131
    assert log.epoch != epoch
    assert all(log.is_known(log.cursor(position)) for position in found)
    assert not log.is_known(Cursor(epoch, 131))
    assert [row.seq for row in await history(log)] == [one.seq for one in found.values() if one.is_sync]
    assert log.append_nowait([[event(1001)]]) == [Appended(132, [event(1001)], 0, log.epoch)]
    return int(told["unreadable_events"])


def page_of(db: sqlite3.Connection, table: str) -> int:
    """Return the number of a table's root, from 1."""
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return int(root)


def page_at(path: Path, number: int, size: int) -> bytes:
    return path.read_bytes()[(number - 1) * size : number * size]


@pytest.mark.parametrize("damage", [truncate_to_nothing, cut_off_a_byte, cut_off_a_page], ids=named)
async def test_what_can_be_read_is_kept_and_the_rest_is_counted(
    path: Path, open_file: OpenFile, damage: Damage
) -> None:
    log, before = await filled(open_file)
    epoch = log.epoch
    damage(path)
    lost = await check_salvaged(log, before, epoch)

    assert lost in (range(100, 121) if damage is truncate_to_nothing else range(3))
    assert names_in(path.parent) == ["events.sqlite3", "events.sqlite3-shm", "events.sqlite3-wal"]
    log.close()
    again = open_file()
    assert again.head == 132
    assert again.is_known(Cursor(log.epoch, 132))
    assert damage is truncate_to_nothing or again.is_known(Cursor(epoch, 130))
    with other(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
async def test_wherever_it_is_cut_off_nothing_false_is_read(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    """Such as the end of a large event, of which the zeros of a page that is not there would be read."""
    directory = tmp_path_factory.mktemp("cut")
    path = directory / "log"
    log, before = await filled(lambda: SqliteLog(path, EventLogSettings()))
    os.truncate(path, int(size_of(path) * share))

    await check_salvaged(log, before, log.epoch)
    log.close()
    shutil.rmtree(directory)


async def test_a_text_whose_end_is_gone_is_not_read_as_zeros(path: Path, open_file: OpenFile) -> None:
    """SQLite itself sees nothing: the last of the pages that a large one spreads over has nothing but text."""
    log = open_file()
    await put(log, [event(1)], [event(2, pad=50_000)])
    log.close()
    log = open_file()
    cut_off_a_page(path)
    with capture_logs() as logs:
        await log.maintain()

    assert [line["unreadable_events"] for line in logs if "unreadable_events" in line] == [1]
    assert await positions(log) == [1]
    assert log.head == 2


async def test_a_damaged_file_that_was_unlinked_is_salvaged_too(path: Path, open_file: OpenFile) -> None:
    """What was written over is found when all is copied."""
    log, before = await filled(open_file)
    pages = size_of(path) // 4096
    overwrite(path, range(pages // 2, pages // 2 + 10), bytes(4096))
    unlink(path)

    assert 0 < await check_salvaged(log, before, log.epoch) < 60


async def test_rows_that_are_no_longer_what_may_be_in_a_table_are_counted(path: Path, tmp_path: Path) -> None:
    """As damage makes them, where SQLite does not see it."""
    database = Database(path, durable=False)
    database.writer.execute("DROP TABLE event")
    database.writer.execute("DROP TABLE aggregate")
    database.writer.execute("CREATE TABLE event (position INTEGER PRIMARY KEY, id, a, b, c, d, e, f, g, h, i, j, k)")
    database.writer.execute("CREATE TABLE aggregate (number, id, first, last, a, b, c, d)")
    for position, id_, size, envelope in [
        (1, "a", 2, b"{}"), (2, "b", "two", b"{}"), (3, None, 2, b"{}"), (4, "c", 2, None), (5, "d", 2, "text"),
        (6, "e", 2, b"{\0}"), (7, "a", 2, b"{}"), (9, "f", 2, b"{}"),
    ]:  # fmt: skip
        row = (position, id_, 0, "t", None, None, None, None, None, 0, 0, size, envelope)
        database.writer.execute(f"INSERT INTO event VALUES ({', '.join('?' * 13)})", row)
    database.writer.execute("INSERT INTO mark VALUES ('learned', 1)")
    for aggregate in [(1, "x", 0, 7), (2, "y", None, 3), (3, "z", 1, 2)]:
        database.writer.execute("INSERT INTO aggregate VALUES (?, ?, ?, ?, NULL, NULL, NULL, NULL)", aggregate)
    lost = rescue._salvage(database.writer, tmp_path / "draft", range(1, 10))
    database.close()

    with other(tmp_path / "draft") as db:
        kept = [position for (position,) in db.execute("SELECT position FROM event ORDER BY position")]
        assert db.execute("SELECT id FROM aggregate").fetchall() == [("x",), ("z",)]
        assert db.execute("SELECT * FROM mark").fetchall() == [("head", 9)]
    assert kept == [1, 9]
    assert lost == 6


async def test_what_was_trimmed_is_not_counted_as_lost(path: Path, open_file: OpenFile) -> None:
    log = open_file(log_max_events=50)
    await publish(log, range(60))
    await settle(log)
    log.close()
    log = open_file()
    truncate_to_nothing(path)
    with capture_logs() as logs:
        await put(log, [event(1000)])

    (lost,) = [line["unreadable_events"] for line in logs if "unreadable_events" in line]
    kept = await positions(log, log.oldest - 1)
    assert 40 < lost <= 50
    assert lost + len(kept) == 51
    assert log.head == 121


async def test_sequences_that_can_be_read_go_on(path: Path, open_file: OpenFile) -> None:
    log, _ = await filled(open_file)
    cut_off_a_page(path)
    await log.maintain()

    assert await put(log, [twin(64, seq=64)], [twin(65, seq=65)]) == [
        Appended(0, [], 1, log.epoch),
        Appended(131, [twin(65, seq=65)], 0, log.epoch),
    ]
    assert beside(path, "-wal").exists()


async def test_what_was_learned_stays_known(path: Path, open_file: OpenFile) -> None:
    log, _ = await filled(open_file)
    await log.learn({"a": Aggregate(5, "/srv/x", "p", "w")})
    log.close()
    log = open_file()
    cut_off_a_page(path)
    with capture_logs() as logs:
        await log.maintain()

    assert [line["event"] for line in logs] == ["eventlog.rescued"]
    assert await log.aggregates() == {"ses_1": Aggregate(64, "/srv/a"), "a": Aggregate(5, "/srv/x", "p", "w")}


async def test_where_some_aggregates_cannot_be_read_it_has_to_learn_again(path: Path, open_file: OpenFile) -> None:
    """Those that are left are known: their events have their numbers. The others would be taken for new ones."""
    log = open_file()
    await log.learn({f"{number:0500}": Aggregate(number) for number in range(1000)})
    log.close()
    with other(path) as db:
        root, size = page_of(db, "aggregate"), db.execute("PRAGMA page_size").fetchone()[0]
        children = page_at(path, root, size)
        last = int.from_bytes(children[8:12])  # of an inner page: the child that is furthest to the right
    log = open_file()
    overwrite(path, [last - 1], bytes(size))
    unlink(path)
    await log.maintain()

    assert await log.aggregates() is None
    (refused,) = await put(log, [twin(1, session=f"{0:0500}", seq=7)])
    assert isinstance(refused, OutOfSequence)
    assert await put(log, [twin(1, session=f"{999:0500}", seq=7)]) != [refused]
