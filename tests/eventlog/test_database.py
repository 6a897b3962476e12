"""Whether a log's file is still the one at its path, and what its two connections do."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from opencode_events.errors import DaemonError
from opencode_events.eventlog import database as module
from opencode_events.eventlog.database import Database, transaction
from tests.eventlog.damage import CUTS, LOSSES, Damage, cut_off_a_page, named, rename, rename_back
from tests.eventlog.files import deny, other

INSERT = "INSERT INTO event VALUES (?, 'id' || ?1, 0, 'a', NULL, NULL, NULL, NULL, NULL, 0, 0, 2, ?)"


def fill(db: sqlite3.Connection, count: int = 300, size: int = 1000) -> None:
    """Insert events; with the usual figures they are some 90 pages."""
    with transaction(db):
        db.executemany(INSERT, [(position, b"x" * size) for position in range(1, count + 1)])


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    """A database with rows that are home, and some that are in the WAL only."""
    database = Database(path, durable=False)
    fill(database.writer)
    database.checkpoint()
    database.writer.execute(INSERT, (1000, b"x"))
    yield database
    database.close()


# --- is it lost?


def test_a_file_that_nobody_touches_is_not_lost(database: Database) -> None:
    assert not database.is_lost
    database.checkpoint()
    assert not database.is_lost
    assert not database.is_truncated


def test_memory_cannot_be_lost() -> None:
    database = Database(None, durable=False)
    fill(database.writer)

    assert not database.is_lost
    assert not database.is_truncated
    database.close()


@pytest.mark.parametrize("damage", [*LOSSES, *CUTS], ids=named)
def test_it_is_lost_when_what_is_committed_would_not_be_found(database: Database, path: Path, damage: Damage) -> None:
    damage(path)

    assert database.is_lost
    assert database.is_lost
    assert database.is_truncated is (damage in CUTS)


@pytest.mark.parametrize("damage", LOSSES, ids=named)
def test_what_is_lost_can_be_read(database: Database, path: Path, damage: Damage) -> None:
    """Also by who has read nothing before, with all that is not home yet."""
    damage(path)
    with database.reading() as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (301,)


def test_it_is_found_again_when_it_is_put_back(database: Database, path: Path) -> None:
    rename(path)
    assert database.is_lost
    rename_back(path)

    assert not database.is_lost


@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_another_program_may_vacuum_and_bring_the_wal_home(database: Database, path: Path, mode: str) -> None:
    """Then the file is smaller than it was, and lacks nothing."""
    database.writer.execute("DELETE FROM event WHERE position BETWEEN 5 AND 290")
    database.checkpoint()
    before = path.stat().st_size
    with other(path) as db:
        db.execute("VACUUM")
        assert not database.is_lost
        db.execute(f"PRAGMA wal_checkpoint({mode})")
    assert path.stat().st_size < before / 2

    assert not database.is_lost
    database.writer.execute(INSERT, (2000, b"x" * 100_000))
    database.checkpoint()
    assert not database.is_lost
    cut_off_a_page(path)
    assert database.is_lost


def test_another_program_may_read_write_and_close(database: Database, path: Path) -> None:
    with other(path) as db:
        db.execute(INSERT, (2000, b"x"))
        assert db.execute("SELECT count(*) FROM event").fetchone() == (302,)
    assert not database.is_lost
    with database.reading() as reader:
        assert reader.execute("SELECT count(*) FROM event").fetchone() == (302,)


# --- the connections


def test_what_is_read_in_one_block_is_of_one_moment(database: Database) -> None:
    with database.reading() as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (301,)
        database.writer.execute(INSERT, (2000, b"x"))
        assert db.execute("SELECT count(*) FROM event").fetchone() == (301,)
    with database.reading() as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (302,)


def test_who_reads_cannot_write(database: Database) -> None:
    with database.reading() as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM event")
    with database.reading() as db:
        assert db.execute("SELECT count(*) FROM event").fetchone() == (301,)


def test_a_transaction_is_had_whole_or_not_at_all(database: Database) -> None:
    def fail() -> None:
        with transaction(database.writer):
            database.writer.execute("DELETE FROM event")
            raise KeyError

    db = database.writer
    with pytest.raises(KeyError):
        fail()
    assert not db.in_transaction
    assert db.execute("SELECT count(*) FROM event").fetchone() == (301,)
    with transaction(db):
        db.execute("DELETE FROM event")
    assert db.execute("SELECT count(*) FROM event").fetchone() == (0,)


def test_others_are_waited_for_only_where_it_is_asked_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_S", 1.25)
    timeout = "PRAGMA busy_timeout"
    assert database.writer.execute(timeout).fetchone() == (0,)
    with database.patient():
        assert database.writer.execute(timeout).fetchone() == (1250,)
    assert database.writer.execute(timeout).fetchone() == (0,)
    with database.reading() as db:
        assert db.execute(timeout).fetchone() == (0,)


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)], ids=["normal", "full"])
def test_durability_is_sqlites(path: Path, durable: bool, level: int) -> None:
    database = Database(path, durable=durable)

    assert database.writer.execute("PRAGMA synchronous").fetchone() == (level,)
    assert database.writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


def test_it_may_be_closed_twice(database: Database) -> None:
    assert not database.is_closed
    database.close()
    database.close()
    assert database.is_closed


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="nowhere/log cannot be opened"):
        Database(tmp_path / "nowhere" / "log", durable=False)


# --- its size


def test_pages_that_are_free_are_not_counted_as_used(database: Database) -> None:
    before = database.used_bytes()
    assert 300_000 < before < 500_000
    database.writer.execute("DELETE FROM event")

    assert database.used_bytes() < 60_000


def test_a_checkpoint_is_due_after_so_many_bytes(database: Database, path: Path) -> None:
    database.written = module.CHECKPOINT_BYTES
    assert not database.is_checkpoint_due
    database.written += 1
    assert database.is_checkpoint_due
    database.checkpoint()

    assert not database.is_checkpoint_due
    with other(path) as db:
        db.execute("PRAGMA query_only = ON")
        assert db.execute("SELECT count(*) FROM event").fetchone() == (301,)


def test_a_checkpoint_that_fails_is_told_once_an_episode(database: Database) -> None:
    with capture_logs() as logs:
        deny(database.writer, "wal_checkpoint")
        database.written = module.CHECKPOINT_BYTES + 1
        database.checkpoint()
        assert not database.is_checkpoint_due  # it is tried again after as many bytes
        database.checkpoint()
        deny(database.writer, None)
        database.checkpoint()
        deny(database.writer, "wal_checkpoint")
        database.checkpoint()

    warning = {"event": "eventlog.checkpoint_failed", "log_level": "warning", "reason": "not authorized"}
    assert logs == [warning, warning]


@pytest.mark.parametrize("name", ["events.sqlite3", "link"])
def test_a_new_file_and_those_beside_it_are_their_owner_s_alone(tmp_path: Path, name: str) -> None:
    tmp_path = tmp_path / "there"
    tmp_path.mkdir()
    (tmp_path.parent / "link").symlink_to("there/events.sqlite3")
    database = Database(tmp_path / name if name != "link" else tmp_path.parent / name, durable=False)
    found = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    database.close()

    assert found == dict.fromkeys(("events.sqlite3", "events.sqlite3-wal", "events.sqlite3-shm"), 0o600)
