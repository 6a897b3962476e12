"""How events stand in the tables: the statements that put them there and get them back, a page at a time.

Functions of a connection; who holds it, and on which thread, is the caller's. They raise sqlite3.Error.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from opencode_events import twins
from opencode_events.errors import OutOfSequence
from opencode_events.eventlog import aggregates
from opencode_events.eventlog.base import Appended, Outcome, Page, Query, Stored, SyncRow
from opencode_events.eventlog.epochs import Epochs
from opencode_events.events import GAP, Event

INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, is_sync) DO NOTHING"
# A position, and an Event's fields in their order; the text may be left out.
FIELDS = "payload_start, payload_end, id, type, is_sync, directory, workspace, session, aggregate, seq"
WHOLE = f"SELECT position, envelope, {FIELDS} FROM event"
WITHOUT_TEXT = f"SELECT position, NULL, {FIELDS} FROM event"
# A damaged row may lack what is NOT NULL.
STORED_MS = "CAST(coalesce(stored_ms, 0) AS INTEGER)"
BETWEEN = "position > ?1 AND position <= ?2"
# What an instance's stream has: its own plain events, and the gaps, which have no directory. Each has its index, in the
# order of positions, and SQLite merges the two: both are read only as far as the page goes.
OF_INSTANCE = f"is_sync = 0 AND directory = ?3 AND {BETWEEN}"
OF_GAPS = f"type = '{GAP}' AND is_sync = 0 AND directory IS NULL AND {BETWEEN}"

BRACES = tuple(b"{}")
# Rows that a page looks at when not all of them match: some 3 ms of a thread.
SCAN_ROWS = 2_000
HISTORY_ROWS = 200
HISTORY_BYTES = 256 * 1024


def insert_batch(db: sqlite3.Connection, batch: Sequence[Event], first: int, now_ms: int, epoch: str) -> Outcome:
    """Give one batch its places, from `first` on; of one that breaks a sequence nothing is left.

    In a transaction of the caller's, unless it is a plain event alone, whose statement commits by itself.
    """
    if len(batch) == 1 and batch[0].seq is None:  # what most are
        is_new = insert(db, first, batch[0], now_ms)
        return Appended(first, batch, 0, epoch) if is_new else Appended(0, [], 1, epoch)
    may_break = any(event.seq is not None for event in batch)
    may_be_undone = may_break or len(batch) > 1
    if may_be_undone:
        db.execute("SAVEPOINT batch")
    new: list[Event] = []
    outcome: Outcome
    try:
        if may_be_undone and not may_break:
            if insert_new(db, first, batch, now_ms):
                db.execute("RELEASE batch")
                return Appended(first, batch, 0, epoch)
            db.execute("ROLLBACK TO batch")
        for index, event in enumerate(batch):  # noqa: B007  # for the error
            if insert(db, first + len(new), event, now_ms):
                new.append(event)
        outcome = Appended(first if new else 0, new, len(batch) - len(new), epoch)
    except OutOfSequence as error:
        error.index = index
        db.execute("ROLLBACK TO batch")
        outcome = error
    if may_be_undone:
        db.execute("RELEASE batch")
    return outcome


def insert(db: sqlite3.Connection, position: int, event: Event, now_ms: int) -> bool:
    """Give an event its place; tell whether it is new. Raises OutOfSequence, with nothing changed."""
    if event.seq is not None and not aggregates.advance(db, event):
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


def newest_ms(db: sqlite3.Connection) -> int | None:
    """Return when the newest event was stored, in milliseconds of Unix time; None when there is none."""
    found = db.execute(f"SELECT {STORED_MS} FROM event ORDER BY position DESC LIMIT 1").fetchone()
    return None if found is None else int(found[0])


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
    last = until
    rows: Iterable[tuple[Any, ...]]
    if query.matches is not None:
        wanted, last = _scan(db, after, until, query)
        rows = _at(db, wanted)
    else:
        rows = _range(db, WHOLE, after, until, query.directory, query.max_events)
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


def _range(
    db: sqlite3.Connection, select: str, after: int, until: int, directory: str | None, limit: int
) -> sqlite3.Cursor:
    """Return the first `limit` rows between two positions, all of them or one instance's."""
    if directory is None:
        return db.execute(f"{select} WHERE {BETWEEN} ORDER BY position LIMIT ?3", (after, until, limit))
    return db.execute(
        f"{select} WHERE {OF_INSTANCE} UNION ALL {select} WHERE {OF_GAPS} ORDER BY position LIMIT ?4",
        (after, until, directory, limit),
    )


def _scan(db: sqlite3.Connection, after: int, until: int, query: Query) -> tuple[list[int], int]:
    """Return the positions of those that match, without reading their text, and the last one that was looked at."""
    assert query.matches is not None
    wanted: list[int] = []
    rows = _range(db, WITHOUT_TEXT, after, until, query.directory, SCAN_ROWS).fetchall()
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
            found.append(SyncRow(event.id, aggregate, event.seq or 0, kind, data, event.directory))
            size += len(data)
    return found, None
