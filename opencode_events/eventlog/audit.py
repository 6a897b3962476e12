"""Looks through a log's file for whatever should not be: `log verify`.

Owns what is looked at, and the sentences. It reads beside a daemon, a page at a time: what is appended behind it is
not looked at, and what is trimmed in front of it is not missed.
"""

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import msgspec

from opencode_events import cursor, events
from opencode_events.errors import InvalidEvent
from opencode_events.eventlog import logfile, rows
from opencode_events.events import GAP, Event, Skipped

PAGE_EVENTS = 500
PAGE_BYTES = 4 * 1024 * 1024
# Findings of SQLite's own check at most: one damaged page can make many.
STRUCTURE_FINDINGS = 100
# What a row has beside the envelope, for filters, and the envelope has too.
SHARED = ("id", "type", "is_sync", "directory", "workspace", "session", "aggregate", "seq")

# Whatever was held of a sequence that was put elsewhere may stay there; what came since then was counted.
MISFITS = """
SELECT held.aggregate, lowest, highest, first, last
FROM (SELECT aggregate, min(seq) AS lowest, max(seq) AS highest FROM event WHERE seq IS NOT NULL GROUP BY aggregate)
AS held LEFT JOIN aggregate ON aggregate.id = held.aggregate
WHERE first IS NULL OR lowest < first OR CASE
    WHEN learned IS NULL THEN highest <> last
    ELSE last > learned AND NOT EXISTS (SELECT 1 FROM event WHERE aggregate = held.aggregate AND seq = last)
END
"""
# One that was learned may have no number yet, or none of those that it goes on from.
OUT_OF_BOUNDS = """
SELECT id, first, last FROM aggregate
WHERE first < 0 OR last < first - (learned IS NOT NULL) OR coalesce(last < learned, FALSE)
"""


class _Gap(msgspec.Struct, gc=False):
    id: str
    type: Literal["server.stream.gap"]


def findings(db: sqlite3.Connection, advance: Callable[[int], None]) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong. `advance` is told of each so many events that were looked at.

    Raises sqlite3.OperationalError when it is interrupted.
    """
    for what, found in (
        ("the file", _structure(db)),
        ("the epochs", _epochs(db)),
        ("the aggregates", _aggregates(db)),
        ("the events", _events(db, advance)),
    ):
        try:
            yield from found
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                raise
            yield f"{what} cannot be read to the end: {error}"


def _structure(db: sqlite3.Connection) -> Iterator[str]:
    """Ask SQLite: pages, rows, and whether each index agrees with its table."""
    for (found,) in db.execute(f"PRAGMA integrity_check({STRUCTURE_FINDINGS})"):
        if found != "ok":
            yield f"SQLite: {found}"


def _epochs(db: sqlite3.Connection) -> Iterator[str]:
    """Each share begins where the one before it ends, and the last one holds the head."""
    with logfile.moment(db):
        epochs, oldest, head = logfile.read_epochs(db), logfile.oldest(db), logfile.head(db)
    if not epochs:
        yield "there are no epochs"
        return
    if oldest is not None and oldest < epochs[0].first:
        yield f"the event at {oldest} is before the first epoch, {epochs[0].name}, which begins at {epochs[0].first}"
    for epoch in epochs:
        if cursor.parse(f"{epoch.name}-0") is None:
            yield f"the epoch {epoch.name[:64]!r} makes no cursors"
        if epoch.last is not None and epoch.last < epoch.first - 1:
            yield f"the epoch {epoch.name} ends at {epoch.last}, before it begins, at {epoch.first}"
    for epoch, following in itertools.pairwise(epochs):
        if epoch.last is None:
            yield f"the epoch {epoch.name} has no end, although {following.name} follows"
        elif following.first != epoch.last + 1:
            yield f"the epoch {following.name} begins at {following.first}, but {epoch.name} ends at {epoch.last}"
    newest = epochs[-1]
    if newest.last is not None:
        yield f"the newest epoch, {newest.name}, has an end"
    if newest.first > head + 1:
        yield f"the newest epoch, {newest.name}, begins at {newest.first}, but the last position is {head}"


def _aggregates(db: sqlite3.Connection) -> Iterator[str]:
    """What was counted of each aggregate agrees with its events: the newest of them goes last."""
    for aggregate, lowest, highest, first, last in db.execute(MISFITS):
        counted = "were not counted" if first is None else f"were counted as {first} to {last}"
        yield f"the sync events of {aggregate[:64]} are {lowest} to {highest}, but {counted}"
    for aggregate, first, last in db.execute(OUT_OF_BOUNDS):
        yield f"the aggregate {aggregate[:64]} was counted as {first} to {last}"


def _events(db: sqlite3.Connection, advance: Callable[[int], None]) -> Iterator[str]:
    """Positions have no gaps; each envelope is an event, and its row says the same."""
    oldest, head = logfile.oldest(db), logfile.head(db)
    after = head if oldest is None else oldest - 1
    while after < head:
        page = _look(db, after, head)
        yield from page.findings
        advance(page.events)
        after = page.last


class _Page(NamedTuple):
    """What was found on a page of so many events, the last of which is at `last`."""

    findings: list[str]
    events: int
    last: int


def _look(db: sqlite3.Connection, after: int, head: int) -> _Page:
    """Look at the events behind `after`."""
    found: list[str] = []
    count, size, last = 0, 0, after
    with logfile.moment(db):
        oldest = logfile.oldest(db)
        if oldest is None:  # all were trimmed meanwhile
            return _Page([], 0, head)
        last = max(after, oldest - 1)
        for row in db.execute(
            f"{rows.WHOLE} WHERE position > ? AND position <= ? ORDER BY position LIMIT {PAGE_EVENTS}", (last, head)
        ):
            position, event = row[0], Event._make(row[1:])
            found += _missing(last, position)
            found += (f"the event at {position}: {sentence}" for sentence in _compare(event))
            count, size, last = count + 1, size + len(event.envelope), position
            if size > PAGE_BYTES:
                break
    if not count:
        found += _missing(last, head + 1)
        last = head
    return _Page(found, count, last)


def _missing(before: int, behind: int) -> Iterator[str]:
    """Say it when there should be events between two positions."""
    if before + 1 < behind:
        yield f"the events at {before + 1} to {behind - 1} are missing"


def _compare(row: Event) -> Iterator[str]:
    """Compare what a row says of its envelope with what the envelope says."""
    try:
        event = events.parse_global(row.envelope, len(row.envelope))
    except InvalidEvent as error:
        yield f"its envelope is no event: {error.field or 'the text'}: {error}"
        return
    if isinstance(event, Skipped):
        gap = _gap_of(row.envelope)
        if gap is None:
            yield "it is a server's own frame"
            return
        event = gap
    is_inside = 0 <= row.start < row.end <= len(row.envelope)
    if not is_inside or row.payload != event.payload:
        yield "its payload is not where the row says"
    if differing := [name for name in SHARED if getattr(row, name) != getattr(event, name)]:
        yield f"row and envelope differ in {', '.join(differing)}"


def _gap_of(envelope: bytes) -> Event | None:
    """Return the gap that a server's own frame is, the only one that is logged; None of another one."""
    start, end = len(b'{"payload":'), len(envelope) - 1
    try:
        payload = msgspec.json.decode(envelope[start:end], type=_Gap)
    except msgspec.DecodeError:
        return None
    return Event(envelope, start, end, payload.id, GAP, False, None, None, None)
