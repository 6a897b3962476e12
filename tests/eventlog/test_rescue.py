"""A file that is no longer the one at its path: nothing that was acknowledged is lost, nothing of others either."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from opencode_events.cursor import Cursor
from opencode_events.errors import LogUnavailable
from opencode_events.eventlog import sqlite
from opencode_events.eventlog.base import Aggregate, Appended
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from tests.eventlog.damage import (
    LOSSES,
    Damage,
    make_log,
    named,
    rename,
    rename_back,
    replace_by_another_with_its_wal,
    unlink,
)
from tests.eventlog.disks import no_room
from tests.eventlog.files import beside, content_of, names_in, other
from tests.eventlog.steps import EVERYTHING, check, positions, publish, put, read_all
from tests.samples import event, twin

OpenFile = Callable[..., SqliteLog]


# --- nothing is lost


@pytest.mark.parametrize("damage", LOSSES, ids=named)
async def test_all_that_was_acknowledged_is_in_a_new_file(path: Path, open_file: OpenFile, damage: Damage) -> None:
    log = open_file()
    before, epoch = await publish(log, range(20)), log.epoch
    given = [one.cursor for page in await read_all(log) for one in page.events]
    damage(path)
    with capture_logs() as logs:
        after = await publish(log, range(20, 30))

    told = [line for line in logs if line["log_level"] == "error"]
    assert told == [{"event": "eventlog.rescued", "log_level": "error", "path": str(path), "unreadable_events": 0}]
    assert log.epoch != epoch
    for is_opened_again in (False, True):
        one = open_again(log, open_file) if is_opened_again else log
        await check(one, before + after)
        assert [one.is_known(Cursor(epoch, position)) for position in (0, 40, 41)] == [True, True, False]
        assert [one.is_known(Cursor(log.epoch, position)) for position in (39, 40, 60)] == [False, True, True]
        cursors = [stored.cursor for page in await read_all(one) for stored in page.events]
        assert cursors == given + [b"%b-%d" % (log.epoch.encode(), position) for position in range(41, 61)]


def open_again(log: SqliteLog, open_file: OpenFile) -> SqliteLog:
    log.close()
    return open_file()


@pytest.mark.parametrize("damage", LOSSES, ids=named)
async def test_it_is_noticed_without_anybody_publishing(path: Path, log: SqliteLog, damage: Damage) -> None:
    before = await publish(log, range(3))
    damage(path)
    assert await log.maintain() is False

    assert log.append_nowait([[event(100)]]) == [Appended(7, [event(100)], 0, log.epoch)]
    await check(log, [*before, event(100)])


@pytest.mark.parametrize("damage", LOSSES, ids=named)
async def test_what_is_learned_is_in_the_new_file_whether_before_or_after(
    path: Path, open_file: OpenFile, damage: Damage
) -> None:
    log = open_file()
    before = await publish(log, range(3))
    await log.learn({"a": Aggregate(5, "/srv/x", "p", "w")})
    damage(path)
    await log.learn({"b": Aggregate(7)})

    expected = {"ses_1": Aggregate(2, "/srv/a"), "a": Aggregate(5, "/srv/x", "p", "w"), "b": Aggregate(7)}
    assert await log.aggregates() == expected
    log = open_again(log, open_file)
    assert await log.aggregates() == expected
    await check(log, before)


async def test_what_must_outlive_a_power_cut_is_rescued_too(path: Path, open_file: OpenFile) -> None:
    log = open_file(durability="full")
    before = await publish(log, range(3))
    unlink(path)
    after = await publish(log, range(3, 6))

    await check(open_again(log, open_file), before + after)


async def test_it_may_happen_again_and_again(path: Path, open_file: OpenFile, log: SqliteLog) -> None:
    made: list[Event] = []
    epochs = {log.epoch}
    for number, damage in enumerate(LOSSES):
        made += await publish(log, range(number, number + 1))
        if path.parent.name not in damage.__name__:
            damage(path)
        made += [event(1000 + number)]
        await put(log, [made[-1]])
        epochs.add(log.epoch)

    await check(log, made)
    assert len(epochs) == len(LOSSES) + 1


async def test_a_log_that_was_trimmed_empty_keeps_its_place(path: Path, open_file: OpenFile) -> None:
    log = open_file(log_max_events=1)
    await publish(log, range(3))
    while await log.maintain():
        pass
    with other(path) as db:
        db.execute("DELETE FROM event")
    unlink(path)

    assert await put(log, [twin(1, seq=1)], [twin(3, seq=3)]) == [
        Appended(0, [], 1, log.epoch),
        Appended(7, [twin(3, seq=3)], 0, log.epoch),
    ]
    assert log.oldest == 7


@pytest.mark.parametrize("damage", [unlink, rename], ids=named)
async def test_nothing_is_lost_while_many_publish_and_read(
    path: Path, open_file: OpenFile, log: SqliteLog, damage: Damage
) -> None:
    """The file goes at any moment, also between the look at it and the commit."""
    made: list[Event] = []
    reads: list[int] = []
    is_over = False

    async def read() -> None:
        while not is_over:
            head = log.head
            try:
                page = await log.read(0, head, EVERYTHING)
            except LogUnavailable:
                continue  # in the moment in which the one file is closed and the other not yet open
            assert [one.position for one in page.events] == list(range(1, head + 1))
            reads.append(head)

    reader = asyncio.ensure_future(read())
    for number in range(3):
        breaker = threading.Thread(target=damage, args=(path,))
        for step in range(40):
            if step == 10:
                breaker.start()
            made += await publish(log, range(40 * number + step, 40 * number + step + 1))
            await asyncio.sleep(0)
        breaker.join()
        await log.maintain()
        beside(path, ".old").unlink(missing_ok=True)
    is_over = True
    await reader

    assert reads
    await check(log, made)
    await check(open_again(log, open_file), made)


# --- nothing of others is lost


async def test_another_log_in_its_place_is_moved_aside_untouched(
    path: Path, tmp_path: Path, open_file: OpenFile, log: SqliteLog
) -> None:
    before = await publish(log, range(3))
    make_log(tmp_path / "another")
    content = content_of(tmp_path / "another")
    (tmp_path / "another").replace(path)
    with capture_logs() as logs:
        after = await publish(log, range(3, 6))

    await check(open_again(log, open_file), before + after)
    (aside,) = [name for name in names_in(path.parent) if name.startswith("events.sqlite3.found-")]
    assert logs[-1] == {
        "event": "eventlog.moved_aside", "log_level": "warning", "path": str(path), "to": str(path.parent / aside)
    }  # fmt: skip
    assert content_of(path.parent / aside) == content
    with other(path.parent / aside) as db:
        assert db.execute("SELECT id FROM event").fetchall() == [("evt_77",)]


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_whatever_is_in_its_place_is_moved_aside_untouched(path: Path, log: SqliteLog, content: bytes) -> None:
    before = await publish(log, range(3))
    beside(path, ".new").write_bytes(content)
    beside(path, ".new").replace(path)
    await log.maintain()

    await check(log, before)
    (aside,) = [name for name in names_in(path.parent) if ".found-" in name]
    assert content_of(path.parent / aside) == content


async def test_another_log_is_moved_aside_with_what_it_has_not_brought_home(path: Path, log: SqliteLog) -> None:
    before = await publish(log, range(3))
    replace_by_another_with_its_wal(path)
    await log.maintain()

    await check(log, before)
    aside = min(name for name in names_in(path.parent) if ".found-" in name)
    with other(path.parent / aside) as db:
        assert db.execute("SELECT id FROM event").fetchall() == [("evt_78",)]


async def test_the_log_s_own_wal_does_not_go_with_another_s_file(path: Path, tmp_path: Path, log: SqliteLog) -> None:
    """Who opened that would have the WAL's pages brought home into it."""
    await publish(log, range(3))
    make_log(tmp_path / "another")
    (tmp_path / "another").replace(path)
    await log.maintain()

    assert [name for name in names_in(path.parent) if ".found-" in name and name.endswith(("-wal", "-shm"))] == []


async def test_a_file_that_is_its_own_is_not_kept_twice(path: Path, log: SqliteLog) -> None:
    await publish(log, range(3))
    beside(path, "-wal").unlink()
    await log.maintain()

    assert names_in(path.parent) == ["events.sqlite3", "events.sqlite3-shm", "events.sqlite3-wal"]


# --- when it cannot be done


async def test_without_room_it_is_tried_again_until_there_is(path: Path, log: SqliteLog, open_file: OpenFile) -> None:
    before = await publish(log, range(20))
    unlink(path)
    with no_room(64 * 1024):
        for _ in range(3):
            with pytest.raises(LogUnavailable):
                await put(log, [event(100)])
            with pytest.raises(LogUnavailable):
                await log.maintain()
        assert log.head == 40
        assert await positions(log) == list(range(1, 41))
        assert names_in(path.parent) == ["events.sqlite3-shm", "events.sqlite3-wal"]
    assert await log.maintain() is False

    assert log.append_nowait([[event(100)]]) == [Appended(41, [event(100)], 0, log.epoch)]
    await check(open_again(log, open_file), [*before, event(100)])


async def test_without_a_directory_it_is_tried_again_until_there_is(
    path: Path, log: SqliteLog, open_file: OpenFile
) -> None:
    before = await publish(log, range(3))
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.write_bytes(b"")
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            await put(log, [event(100)])
    path.parent.unlink()
    await put(log, [event(100)])

    await check(open_again(log, open_file), [*before, event(100)])
    assert names_in(path.parent.with_name("moved")) == ["events.sqlite3", "events.sqlite3-shm", "events.sqlite3-wal"]


async def test_it_goes_on_as_it_was_when_the_file_is_put_back(path: Path, log: SqliteLog) -> None:
    before, epoch = await publish(log, range(20)), log.epoch
    rename(path)
    with no_room(64 * 1024), pytest.raises(LogUnavailable):
        await put(log, [event(100)])
    rename_back(path)
    await put(log, [event(100)])

    assert log.epoch == epoch
    await check(log, [*before, event(100)])


async def test_an_epoch_that_could_not_begin_begins_later(
    path: Path, log: SqliteLog, open_file: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is appended meanwhile would have cursors of an epoch that the next start does not know."""
    before, epoch = await publish(log, range(3)), log.epoch

    def fail() -> str:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "mint_epoch", fail)
        unlink(path)
        for _ in range(2):
            with pytest.raises(LogUnavailable, match="locked"):
                await put(log, [event(100)])
            assert log.epoch == epoch
            assert await positions(log) == list(range(1, 7))
    assert await put(log, [event(100)]) == [Appended(7, [event(100)], 0, log.epoch)]

    assert log.epoch != epoch
    again = open_again(log, open_file)
    assert again.is_known(Cursor(log.epoch, 7))
    assert [again.is_known(Cursor(epoch, position)) for position in (6, 7)] == [True, False]
    await check(again, [*before, event(100)])
