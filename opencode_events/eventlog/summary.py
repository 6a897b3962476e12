"""What there is in a log, and what it occupies: `log stat`."""

import dataclasses
import sqlite3
from pathlib import Path

from opencode_events.eventlog import logfile

# Each step finds the next directory in the index: it is not the events that are counted through.
DIRECTORIES = """
WITH RECURSIVE found (name) AS (
    SELECT min(directory) FROM event WHERE is_sync = 0 AND directory IS NOT NULL
    UNION ALL
    SELECT (SELECT min(directory) FROM event WHERE is_sync = 0 AND directory IS NOT NULL AND directory > name)
    FROM found WHERE name IS NOT NULL
) SELECT count(name) FROM found
"""


@dataclasses.dataclass(frozen=True)
class Edge:
    """The oldest event, or the newest: its cursor, and when it was stored, in milliseconds of Unix time."""

    cursor: str
    stored_ms: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What there is in a log, and what it occupies. `free_bytes` are within the file; the next events take them."""

    path: str
    schema: int
    file_bytes: int
    wal_bytes: int
    used_bytes: int
    free_bytes: int
    events: int
    oldest: Edge | None
    newest: Edge | None
    directories: int
    epochs: int
    aggregates: int


def summarize(db: sqlite3.Connection, path: Path) -> Summary:
    """Return a summary, all of one moment. It costs the same however many events there are."""

    def figure(statement: str) -> int:
        return int(db.execute(statement).fetchone()[0])

    def edge(which: str) -> Edge | None:
        row = db.execute(f"SELECT position, stored_ms FROM event ORDER BY position {which} LIMIT 1").fetchone()
        return None if row is None else Edge(str(epochs.cursor(row[0])), row[1])

    with logfile.moment(db):
        epochs = logfile.cursors(db)
        pages, free, page = (figure(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
        return Summary(
            path=str(path),
            schema=figure("PRAGMA user_version"),
            file_bytes=size(path),
            wal_bytes=size(Path(f"{path}-wal")),
            used_bytes=(pages - free) * page,
            free_bytes=free * page,
            events=logfile.count_to(db, logfile.head(db)),
            oldest=edge("ASC"),
            newest=edge("DESC"),
            directories=figure(DIRECTORIES),
            epochs=figure("SELECT count(*) FROM epoch"),
            aggregates=figure("SELECT count(*) FROM aggregate"),
        )


def size(path: Path) -> int:
    """Return the bytes of a file, 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def occupied(path: Path) -> int:
    """Return the bytes that the log's files take of the disk."""
    return size(path) + size(Path(f"{path}-wal"))
