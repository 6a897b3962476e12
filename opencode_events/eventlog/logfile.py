"""A log's file for tools: where it is, and a connection to it that starts no epoch and migrates nothing.

What reads here works beside a daemon, in transactions of a page, and neither waits for the other. What writes here
does so in transactions as short as the daemon's own. Functions of a connection raise sqlite3.Error, which the two that
lend one turn into DaemonError.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from opencode_events.errors import DaemonError
from opencode_events.eventlog import rows, schema
from opencode_events.eventlog.base import Page, Query
from opencode_events.eventlog.database import MEMORY
from opencode_events.eventlog.epochs import Epoch, Epochs
from opencode_events.events import Event
from opencode_events.settings import Settings

LOG_NAME = "events.sqlite3"
# Seconds that a tool waits for another process that writes. Longer than a daemon does for a tool: it has publishers.
BUSY_S = 10.0
# Steps of SQLite's machine between two looks for Ctrl-C: some milliseconds.
LOOK_STEPS = 200_000
# One page of an export.
PAGE_EVENTS = 500
PAGE_BYTES = 1024 * 1024


def locate(settings: Settings) -> Path | None:
    """Return the event log's file, None where it is kept in memory."""
    named = settings.eventlog.log_path
    if named == MEMORY:
        return None
    return Path(named).expanduser() if named else settings.server.state_dir / LOG_NAME


# --- opening


def reading(path: Path) -> contextlib.AbstractContextManager[sqlite3.Connection]:
    """Lend a connection that cannot write. Raises DaemonError where there is no log of this version's schema.

    A log that nobody has open has no WAL, and reading it without the right to write would leave an empty one behind.
    Where nobody may write, nothing changes, and SQLite is told so.
    """
    _look(path)
    if Path(f"{path}-wal").exists():
        how = "mode=ro"
    elif os.access(path.parent, os.W_OK):
        how = "mode=rw"
    else:
        how = "immutable=1"
    return _opened(path, how, "read", "PRAGMA query_only = ON")


def writing(path: Path) -> contextlib.AbstractContextManager[sqlite3.Connection]:
    """Lend a connection that writes. Raises DaemonError where there is no log of this version's schema.

    What it deletes may come back with a power cut: nobody has been promised that it is gone.
    """
    _look(path)
    return _opened(path, "mode=rw", "written", "PRAGMA synchronous = NORMAL")


def _look(path: Path) -> None:
    """Raise DaemonError where there is no file that can be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DaemonError(f"there is no event log at {path}") from error
    except OSError as error:
        raise DaemonError(f"the event log {path} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def _opened(path: Path, how: str, verb: str, pragma: str) -> Iterator[sqlite3.Connection]:
    try:
        uri = f"{path.resolve().as_uri()}?{how}"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_S)) as db:
            db.execute(pragma)
            _check(db, path)
            db.set_progress_handler(lambda: 0, LOOK_STEPS)  # Python runs a signal's handler on the way
            yield db
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from error
        raise DaemonError(f"the event log {path} cannot be {verb}: {error}") from error


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Raise DaemonError unless this is a log of this version's schema."""
    version = schema.check(db, path)
    if version == 0:
        raise DaemonError(f"the event log {path} is empty: no daemon has begun it yet")
    if version < schema.VERSION:
        raise DaemonError(
            f"the event log {path} has schema {version}, of an earlier version; a start of the daemon, or `log import`,"
            f" migrates it to {schema.VERSION}"
        )


@contextlib.contextmanager
def moment(db: sqlite3.Connection) -> Iterator[None]:
    """Let everything that is read in the block be of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


# --- what is in it


def oldest(db: sqlite3.Connection) -> int | None:
    """Return the position of the oldest event, None when there is none."""
    (position,) = db.execute("SELECT min(position) FROM event").fetchone()
    return None if position is None else int(position)


def head(db: sqlite3.Connection) -> int:
    """Return the last position that was given away; its event may have been trimmed."""
    (newest,) = db.execute("SELECT max(position) FROM event").fetchone()
    (marked,) = db.execute("SELECT value FROM mark WHERE name = 'head'").fetchone()
    return int(max(newest or 0, marked))


def count_to(db: sqlite3.Connection, position: int) -> int:
    """Return how many events there are up to `position`. They are not counted through: positions have no gaps."""
    first, newest = oldest(db), db.execute("SELECT max(position) FROM event").fetchone()[0]
    return 0 if first is None else int(max(0, min(position, newest) - first + 1))


def read_epochs(db: sqlite3.Connection) -> list[Epoch]:
    """Return the epochs in their order; the last one is, or was when the daemon ended, the current one."""
    return [Epoch(*row) for row in db.execute("SELECT epoch, first, last FROM epoch ORDER BY first, rowid")]


def cursors(db: sqlite3.Connection) -> Epochs:
    """Return what knows the cursors of this log. Raises DaemonError where no start has left an epoch."""
    epochs = read_epochs(db)
    if not epochs:
        raise DaemonError("the event log has no epochs, so its events have no cursors")
    return Epochs(epochs[:-1], epochs[-1])


def pages(
    db: sqlite3.Connection, epochs: Epochs, after: int, until: int, matches: Callable[[Event], bool] | None
) -> Iterator[Page]:
    """Yield the events after `after` and up to `until`, of those that `matches` is true of, a page at a time.

    What is trimmed before its page is read is not there; `oldest` of the page tells.
    """
    query = Query(None, matches, PAGE_EVENTS, PAGE_BYTES)
    while after < until:
        with moment(db):
            page = rows.read_page(db, after, until, query, epochs)
        yield page
        after = page.last
