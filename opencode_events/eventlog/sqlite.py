"""The event log in one SQLite file (WAL), or in memory.

One connection, one writer. A small commit with `durability=normal` is a write into the page cache, some 30 us, and is
done on the loop; whatever can wait for a disk (fsync, a large batch, a checkpoint) is done on the log's own
thread while the loop goes on. Replay and retention are not here yet: the log only grows.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from opencode_events.cursor import Cursor, mint_epoch
from opencode_events.errors import DaemonError, LogUnavailable
from opencode_events.eventlog.base import Appended
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings

MEMORY = ":memory:"
APPLICATION_ID = 0x6F636576  # "ocev"
SCHEMA_VERSION = 1
SCHEMA = """
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
"""
INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, is_sync) DO NOTHING"

# More than this in one commit goes to the thread: at 5 us a row the loop would be held for over 2 ms.
INLINE_EVENTS = 400
INLINE_BYTES = 512 * 1024
# Let the WAL grow to about 16 MiB between checkpoints; each costs two fsyncs, during which publishers wait.
CHECKPOINT_BYTES = 16 * 1024 * 1024
# A commit writes at least the last leaf of the table and one of the index.
COMMIT_BYTES = 8 * 1024


class SqliteLog:
    """An `EventLog`. Opening it closes the epoch before and mints a new one. Raises DaemonError when it cannot."""

    def __init__(self, path: Path | None, settings: EventLogSettings) -> None:
        self._path = path
        self._durable = settings.durability == "full" and path is not None
        self._since_checkpoint = 0
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="eventlog")
        self.epoch = mint_epoch()
        with contextlib.ExitStack() as undo:
            try:
                self._db = sqlite3.connect(path or MEMORY, isolation_level=None, check_same_thread=False, timeout=0)
                undo.callback(self._db.close)
                self._open()
            except sqlite3.Error as error:
                raise DaemonError(f"the event log {path or MEMORY} cannot be opened: {error}") from error
            undo.pop_all()

    def _open(self) -> None:
        execute = self._db.execute
        (is_new,) = execute("SELECT count(*) = 0 FROM sqlite_master").fetchone()
        if not is_new and execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise DaemonError(f"{self._path} is another program's database")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise DaemonError(f"the event log {self._path} has schema {version}; this version knows {SCHEMA_VERSION}")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        execute("PRAGMA wal_autocheckpoint = 0")
        if version == 0:
            self._db.executescript(
                f"BEGIN;{SCHEMA}PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
            )
        (self.head,) = execute("SELECT coalesce(max(position), 0) FROM event").fetchone()
        execute("BEGIN IMMEDIATE")
        execute("UPDATE epoch SET last = ? WHERE last IS NULL", (self.head,))
        execute("INSERT INTO epoch VALUES (?, ?, NULL)", (self.epoch, self.head + 1))
        execute("COMMIT")
        epochs = execute("SELECT epoch, first, last FROM epoch WHERE last IS NOT NULL").fetchall()
        self._past = {epoch: (first, last) for epoch, first, last in epochs}
        self._first = self.head + 1
        self._checkpoint()

    def append_nowait(self, batches: Sequence[Sequence[Event]]) -> list[Appended] | None:
        """See `EventLog.append_nowait`."""
        if self._durable or self._since_checkpoint > CHECKPOINT_BYTES:
            return None
        if sum(map(len, batches)) > INLINE_EVENTS or sum(len(e.envelope) for b in batches for e in b) > INLINE_BYTES:
            return None
        return self._commit(batches)

    async def append(self, batches: Sequence[Sequence[Event]]) -> list[Appended]:
        """See `EventLog.append`. Runs on the log's thread, and makes the checkpoint that is due."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit_and_checkpoint, batches)

    def _commit_and_checkpoint(self, batches: Sequence[Sequence[Event]]) -> list[Appended]:
        appended = self._commit(batches)
        if self._since_checkpoint > CHECKPOINT_BYTES:
            self._checkpoint()
        return appended

    def _commit(self, batches: Sequence[Sequence[Event]]) -> list[Appended]:
        alone = len(batches) == 1 and len(batches[0]) == 1  # a statement of its own commits by itself
        head, written = self.head, COMMIT_BYTES
        appended = []
        try:
            if not alone:
                self._db.execute("BEGIN IMMEDIATE")
            for batch in batches:
                first, new = head + 1, []
                for event in batch:
                    row = (
                        head + 1, event.id, event.is_sync, event.type, event.directory, event.workspace,
                        event.session, event.start, event.end, event.envelope,
                    )  # fmt: skip
                    if self._db.execute(INSERT, row).rowcount:
                        head += 1
                        written += len(event.envelope) + 200
                        new.append(event)
                appended.append(Appended(first if new else 0, new, len(batch) - len(new)))
            if not alone:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise LogUnavailable(str(error)) from error
        self.head = head
        self._since_checkpoint += written
        return appended

    def is_known(self, cursor: Cursor) -> bool:
        """See `EventLog.is_known`. An epoch's cursors begin before its first event."""
        past = self._past.get(cursor.epoch)
        first, last = past or (self._first, self.head)
        return (past is not None or cursor.epoch == self.epoch) and first - 1 <= cursor.position <= last

    def _checkpoint(self) -> None:
        """Bring the WAL's pages home. One that another process holds up is tried again 16 MiB later."""
        self._since_checkpoint = 0
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.OperationalError:
            return

    def close(self) -> None:
        """See `EventLog.close`."""
        if not self._closed:
            self._closed = True
            self._thread.shutdown()
            self._db.close()

    def statistics(self) -> dict[str, object]:
        """See `EventLog.statistics`."""
        return {
            "path": str(self._path or MEMORY),
            "epoch": self.epoch,
            "head": self.head,
            "durability": "full" if self._durable else "normal",
        }
