"""How a file of version 2 becomes one of this: what is new in it is found in what it has."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from opencode_events import events
from opencode_events.cursor import Cursor
from opencode_events.eventlog import schema
from opencode_events.eventlog.base import Aggregate, Appended
from opencode_events.eventlog.sqlite import SqliteLog
from tests.eventlog.contract_learning import placed
from tests.eventlog.earlier import make_version_1, make_version_2, shape, tables
from tests.eventlog.files import beside, copy_of, other
from tests.eventlog.steps import EVERYTHING, history, positions, put, read_all
from tests.samples import event, twin

OpenFile = Callable[..., SqliteLog]
Make = Callable[..., None]


async def test_a_file_keeps_all_that_it_had(path: Path, open_file: OpenFile) -> None:
    given = [event(1, workspace="w"), twin(1, seq=4), event(2, directory=None, session=None), twin(3, seq=5)]
    make_version_2(path, *given, stored_ms=1_799_999_999_000)
    with capture_logs() as logs:
        log = open_file()
    (page,) = await read_all(log)

    assert [one.event for one in page.events] == given
    assert [one.cursor for one in page.events] == [b"0123456789-1", b"0123456789-2", b"abcdef0123-3", b"abcdef0123-4"]
    assert log.is_known(Cursor("abcdef0123", 4))
    assert log.newest_ms == 1_799_999_999_000
    assert [(row.aggregate_id, row.seq) for row in await history(log)] == [("ses_1", 4), ("ses_1", 5)]
    assert await put(log, [twin(3, seq=5), twin(4, seq=6)]) == [Appended(5, [twin(4, seq=6)], 1, log.epoch)]
    assert logs == [{"event": "eventlog.migrated", "log_level": "info", "path": str(path), "schema": 2, "to": 3}]


@pytest.mark.parametrize("make", [make_version_1, make_version_2], ids=["from version 1", "from version 2"])
async def test_aggregates_belong_where_the_newest_that_says_so_came_from(
    path: Path, open_file: OpenFile, make: Make
) -> None:
    make(
        path,
        placed(1, 4, "/srv/x", "p", "w"), placed(2, 5, "/srv/y", "q", None), placed(3, 6, None, "r", "v"),
        twin(4, session="b", seq=0, directory=None), twin(5, session="c", workspace="w"),
    )  # fmt: skip
    log = open_file()
    assert await log.aggregates() is None
    await log.learn({})

    assert await log.aggregates() == {
        "ses_1": Aggregate(6, "/srv/y", "q"), "b": Aggregate(0), "c": Aggregate(0, "/srv/a", None, "w"),
    }  # fmt: skip


async def test_of_an_aggregate_whose_events_were_trimmed_the_numbers_are_left(path: Path, open_file: OpenFile) -> None:
    make_version_2(path, twin(1, session="a", seq=7), event(2), twin(3, session="b", seq=1), trimmed=2)
    log = open_file()
    await log.learn({})

    assert await log.aggregates() == {"a": Aggregate(7), "b": Aggregate(1, "/srv/a")}
    assert await put(log, [twin(4, session="a", seq=8)]) == [Appended(4, [twin(4, session="a", seq=8)], 0, log.epoch)]
    assert (await log.aggregates() or {})["a"] == Aggregate(8, "/srv/a")


async def test_gaps_are_found_by_every_instance_from_then_on(path: Path, open_file: OpenFile) -> None:
    make_version_2(path, event(1), events.gap(None, 2, 0), event(3, directory="/srv/b"))
    log = open_file()
    await put(log, [events.gap(None, 4, 0)])

    assert await positions(log, query=EVERYTHING._replace(directory="/srv/a")) == [1, 2, 4]
    assert await positions(log, query=EVERYTHING._replace(directory="/srv/b")) == [2, 3, 4]


@pytest.mark.parametrize("make", [make_version_1, make_version_2], ids=["from version 1", "from version 2"])
def test_a_migrated_file_is_like_a_new_one(path: Path, tmp_path: Path, make: Make) -> None:
    make(path, event(1), twin(2))
    for file in (path, tmp_path / "new.sqlite3"):
        with other(file) as db:
            schema.prepare(db, file)

    assert shape(path) == shape(tmp_path / "new.sqlite3")


# --- what is interrupted


@pytest.mark.parametrize("obstacle", ["CREATE TABLE event_gap (a)", "ALTER TABLE aggregate ADD COLUMN workspace TEXT"])
def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, obstacle: str) -> None:
    make_version_2(path, *(event(number) for number in range(50)), twin(100, seq=3))
    with other(path) as db:
        db.execute(obstacle)
    before = tables(path)

    with other(path) as db:
        with pytest.raises(sqlite3.OperationalError, match=r"event_gap|workspace"):
            schema.prepare(db, path)
        assert not db.in_transaction
    assert tables(path) == before


def test_a_process_that_is_killed_half_way_leaves_the_file_as_it_was(
    path: Path, tmp_path: Path, open_file: OpenFile
) -> None:
    made = [twin(number, session=f"ses_{number}") for number in range(2000)]
    make_version_2(path, *made, *(events.gap(None, number, 0) for number in range(500)))
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
    assert max(beside(killed, "-wal").stat().st_size for killed in copies) > 50_000
    for killed in copies:
        assert tables(killed) == before
    assert open_file().head == 2500
