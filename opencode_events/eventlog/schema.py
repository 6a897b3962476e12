"""The tables of a log's file, and how a file of an earlier version comes to have them.

A file says what it is in SQLite's own header: `application_id` names the program, `user_version` the schema. An older
schema is migrated in one transaction, a newer one is refused: what it means is not known here.
"""

import sqlite3
import time
from pathlib import Path

from opencode_events import twins
from opencode_events.errors import DaemonError
from opencode_events.eventlog import aggregates
from opencode_events.events import GAP

APPLICATION_ID = 0x6F636576  # "ocev"
VERSION = 3

# The envelope stands last: a row's other columns are then read without the pages that a large one overflows to.
# An index ends in the row's position, so `event_by_directory` is in the order of positions within each directory.
EVENT = """
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
"""
# Gaps are few, and belong to every directory.
GAPS = f"""
CREATE INDEX event_gap ON event (type) WHERE type = '{GAP}' AND is_sync = 0 AND directory IS NULL;
"""
INDEXES = f"""
CREATE UNIQUE INDEX event_by_id ON event (id, is_sync);
CREATE INDEX event_by_directory ON event (directory) WHERE is_sync = 0 AND directory IS NOT NULL;
CREATE INDEX event_by_aggregate ON event (aggregate, seq) WHERE seq IS NOT NULL;
{GAPS}"""
EPOCH = """
CREATE TABLE epoch (
    epoch TEXT    PRIMARY KEY,
    first INTEGER NOT NULL,
    last  INTEGER
) STRICT;
"""
# `aggregate` outlives the events: the last sequence number is known when they are trimmed. `number` is the order in
# which they were first seen, `learned` the last number as it was when that was not counted, but learned. `mark` has the
# head, noted by whoever trims: the newest event may be among the trimmed; and `learned` if the log ever has.
OTHERS = """
CREATE TABLE aggregate (
    number    INTEGER PRIMARY KEY,
    id        TEXT    NOT NULL UNIQUE,
    first     INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    directory TEXT,
    project   TEXT,
    workspace TEXT,
    learned   INTEGER
) STRICT;
CREATE TABLE mark (
    name  TEXT    PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO mark VALUES ('head', 0);
"""
# Version 1 had neither sequence nor time. It took what came, so a number may stand twice: the index is not unique.
MIGRATE_1 = """
ALTER TABLE event RENAME TO old;
DROP INDEX event_by_id;
{event}
INSERT INTO event SELECT position, id, is_sync, type, directory, workspace, session,
    CASE is_sync WHEN 1 THEN twin_aggregate(payload) END, CASE is_sync WHEN 1 THEN twin_seq(payload) END,
    {now_ms}, payload_start, payload_end, envelope
FROM (SELECT *, substr(envelope, payload_start + 1, payload_end - payload_start) AS payload FROM old)
ORDER BY position;
DROP TABLE old;
{indexes}
{others}
INSERT INTO aggregate (id, first, last) SELECT aggregate, min(seq), max(seq) FROM event
WHERE seq IS NOT NULL GROUP BY aggregate ORDER BY min(position);
"""
# Version 2 knew of an aggregate no more than its numbers.
MIGRATE_2 = f"""
ALTER TABLE aggregate ADD COLUMN directory TEXT;
ALTER TABLE aggregate ADD COLUMN project TEXT;
ALTER TABLE aggregate ADD COLUMN workspace TEXT;
ALTER TABLE aggregate ADD COLUMN learned INTEGER;
{GAPS}"""
# What is retained of an aggregate tells where it belongs.
PLACE_AGGREGATES = """
UPDATE aggregate SET (directory, project, workspace) = (
    SELECT directory, envelope_project(envelope), workspace FROM event
    WHERE aggregate = aggregate.id AND seq IS NOT NULL AND directory IS NOT NULL ORDER BY seq DESC LIMIT 1
);
"""


def prepare(db: sqlite3.Connection, path: Path | None, now_ms: int | None = None) -> int:
    """Make the tables of a new file, migrate those of an older one; return the version that the file had, 0 for none.

    Raises DaemonError for a file that is another program's or a newer version's, and sqlite3.Error.
    """
    version = check(db, path)
    if version == 0:
        _run(db, EVENT + INDEXES + EPOCH + OTHERS)
    if 0 < version < VERSION:
        db.create_function("envelope_project", 1, aggregates.project)
    if version == 2:
        _run(db, MIGRATE_2 + PLACE_AGGREGATES)
    elif version == 1:
        db.create_function("twin_aggregate", 1, lambda payload: (twins.place(payload) or (None, None))[0])
        db.create_function("twin_seq", 1, lambda payload: (twins.place(payload) or (None, None))[1])
        stamp = int(time.time() * 1000) if now_ms is None else now_ms
        _run(db, MIGRATE_1.format(event=EVENT, indexes=INDEXES, others=OTHERS, now_ms=stamp) + PLACE_AGGREGATES)
    return version


def check(db: sqlite3.Connection, path: Path | None) -> int:
    """Return the version of a file, 0 for an empty one. Raises DaemonError when it cannot be one of ours."""
    (is_new,) = db.execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()
    if not is_new and db.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise DaemonError(f"{path} is another program's database")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise DaemonError(
            f"the event log {path} has schema {version}, made by a newer version; this one knows {VERSION} at most"
        )
    return 0 if is_new else int(version)


def _run(db: sqlite3.Connection, script: str) -> None:
    """Run a script, with the header's numbers, as one transaction."""
    try:
        db.executescript(
            f"BEGIN IMMEDIATE;{script}PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={VERSION};COMMIT;"
        )
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
