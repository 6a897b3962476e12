"""What the log keeps: how many events, how many bytes, for how long; and how the rest goes, a small step at a time.

A step deletes the oldest few hundred events, so that no publish waits for more than some milliseconds of it. The head
is noted with the deletion: else a log that was trimmed empty would give its positions away a second time.
"""

import sqlite3
from typing import NamedTuple

from opencode_events.eventlog.database import transaction

# What one step deletes at most: some 3 ms. Bytes count because a large event is spread over many pages.
STEP_EVENTS = 500
STEP_BYTES = 2 * 1024 * 1024


class Limits(NamedTuple):
    """What may be kept: so many events, so many bytes of pages, those stored at `since_ms` (Unix time) or later."""

    events: int
    size: int
    since_ms: int


class Trimmed(NamedTuple):
    """What one step has deleted: events, and bytes of their envelopes."""

    events: int = 0
    size: int = 0


def trim(db: sqlite3.Connection, head: int, limits: Limits, used_bytes: int) -> Trimmed:
    """Delete the oldest events that are beyond a limit, a step of them; there may be more unless there was none.

    `used_bytes` is what the log occupies now. One transaction. Raises sqlite3.Error with nothing deleted.
    """
    (oldest,) = db.execute("SELECT min(position) FROM event").fetchone()
    if oldest is None:
        return Trimmed()
    keep_from = head - limits.events + 1
    doomed, size = 0, 0
    candidates = db.execute(
        "SELECT position, CAST(coalesce(stored_ms, 0) AS INTEGER), length(coalesce(envelope, '')) FROM event"
        " ORDER BY position LIMIT ?",  # a damaged row may lack what is NOT NULL
        (STEP_EVENTS,),
    )
    for position, stored_ms, length in candidates.fetchall():
        is_over = position < keep_from or stored_ms < limits.since_ms or used_bytes - size > limits.size
        if not is_over or size >= STEP_BYTES:
            break
        doomed, size = position, size + length
    if not doomed:
        return Trimmed()
    return Trimmed(delete_to(db, doomed, head), size)


def delete_to(db: sqlite3.Connection, position: int, head: int) -> int:
    """Delete the events up to `position`, and note the head; return how many they were. One transaction."""
    with transaction(db):
        db.execute("UPDATE mark SET value = max(value, ?) WHERE name = 'head'", (head,))
        return db.execute("DELETE FROM event WHERE position <= ?", (position,)).rowcount
