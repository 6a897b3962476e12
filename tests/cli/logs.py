"""Event logs that are made to order, without a daemon, and what the commands of `log` are run with."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from opencode_events.eventlog.base import Appended
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings
from tests.samples import make

NAME = "events.sqlite3"

# The tables of the first schema, which had no sequences and no times.
SCHEMA_1 = """
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
PRAGMA application_id = 0x6F636576;
PRAGMA user_version = 1;
"""


def start(state_dir: Path, *events: Event, at_s: float = 1_000_000_000.0) -> str:
    """Put events into the log of a state directory, as one start of a daemon would; return its epoch."""
    state_dir.mkdir(exist_ok=True)
    with contextlib.closing(SqliteLog(state_dir / NAME, EventLogSettings(), clock=lambda: at_s)) as log:
        for first in range(0, len(events), 25):
            (outcome,) = log.append_nowait([events[first : first + 25]]) or []
            assert isinstance(outcome, Appended)
            assert len(outcome.events) == len(events[first : first + 25])
        return log.epoch


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log as another program would."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        yield db


def change(state_dir: Path, *statements: str) -> None:
    """Do something to a log that nobody should."""
    with opened(state_dir / NAME) as db:
        for statement in statements:
            db.execute(statement)


def positions(state_dir: Path) -> list[int]:
    """Return the positions of the events that are there."""
    with opened(state_dir / NAME) as db:
        return [position for (position,) in db.execute("SELECT position FROM event ORDER BY position")]


def files(state_dir: Path) -> dict[str, tuple[int, bytes]]:
    """Return what there is: name, time of the last change, content."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(state_dir.iterdir())}


def make_schema_1(path: Path, events: Sequence[Event]) -> None:
    """Make a log as the first release did."""
    with opened(path) as db:
        db.executescript(SCHEMA_1)
        for position, event in enumerate(events, 1):
            row = (
                position, event.id, event.is_sync, event.type, event.directory, event.workspace, event.session,
                event.start, event.end, event.envelope,
            )  # fmt: skip
            db.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO epoch VALUES ('0123456789', 1, NULL)")


def acceptable(lines: Sequence[bytes]) -> list[bytes]:
    """Return the lines of a recording that a log takes: events, and of a sequence what is before its first hole."""
    taken: list[bytes] = []
    counted: dict[str, int] = {}
    for line in lines:
        if b'"type":"server.' in line:
            continue
        event = make(line)
        if event.aggregate is not None and event.seq is not None:
            if event.seq != counted.get(event.aggregate, event.seq - 1) + 1:
                continue
            counted[event.aggregate] = event.seq
        taken.append(line)
    return taken
