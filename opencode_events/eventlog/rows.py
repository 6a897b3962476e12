"""How events stand in the tables: the statements that put them there and get them back, a page at a time.

Functions of a connection; who holds it, and on which thread, is the caller's. They raise sqlite3.Error.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from opencode_events import twins
from opencode_events.errors import OutOfSequence
from opencode_events.eventlog.base import Page, Query, Stored, SyncRow
from opencode_events.eventlog.epochs import Epochs
from opencode_events.events import Event

INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, is_sync) DO NOTHING"
# A position, and an Event's fields in their order; the text may be left out.
FIELDS = "payload_start, payload_end, id, type, is_sync, directory, workspace, session, aggregate, seq"
WHOLE = f"SELECT position, envelope, {FIELDS} FROM event"
WITHOUT_TEXT = f"SELECT position, NULL, {FIELDS} FROM event"
SEQ = "payload.syncEvent.seq"

BRACES = tuple(b"{}")
# Rows that a page looks at when not all of them match: some 3 ms of a thread.
SCAN_ROWS = 2_000
HISTORY_ROWS = 200
HISTORY_BYTES = 256 * 1024


def insert(db: sqlite3.Connection, position: int, event: Event, now_ms: int) -> bool:
    """Give an event its place; tell whether it is new. Raises OutOfSequence, with nothing changed."""
    if event.seq is not None and not _advance(db, event):
        return False
    return bool(db.execute(INSERT, _row(position, event, now_ms)).rowcount)


def insert_new(db: sqlite3.Connection, first: int, batch: Sequence[Event], now_ms: int) -> bool:
    """Give plain events their places, if all of them are new, and tell so: half the time of one after the other.

    If some are not, the places are wrong, and the caller has to undo it.
    """
    rows = (_row(position, event, now_ms) for position, event in enumerate(batch, first))
    return db.executemany(INSERT, rows).rowcount == len(batch)


def _row(position: int, event: Event, now_ms: int) -> tuple[Any, ...]:
    return (
        position, event.id, event.is_sync, event.type, event.directory, event.workspace, event.session,
        event.aggregate, event.seq, now_ms, event.start, event.end, event.envelope,
    )  # fmt: skip


def _advance(db: sqlite3.Connection, event: Event) -> bool:
    """Count a sync event in its aggregate; tell whether it may be new. Raises OutOfSequence.

    A number that was counted before is a duplicate if it is held under the same id, or was trimmed.
    """
    aggregate, seq = event.aggregate, event.seq
    assert aggregate is not None
    assert seq is not None
    if db.execute("SELECT 1 FROM event WHERE id = ? AND is_sync = 1", (event.id,)).fetchone():
        return False
    found = db.execute("SELECT first, last FROM aggregate WHERE id = ?", (aggregate,)).fetchone()
    if found is None:
        db.execute("INSERT INTO aggregate (id, first, last) VALUES (?, ?, ?)", (aggregate, seq, seq))
        return True
    first, last = found
    if not (isinstance(first, int) and isinstance(last, int)):
        raise sqlite3.DatabaseError(f"the row of {aggregate[:64]} is damaged")
    if seq == last + 1:
        db.execute("UPDATE aggregate SET last = ? WHERE id = ?", (seq, aggregate))
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


# --- replay


@contextlib.contextmanager
def _telling_damage() -> Iterator[None]:
    """Raise sqlite3.Error for a row that is not what was stored: columns are typed, so damage alone brings it about."""
    try:
        yield
    except (TypeError, ValueError, LookupError) as error:
        raise sqlite3.DatabaseError(f"a row is damaged: {error}") from error


@_telling_damage()
def read_page(db: sqlite3.Connection, after: int, until: int, query: Query, epochs: Epochs) -> Page:
    """Return a page, as `EventLog.read` has it."""
    (oldest,) = db.execute("SELECT min(position) FROM event").fetchone()
    parameters: tuple[object, ...]
    where, parameters = "position > ? AND position <= ?", (after, until)
    if query.directory is not None:
        where = f"is_sync = 0 AND directory = ? AND {where}"
        parameters = (query.directory, *parameters)
    last = until
    rows: Iterable[tuple[Any, ...]]
    if query.matches is not None:
        wanted, last = _scan(db, where, parameters, query, until)
        rows = _at(db, wanted)
    else:
        rows = db.execute(f"{WHOLE} WHERE {where} ORDER BY position LIMIT ?", (*parameters, query.max_events))
    found: list[Stored] = []
    size, is_cut, epoch, epoch_ends = 0, False, b"", 0
    for row in rows:
        position, length = row[0], len(row[1])
        if found and size + length > query.max_bytes:
            is_cut = True
            break
        if position > epoch_ends:
            epoch, epoch_ends = epochs.share(position)
        size += length
        found.append(Stored(position, b"%b-%d" % (epoch, position), Event._make(row[1:])))
    if is_cut or (query.matches is None and len(found) == query.max_events):
        last = found[-1].position
    _refuse_damaged([stored.event for stored in found])
    return Page(found, last, until + 1 if oldest is None else oldest)


def _refuse_damaged(events: Sequence[Event]) -> None:
    """Raise ValueError if a text cannot be what was stored; SQLite sees damage to its own structures alone.

    A line break would tear the stream that it is sent on, and a page that was lost is read as zeros.
    """
    text = b"".join([event.envelope for event in events])
    ends = {(envelope[start], envelope[end - 1]) for envelope, start, end, *_ in events}
    if b"\n" in text or b"\0" in text or ends - {BRACES}:
        raise ValueError("not the text of an event")


def _scan(
    db: sqlite3.Connection, where: str, parameters: Sequence[object], query: Query, until: int
) -> tuple[list[int], int]:
    """Return the positions of those that match, without reading their text, and the last one that was looked at."""
    assert query.matches is not None
    wanted: list[int] = []
    rows = db.execute(f"{WITHOUT_TEXT} WHERE {where} ORDER BY position LIMIT {SCAN_ROWS}", parameters).fetchall()
    for row in rows:
        if query.matches(Event._make(row[1:])):
            wanted.append(row[0])
            if len(wanted) == query.max_events:
                return wanted, row[0]
    return wanted, rows[-1][0] if len(rows) == SCAN_ROWS else until


def _at(db: sqlite3.Connection, positions: Iterable[int]) -> Iterable[tuple[Any, ...]]:
    """Yield the rows at some positions."""
    for position in positions:
        yield from db.execute(f"{WHOLE} WHERE position = ?", (position,))


# --- history


class Place(NamedTuple):
    """Where a history goes on: behind `seq` of the aggregate that was seen as the `number`th."""

    number: int = 0
    seq: int = -1


@_telling_damage()
def read_history(db: sqlite3.Connection, known: Mapping[str, int], place: Place) -> tuple[list[SyncRow], Place | None]:
    """Return a page of sync events that lie behind `known`, and where the next one begins; None at the end."""
    found: list[SyncRow] = []
    size = 0
    # The first one is the one that the page before may have cut.
    aggregates = db.execute("SELECT number, id, last FROM aggregate WHERE number >= ? ORDER BY number", (place.number,))
    for number, aggregate, last in aggregates:
        behind = known.get(aggregate, -1)
        if number == place.number:
            behind = max(behind, place.seq)
        if last <= behind:
            continue
        for row in db.execute(
            f"{WHOLE} WHERE aggregate = ? AND seq > ? AND seq IS NOT NULL ORDER BY seq", (aggregate, behind)
        ):
            is_full = len(found) >= HISTORY_ROWS or size >= HISTORY_BYTES
            # A log that was migrated may have a number twice: the next page begins behind both.
            if is_full and (found[-1].aggregate_id, found[-1].seq) != (aggregate, row[-1]):
                return found, Place(number, found[-1].seq if found[-1].aggregate_id == aggregate else -1)
            event = Event._make(row[1:])
            _refuse_damaged([event])
            kind, data = twins.content(event.payload)
            found.append(SyncRow(event.id, aggregate, event.seq or 0, kind, data))
            size += len(data)
    return found, None
