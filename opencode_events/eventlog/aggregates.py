"""How far each aggregate has come, and where its events belong: the table that outlives the events.

A sync event must be the next of its aggregate; the first one seen is its baseline. Where a sequence stands may also be
learned, from whoever has the events: then it goes on from there, whatever was counted before. Functions of a
connection; they raise sqlite3.Error.
"""

import json
import sqlite3
from collections.abc import Mapping

import msgspec

from opencode_events.errors import OutOfSequence
from opencode_events.eventlog.base import Aggregate
from opencode_events.events import Event

SEQ = "payload.syncEvent.seq"

# Of one that was not seen yet, whatever is behind its place counts as seen: sequences begin at 0. `learned` is where
# it was last put; a place that it had already was counted.
LEARN = """
INSERT INTO aggregate (id, first, last, directory, project, workspace, learned) VALUES (?1, 0, ?2, ?3, ?4, ?5, ?2)
ON CONFLICT (id) DO UPDATE SET
    first = min(first, excluded.last + 1),
    last = excluded.last,
    directory = coalesce(excluded.directory, directory),
    project = coalesce(excluded.project, project),
    workspace = coalesce(excluded.workspace, workspace),
    learned = CASE last WHEN excluded.last THEN learned ELSE excluded.last END
"""


class _Envelope(msgspec.Struct, gc=False):
    project: str | None = None


_decode = msgspec.json.Decoder(_Envelope).decode


def advance(db: sqlite3.Connection, event: Event) -> bool:
    """Count a sync event in its aggregate; tell whether it may be new. Raises OutOfSequence.

    A number that was counted before is a duplicate if it is held under the same id, or was trimmed.
    """
    aggregate, seq = event.aggregate, event.seq
    assert aggregate is not None
    assert seq is not None
    same = db.execute("SELECT aggregate, seq FROM event WHERE id = ? AND is_sync = 1", (event.id,)).fetchone()
    if same is not None:
        if same == (aggregate, seq):  # a sequence that was put back comes to what it had already
            db.execute("UPDATE aggregate SET last = ?1 WHERE id = ?2 AND last = ?1 - 1", (seq, aggregate))
        return False
    found = db.execute("SELECT first, last, directory FROM aggregate WHERE id = ?", (aggregate,)).fetchone()
    if found is None:
        db.execute(
            "INSERT INTO aggregate (id, first, last, directory, project, workspace) VALUES (?, ?, ?, ?, ?, ?)",
            (aggregate, seq, seq, event.directory, project(event.envelope), event.workspace),
        )
        return True
    first, last, directory = found
    if not (isinstance(first, int) and isinstance(last, int)):
        raise sqlite3.DatabaseError(f"the row of {aggregate[:64]} is damaged")
    if seq == last + 1:
        db.execute("UPDATE aggregate SET last = ? WHERE id = ?", (seq, aggregate))
        if event.directory is not None and event.directory != directory:
            _move(db, event)
        return True
    name = aggregate[:64]
    if seq > last:
        raise OutOfSequence(f"{name} has come to {last}: {last + 1} is next, not {seq}", field=SEQ)
    if seq < first:
        raise OutOfSequence(f"{name} was first seen at {first}: {seq} is before that", field=SEQ)
    held = db.execute("SELECT id FROM event WHERE aggregate = ? AND seq = ?", (aggregate, seq)).fetchone()
    if held is not None:
        raise OutOfSequence(f"{name} has {seq} already, under the id {held[0][:64]}", field=SEQ)
    return False


def _move(db: sqlite3.Connection, event: Event) -> None:
    """Note that an aggregate's events come from another directory now, with all that stands beside it."""
    db.execute(
        "UPDATE aggregate SET directory = ?, project = ?, workspace = ? WHERE id = ?",
        (event.directory, project(event.envelope), event.workspace, event.aggregate),
    )


def project(envelope: bytes) -> str | None:
    """Return the project that an envelope names; None where there is none, or it cannot be read."""
    try:
        return _decode(envelope).project
    except (msgspec.DecodeError, RecursionError):
        pass
    try:  # half a surrogate pair somewhere, which the standard library takes
        found = json.loads(envelope)["project"]
        return found if isinstance(found, str) and found.encode() else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def learn(db: sqlite3.Connection, places: Mapping[str, Aggregate]) -> None:
    """Put aggregates where they stand, and note that this log has learned. In a transaction of the caller's."""
    db.executemany(LEARN, ((name, *place) for name, place in places.items()))
    db.execute("INSERT OR REPLACE INTO mark VALUES ('learned', 1)")


def read(db: sqlite3.Connection) -> dict[str, Aggregate] | None:
    """Return how far all aggregates have come, in the order in which they were first seen; None if none was learned."""
    if db.execute("SELECT 1 FROM mark WHERE name = 'learned'").fetchone() is None:
        return None
    found = db.execute("SELECT id, last, directory, project, workspace FROM aggregate ORDER BY number")
    return {name: Aggregate(*place) for name, *place in found}
