"""What is done when the log's file is no longer the one at its path: what is readable is brought to a new file there.

SQLite goes on committing into a file that was removed or replaced, and nobody will find that again. Its descriptors
are still open, so all of it can be read. What somebody put in its place is moved aside, never over-written. Each step
leaves something from which the next start goes on.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from opencode_events.eventlog import schema
from opencode_events.eventlog.database import Database, identity, transaction

log = structlog.get_logger()

# A copy under way, which means nothing, and a whole one, which a start finishes.
DRAFT, RESCUED = ".rescue", ".rescued"
# Positions that are salvaged at a time; where that fails, half of them.
CHUNK = 1_024


def rescue(database: Database, held: range, *, durable: bool) -> Database:
    """Return a database at the same path with everything that could be read of `database`, which is closed.

    `held` are the positions that it should have. Raises sqlite3.Error, OSError or DaemonError when there is no room or
    no directory for it. Called again, then, with the same `database`, it goes on where it came to.
    """
    path = database.path
    assert path is not None
    if not database.is_closed:
        lost = _copy(database, path, held)
        _remove_own(database, path)
        database.close()
        log.error("eventlog.rescued", path=str(path), unreadable_events=lost)
    finish(path)
    return Database(path, durable=durable)


def finish(path: Path) -> None:
    """Put a rescued copy, if there is one, where it belongs; move aside what stands there."""
    whole = _beside(path, RESCUED)
    if not whole.exists():
        return
    found = identity(path)
    if found is not None:
        aside = _beside(path, f".found-{found[1]}")
        log.warning("eventlog.moved_aside", path=str(path), to=str(aside))
        # The file itself goes last: if this is interrupted, the next start does the rest of it.
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                _beside(path, suffix).replace(_beside(aside, suffix))
    for suffix in ("-wal", "-shm"):
        _beside(path, suffix).unlink(missing_ok=True)
    whole.replace(path)
    _sync(path.parent)


def _copy(database: Database, path: Path, held: range) -> int:
    """Make a copy beside the path, under the name that says it is whole; return how many events could not be read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = _beside(path, DRAFT)
    _remove(draft)
    try:
        lost = _fill(draft, database, held)
        _sync(draft)
    except BaseException:
        _remove(draft)
        raise
    if path.exists() and not database.is_own(path):
        _remove_own(database, path)  # our WAL is in another's way: who opened that file would have it brought home
    draft.replace(_beside(path, RESCUED))
    _sync(path.parent)
    return lost


def _remove_own(database: Database, path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        if database.is_own(file := _beside(path, suffix)):
            file.unlink()


def _fill(draft: Path, database: Database, held: range) -> int:
    if not database.is_truncated:
        try:
            database.writer.execute("VACUUM INTO ?", (str(draft),))
            return 0
        except sqlite3.DatabaseError as error:
            if not re.search("CORRUPT|NOTADB|IOERR", error.sqlite_errorname):
                raise
        _remove(draft)
    return _salvage(database.writer, draft, held)


def _salvage(source: sqlite3.Connection, draft: Path, held: range) -> int:
    """Copy what can be read of a damaged database, row by row; return how many events could not be."""
    with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as db:
        schema.prepare(db, draft)
        db.execute("PRAGMA synchronous = OFF")
        with transaction(db):
            _salvage_table(source, db, "epoch")
            # Where only some aggregates are left, the others would be taken for new ones: it has to learn again.
            if _salvage_table(source, db, "aggregate"):
                _salvage_table(source, db, "mark WHERE name = 'learned'")
            db.execute("UPDATE mark SET value = ? WHERE name = 'head'", (held.stop - 1,))
            return sum(_salvage_events(source, db, held[start : start + CHUNK]) for start in range(0, len(held), CHUNK))


def _salvage_events(source: sqlite3.Connection, db: sqlite3.Connection, positions: range) -> int:
    """Copy the events at some positions; where they cannot be read, each half by itself. Return how many were not."""
    ends = positions[0], positions[-1]
    try:
        rows = source.execute("SELECT * FROM event WHERE position BETWEEN ? AND ?", ends).fetchall()
    except sqlite3.Error:
        if len(positions) == 1:
            return 1
        middle = len(positions) // 2
        return sum(_salvage_events(source, db, half) for half in (positions[:middle], positions[middle:]))
    return sum(not (_is_text(row[-1]) and _put(db, "event", row)) for row in rows)


def _is_text(envelope: object) -> bool:
    """Tell whether an envelope may be what it was. Where pages are missing, a text's end is read as zeros."""
    return isinstance(envelope, bytes) and b"\0" not in envelope


def _salvage_table(source: sqlite3.Connection, db: sqlite3.Connection, which: str) -> bool:
    """Copy rows, of a table or some of them, up to the first that cannot be read; tell whether that was all."""
    table, is_whole = which.split()[0], True
    for row in _readable(source, which):
        is_whole = row is not None and _put(db, table, row) and is_whole
    return is_whole


def _readable(source: sqlite3.Connection, which: str) -> Iterator[tuple[Any, ...] | None]:
    """Yield the rows of a table, or some of them, up to the first that cannot be read; for that, None."""
    try:
        yield from source.execute(f"SELECT * FROM {which}")
    except sqlite3.Error:
        yield None


def _put(db: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> bool:
    """Insert a row, unless it is no longer what may stand in such a table; tell which."""
    try:
        db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    except sqlite3.IntegrityError:
        return False
    return True


def _remove(draft: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        _beside(draft, suffix).unlink(missing_ok=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync(path: Path) -> None:
    """Have a file or a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
