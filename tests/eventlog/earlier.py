"""Files of earlier versions, as those made them, and all that is in a file."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from opencode_events.events import Event
from tests.eventlog.files import other

# As version 1 made it, and left it when it was killed: its last epoch is open.
VERSION_1 = """
CREATE TABLE event (
    position      INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL,
    is_sync       INTEGER NOT NULL,
    type          TEXT    NOT NULL,
    directory     TEXT,
    workspace     TEXT,
    session       TEXT,
    payload_start INTEGER NOT NULL,
    payload_end   INTEGER NOT NULL,
    envelope      BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_by_id ON event (id, is_sync);
CREATE TABLE epoch (
    epoch TEXT    PRIMARY KEY,
    first INTEGER NOT NULL,
    last  INTEGER
) STRICT;
INSERT INTO epoch VALUES ('0123456789', 1, 2), ('abcdef0123', 3, NULL);
PRAGMA application_id = 0x6F636576;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""
VERSION_2 = """
CREATE TABLE event (
    position      INTEGER PRIMARY KEY,
    id            TEXT    NOT NULL,
    is_sync       INTEGER NOT NULL,
    type          TEXT    NOT NULL,
    directory     TEXT,
    workspace     TEXT,
    session       TEXT,
    aggregate     TEXT,
    seq           INTEGER,
    stored_ms     INTEGER NOT NULL,
    payload_start INTEGER NOT NULL,
    payload_end   INTEGER NOT NULL,
    envelope      BLOB    NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_by_id ON event (id, is_sync);
CREATE INDEX event_by_directory ON event (directory) WHERE is_sync = 0 AND directory IS NOT NULL;
CREATE INDEX event_by_aggregate ON event (aggregate, seq) WHERE seq IS NOT NULL;
CREATE TABLE epoch (
    epoch TEXT    PRIMARY KEY,
    first INTEGER NOT NULL,
    last  INTEGER
) STRICT;
CREATE TABLE aggregate (
    number INTEGER PRIMARY KEY,
    id     TEXT    NOT NULL UNIQUE,
    first  INTEGER NOT NULL,
    last   INTEGER NOT NULL
) STRICT;
CREATE TABLE mark (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO mark VALUES ('head', 0);
INSERT INTO epoch VALUES ('0123456789', 1, 2), ('abcdef0123', 3, NULL);
PRAGMA application_id = 0x6F636576;
PRAGMA user_version = 2;
PRAGMA journal_mode = WAL;
"""


def make_version_1(path: Path, *events: Event, first: int = 1) -> None:
    """Make a file of version 1 with some events, at consecutive positions from `first`."""
    rows = [
        (position, one.id, one.is_sync, one.type, one.directory, one.workspace, one.session, one.start, one.end,
         one.envelope)
        for position, one in enumerate(events, first)
    ]  # fmt: skip
    with other(path) as db:
        db.executescript(VERSION_1)
        _insert(db, "event", rows)


def make_version_2(path: Path, *events: Event, trimmed: int = 0, stored_ms: int = 0) -> None:
    """Make a file of version 2 that was given some events, the first of which were trimmed."""
    rows = [
        (position, one.id, one.is_sync, one.type, one.directory, one.workspace, one.session, one.aggregate, one.seq,
         stored_ms, one.start, one.end, one.envelope)
        for position, one in enumerate(events, 1)
    ]  # fmt: skip
    numbers: dict[str, list[int]] = {}
    for one in events:
        if one.aggregate is not None and one.seq is not None:
            numbers.setdefault(one.aggregate, []).append(one.seq)
    with other(path) as db:
        db.executescript(VERSION_2)
        _insert(db, "event", rows[trimmed:])
        aggregates = [(name, min(seqs), max(seqs)) for name, seqs in numbers.items()]
        _insert(db, "aggregate", [(number, *one) for number, one in enumerate(aggregates, 1)])
        db.execute("UPDATE mark SET value = ?", (trimmed,))


def _insert(db: sqlite3.Connection, table: str, rows: Sequence[tuple[object, ...]]) -> None:
    if rows:
        db.execute("BEGIN")
        db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
        db.execute("COMMIT")


def tables(path: Path) -> list[tuple[object, ...]]:
    """Return all that is in a file."""
    with other(path) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        for name, sql in list(rows):
            rows += db.execute(f"SELECT * FROM {name}").fetchall() if (sql or "").startswith("CREATE TABLE") else []
        return [*rows, db.execute("PRAGMA user_version").fetchone()]


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the columns of each table and index of a file, and what an index is of, in their order."""
    with other(path) as db:
        named = db.execute("SELECT name, type, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'").fetchall()
        return {
            name: [(kind, table), *db.execute(f"PRAGMA {kind}_xinfo({name})").fetchall()]
            for name, kind, table in sorted(named)
        }
