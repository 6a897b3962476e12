"""What a file must be to be opened, and how one of an earlier version becomes one of this."""

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from opencode_events.cursor import Cursor
from opencode_events.errors import DaemonError, OutOfSequence
from opencode_events.eventlog import schema
from opencode_events.eventlog.base import Appended
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from tests.eventlog.earlier import make_version_1, tables
from tests.eventlog.files import beside, copy_of, other
from tests.eventlog.steps import history, put, read_all
from tests.samples import event, twin

OpenFile = Callable[..., SqliteLog]
OLD_EPOCH, OPEN_EPOCH = "0123456789", "abcdef0123"


@pytest.fixture
def make_old(path: Path) -> Callable[..., None]:
    """Make a file of version 1 with some events, at consecutive positions from `first`."""
    return functools.partial(make_version_1, path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Lend a connection to a file of this version."""
    with other(path) as db:
        schema.prepare(db, path)
        yield db


def sync(text: bytes) -> Event:
    """Return a twin with these members in its `syncEvent`, as version 1 took it: whatever they are."""
    inner = b'{"type":"a.1","data":{},%b}' % text
    envelope = b'{"payload":{"type":"sync","id":"evt_1","syncEvent":%b}}' % inner
    return Event(envelope, 11, len(envelope) - 1, "evt_1", "a", True, None, None, None)


# --- what a file is


def test_a_new_file_says_what_it_is(path: Path) -> None:
    with other(path) as db:
        assert schema.check(db, path) == 0
        assert schema.prepare(db, path) == 0
        assert schema.prepare(db, path) == schema.VERSION

        assert db.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"ocev"),)
        assert db.execute("PRAGMA user_version").fetchone() == (3,)
    assert path.read_bytes()[68:72] == b"ocev"


def test_a_newer_file_is_refused_and_stays_as_it_is(path: Path) -> None:
    with opened(path) as db:
        db.execute("PRAGMA user_version = 4")
    before = path.read_bytes()

    sentence = f"the event log {path} has schema 4, made by a newer version; this one knows 3 at most"
    with other(path) as db, pytest.raises(DaemonError) as refused:
        schema.prepare(db, path)
    assert str(refused.value) == sentence
    assert path.read_bytes() == before


@pytest.mark.parametrize("pragma", ["user_version = 1", "user_version = 99", "application_id = 7"])
def test_another_program_s_file_is_refused_and_stays_as_it_is(path: Path, pragma: str) -> None:
    with other(path) as db:
        db.execute("CREATE TABLE event (a)")
        db.execute(f"PRAGMA {pragma}")
    before = path.read_bytes()

    with other(path) as db, pytest.raises(DaemonError, match=f"^{path} is another program's database$"):
        schema.prepare(db, path)
    assert path.read_bytes() == before


def test_a_log_refuses_what_the_schema_does(path: Path, open_file: OpenFile) -> None:
    with other(path) as db:
        db.execute("CREATE TABLE theirs (a)")
    before = path.read_bytes()

    with pytest.raises(DaemonError, match="is another program's database"):
        open_file()
    assert path.read_bytes() == before


# --- from version 1


async def test_an_older_file_keeps_its_events_and_cursors(
    path: Path, make_old: Callable[..., None], open_file: OpenFile
) -> None:
    events = [event(1, workspace="w"), twin(1, "session.updated.1", seq=4), event(2, directory=None, session=None)]
    make_old(*events)
    with capture_logs() as logs:
        log = open_file()
    (page,) = await read_all(log)

    assert [one.event for one in page.events] == events
    assert [one.cursor for one in page.events] == [b"0123456789-1", b"0123456789-2", b"abcdef0123-3"]
    assert [log.is_known(Cursor(OPEN_EPOCH, position)) for position in range(1, 5)] == [False, True, True, False]
    assert await put(log, [event(1), twin(1, seq=4), event(3)]) == [Appended(4, [event(3)], 2, log.epoch)]
    assert logs == [{"event": "eventlog.migrated", "log_level": "info", "path": str(path), "schema": 1, "to": 3}]


async def test_sequences_go_on_in_the_order_in_which_they_were_first_seen(
    make_old: Callable[..., None], open_file: OpenFile
) -> None:
    b = [twin(number, session="b", seq=number) for number in range(7, 10)]
    a = [twin(number, session="a", seq=number) for number in range(2)]
    make_old(b[0], event(50), a[0], b[1], a[1], b[2])
    log = open_file()

    assert [(row.aggregate_id, row.seq) for row in await history(log)] == [
        ("b", 7), ("b", 8), ("b", 9), ("a", 0), ("a", 1),
    ]  # fmt: skip
    outcomes = await put(log, [twin(60, session="b", seq=6)], [twin(61, session="b", seq=11)])
    assert [str(one) for one in outcomes] == [
        "b was first seen at 7: 6 is before that",
        "b has come to 9: 10 is next, not 11",
    ]
    following = [twin(62, session="b", seq=10), twin(63, session="a", seq=2)]
    assert await put(log, following) == [Appended(7, following, 0, log.epoch)]


async def test_what_broke_a_sequence_before_there_were_any_stays(
    make_old: Callable[..., None], open_file: OpenFile
) -> None:
    events = [twin(1, seq=5), twin(2, seq=5), twin(3, seq=9), twin(4, seq=3)]
    make_old(*events)
    log = open_file()

    assert [(row.id, row.seq) for row in await history(log)] == [
        ("evt_4", 3), ("evt_1", 5), ("evt_2", 5), ("evt_3", 9),
    ]  # fmt: skip
    assert [row.seq for row in await history(log, {"ses_1": 5})] == [9]
    refused, following = await put(log, [twin(5, seq=5)], [twin(6, seq=10)])
    assert isinstance(refused, OutOfSequence)
    assert following == Appended(5, [twin(6, seq=10)], 0, log.epoch)


async def test_a_number_that_stands_twice_is_not_lost_between_two_pages(
    make_old: Callable[..., None], open_file: OpenFile
) -> None:
    make_old(*(twin(number, seq=number // 3) for number in range(1000)))

    assert sorted(int(row.id[4:]) for row in await history(open_file())) == list(range(1000))


@pytest.mark.parametrize(
    ("text", "aggregate"),
    [
        (b'"aggregateID":"\\ud800\\n\xc3\xa4","seq":7,"x":"\\udfff"', "\N{REPLACEMENT CHARACTER}\n\xe4"),
        (b'"seq":7,"deep":' + b"[" * 900 + b"]" * 900 + b',"aggregateID":"a"', "a"),
        (b'"seq":1,"aggregateID":"b","seq":7,"aggregateID":"a"', "a"),
        (b'"seq":7,"aggregateID":""', ""),
        (b'"seq":7,"aggregateID":"a\\u0000b"', "a\0b"),
    ],
    ids=["half a surrogate pair", "deep", "members twice", "an empty name", "a nul"],
)
async def test_a_number_is_found_however_it_is_written(
    make_old: Callable[..., None], open_file: OpenFile, text: bytes, aggregate: str
) -> None:
    make_old(sync(text))
    log = open_file()

    assert [(row.aggregate_id, row.seq) for row in await history(log)] == [(aggregate, 7)]
    following = twin(2, session=aggregate, seq=8)
    assert await put(log, [following]) == [Appended(2, [following], 0, log.epoch)]


@pytest.mark.parametrize("seq", [b"-1", b"1e3", b"9007199254740992", b"1" + b"0" * 30])
async def test_a_number_that_cannot_be_counted_is_left_out_of_the_history(
    make_old: Callable[..., None], open_file: OpenFile, seq: bytes
) -> None:
    old = sync(b'"aggregateID":"a","seq":' + seq)
    make_old(old)
    log = open_file()

    (page,) = await read_all(log)
    assert [one.event.envelope for one in page.events] == [old.envelope]
    assert await history(log) == []


# --- what is interrupted


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, make_old: Callable[..., None]) -> None:
    """Whatever step it fails at: here, at each of the things that it makes."""
    make_old(*(event(number) for number in range(50)), twin(100, seq=3))
    before = tables(path)
    for obstacle in ("aggregate", "mark", "old"):
        with other(path) as db:
            db.execute(f"CREATE TABLE {obstacle} (a)")
            with pytest.raises(sqlite3.OperationalError, match=obstacle):
                schema.prepare(db, path)
            assert not db.in_transaction
            db.execute(f"DROP TABLE {obstacle}")
        assert tables(path) == before

    with other(path) as db:
        assert schema.prepare(db, path) == 1
        assert db.execute("SELECT count(*) FROM event").fetchone() == (51,)
        assert db.execute("SELECT id, first, last FROM aggregate").fetchall() == [("ses_1", 3, 3)]


def test_a_migration_without_room_is_told_and_tried_again_by_the_next_start(
    path: Path, make_old: Callable[..., None], open_file: OpenFile
) -> None:
    make_old(*(event(number, pad=2000) for number in range(200)))
    before = tables(path)
    with other(path) as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages + 20}")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            schema.prepare(db, path)

    assert tables(path) == before
    assert open_file().head == 200


def test_a_process_that_is_killed_half_way_leaves_the_file_as_it_was(
    path: Path, tmp_path: Path, make_old: Callable[..., None]
) -> None:
    make_old(*(event(number, pad=2000) for number in range(500)))
    before = tables(path)
    copies: list[Path] = []

    def copy() -> int:
        copies.append(copy_of(path, tmp_path / f"killed-{len(copies)}"))
        return 0

    with other(path) as db:
        db.execute("PRAGMA cache_size = 10")  # so that pages are in the WAL before the end
        db.set_progress_handler(copy, 4000)
        schema.prepare(db, path)
        db.set_progress_handler(None, 0)

    assert len(copies) > 3
    assert max(beside(killed, "-wal").stat().st_size for killed in copies) > 500_000
    for killed in copies:
        assert tables(killed) == before


def test_events_of_an_older_file_are_as_old_as_its_migration(path: Path, make_old: Callable[..., None]) -> None:
    """Nobody knows better: they are kept for as long again."""
    make_old(event(1))
    with other(path) as db:
        schema.prepare(db, path, now_ms=1_800_000_000_123)
        assert db.execute("SELECT stored_ms FROM event").fetchone() == (1_800_000_000_123,)
