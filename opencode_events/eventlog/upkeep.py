"""What a person does to a log: trim it beyond what the settings keep, and give the room back to the disk.

Functions of a connection that raise sqlite3.Error.
"""

import sqlite3
from collections.abc import Iterator

from opencode_events.eventlog import logfile, retention
from opencode_events.eventlog.epochs import FOR_EVER

# Deleted between two checkpoints: some 10 ms of the disk, for which publishers wait.
CHECKPOINT_BYTES = 8 * 1024 * 1024
CHECKPOINT_BUSY_MS = 50


def trim_target(db: sqlite3.Connection, *, keep_events: int | None, since_ms: int | None, before: int | None) -> int:
    """Return the last position that is to go: beyond `keep_events`, stored before `since_ms`, or before `before`.

    None is no limit. As in the log's own retention, what is stored later stays, whatever its clock said.
    """
    target, last = 0, logfile.head(db)
    if keep_events is not None:
        target = max(target, last - keep_events)
    if since_ms is not None:
        kept = db.execute("SELECT position FROM event WHERE stored_ms >= ? ORDER BY position LIMIT 1", (since_ms,))
        row = kept.fetchone()
        target = max(target, last if row is None else row[0] - 1)
    if before is not None:
        target = max(target, before - 1)
    return min(target, last)


def trim(db: sqlite3.Connection, target: int) -> Iterator[int]:
    """Delete the events up to `target`, a step and a transaction at a time; yield how many went with each."""
    last, written = logfile.head(db), 0
    limits = retention.Limits(events=last - target, size=FOR_EVER, since_ms=0)
    while (trimmed := retention.trim(db, last, limits, 0)).events:
        written += trimmed.size
        if written > CHECKPOINT_BYTES:
            _checkpoint(db)
            written = 0
        yield trimmed.events


def _checkpoint(db: sqlite3.Connection) -> None:
    """Bring the WAL home, and have the next writer begin it anew.

    Among busy writers it would never be found empty otherwise, and grow as long as this lasts. They wait meanwhile, but
    not for a reader that is in the way.
    """
    db.execute(f"PRAGMA busy_timeout = {CHECKPOINT_BUSY_MS}")
    db.execute("PRAGMA wal_checkpoint(RESTART)")
    db.execute(f"PRAGMA busy_timeout = {int(logfile.BUSY_S * 1000)}")


def vacuum(db: sqlite3.Connection) -> None:
    """Write the whole file anew, without free pages. Nothing else can be written meanwhile."""
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
