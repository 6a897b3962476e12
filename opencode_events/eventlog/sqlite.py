"""The event log in one SQLite file (WAL), or in memory.

A small commit with `durability=normal` is a write into the page cache, some 30 us, and is done on the loop; whatever
can wait for a disk (fsync, a large batch, a checkpoint, trimming) is done on the log's writing thread while the loop
goes on. Pages are read on a thread of their own, over a connection of their own: readers and the writer never wait for
each other.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from opencode_events.cursor import Cursor, mint_epoch
from opencode_events.errors import DaemonError, LogUnavailable
from opencode_events.eventlog import aggregates, rescue, retention, rows
from opencode_events.eventlog.base import Aggregate, Appended, Outcome, Page, Query, SyncRow
from opencode_events.eventlog.claim import Claim
from opencode_events.eventlog.database import MEMORY, Database, transaction
from opencode_events.eventlog.epochs import Epoch, Epochs
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings

# More than this in one commit goes to the thread: at 5 us a row the loop would be held for over 2 ms.
INLINE_EVENTS = 400
INLINE_BYTES = 512 * 1024
# A commit writes at least the last leaf of the table and one of each index.
COMMIT_BYTES = 16 * 1024
ROW_BYTES = 250
# How SQLite says it.
FULL = "database or disk is full"

Result = TypeVar("Result")


class SqliteLog:
    """An `EventLog`. Opening it closes the epoch before and mints a new one. Raises DaemonError when it cannot.

    `clock` returns Unix time in seconds: the age of events is the one thing here that a wall clock decides.
    """

    def __init__(
        self, path: Path | None, settings: EventLogSettings, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self.settings = settings
        self._durable = settings.durability == "full" and path is not None
        self._clock = clock
        self._is_closed = False
        self._is_failing = False
        self._is_full = False
        self._is_between_epochs = False  # the file is another one, and the epoch of what comes into it has not begun
        self._used_bytes = 0
        self.head = 0
        self.newest_ms: int | None = None
        self._oldest: int | None = None
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="eventlog-write")
        self._reads = ThreadPoolExecutor(1, thread_name_prefix="eventlog-read")
        try:
            with contextlib.ExitStack() as opened:
                claim = None if path is None else opened.enter_context(contextlib.closing(Claim(path)))
                if path is not None:
                    rescue.finish(path)
                self._database = Database(path, durable=self._durable)
                opened.callback(lambda: self._database.close())
                if claim is not None:
                    claim.give_to_owner()
                self._begin_epoch()
                self.newest_ms = rows.newest_ms(self._database.writer)
                self._opened = opened.pop_all()
        except (sqlite3.Error, OSError) as error:
            raise DaemonError(f"the event log {path or MEMORY} cannot be opened: {error}") from error

    def _begin_epoch(self) -> None:
        """Close the epoch before at the newest event that there is, or was in this process, and begin another one."""
        execute = self._database.writer.execute
        epoch = mint_epoch()
        (newest,) = execute("SELECT max(position) FROM event").fetchone()
        (marked,) = execute("SELECT max(value) FROM mark WHERE name = 'head'").fetchone()
        head = max(newest or 0, marked or 0, self.head)
        with self._database.patient(), transaction(self._database.writer):
            # Rows that somebody deleted may have belonged to earlier epochs too: those end here as well.
            execute("UPDATE epoch SET first = min(first, ? + 1), last = ? WHERE last IS NULL OR last > ?", (head,) * 3)
            execute("INSERT INTO epoch VALUES (?, ?, NULL)", (epoch, head + 1))
            execute("INSERT OR REPLACE INTO mark VALUES ('head', ?)", (head,))
        past = execute("SELECT epoch, first, last FROM epoch WHERE last IS NOT NULL").fetchall()
        self._epochs = Epochs((Epoch(*row) for row in past), Epoch(epoch, head + 1, None))
        self.epoch, self.head, self._is_between_epochs = epoch, head, False
        self._database.checkpoint()
        self._look()

    # --- append

    def append_nowait(self, batches: Sequence[Sequence[Event]]) -> list[Outcome] | None:
        """See `EventLog.append_nowait`."""
        if self._durable or self._is_failing or self._database.is_checkpoint_due or self._database.is_lost:
            return None
        if sum(map(len, batches)) > INLINE_EVENTS or sum([len(e.envelope) for b in batches for e in b]) > INLINE_BYTES:
            return None
        try:
            return self._commit(batches)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                return None  # another process writes: the thread can wait for it
            raise self._unavailable(error) from error

    async def append(self, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        """See `EventLog.append`. Runs on the log's thread, and makes the checkpoint that is due."""
        return await asyncio.get_running_loop().run_in_executor(self._writes, self._append, batches)

    def _append(self, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        with self._translating():
            self._keep_file()
            with self._database.patient():
                outcomes = self._commit(batches)
            self._is_failing = self._is_full = False
            if self._database.is_checkpoint_due:
                self._database.checkpoint()
            return outcomes

    def _commit(self, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        """Append all batches in one transaction. Raises sqlite3.Error with nothing stored."""
        db, head, written, now_ms = self._database.writer, self.head, COMMIT_BYTES, int(self._clock() * 1000)
        # A lone plain event's statement commits by itself.
        is_alone = len(batches) == 1 and len(batches[0]) == 1 and batches[0][0].seq is None
        outcomes: list[Outcome] = []
        with self._database.writing:
            try:
                if not is_alone:
                    db.execute("BEGIN IMMEDIATE")
                for batch in batches:
                    outcome = rows.insert_batch(db, batch, head + 1, now_ms, self.epoch)
                    if isinstance(outcome, Appended):
                        head += len(outcome.events)
                        written += sum([len(event.envelope) + ROW_BYTES for event in outcome.events])
                    outcomes.append(outcome)
                if not is_alone:
                    db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        if self._oldest is None and head > self.head:
            self._oldest = self.head + 1
        self.head = head
        self._database.written += written
        return outcomes

    # --- sequences

    async def learn(self, places: Mapping[str, Aggregate]) -> None:
        """See `EventLog.learn`. Runs on the log's thread."""
        await asyncio.get_running_loop().run_in_executor(self._writes, self._learn, dict(places))

    def _learn(self, places: Mapping[str, Aggregate]) -> None:
        with self._translating(), self._database.writing:
            self._keep_file()
            with self._database.patient(), transaction(self._database.writer):
                aggregates.learn(self._database.writer, places)
            self._is_failing = self._is_full = False
            self._database.written += COMMIT_BYTES + len(places) * ROW_BYTES
            if self._database.is_checkpoint_due:
                self._database.checkpoint()

    async def aggregates(self) -> dict[str, Aggregate] | None:
        """See `EventLog.aggregates`."""
        return await self._on_reader(aggregates.read)

    # --- the log's own work

    async def maintain(self) -> bool:
        """See `EventLog.maintain`."""
        return await asyncio.get_running_loop().run_in_executor(self._writes, self._maintain)

    def _maintain(self) -> bool:
        with self._translating(), self._database.writing:
            self._keep_file()
            database = self._database
            if not database.has_room() and self._is_full:
                raise sqlite3.OperationalError(FULL)
            if self._is_failing:  # is it well again? A commit tells, and nothing else does
                database.writer.execute("UPDATE mark SET value = max(value, ?) WHERE name = 'head'", (self.head,))
                self._is_failing = self._is_full = False
            settings = self.settings
            since_ms = int((self._clock() - settings.log_max_age_s) * 1000)
            limits = retention.Limits(settings.log_max_events, settings.log_max_bytes, since_ms)
            with database.patient():
                trimmed = retention.trim(database.writer, self.head, limits, database.used_bytes())
            database.written += trimmed.size + trimmed.events * ROW_BYTES
            if database.is_checkpoint_due:
                database.checkpoint()
            self._look()
            return trimmed.events > 0

    def _keep_file(self) -> None:
        """If what is committed would not be found at the path, bring everything to a new file there."""
        if self._database.is_lost:
            held = range(self.oldest, self.head + 1)
            self._database = rescue.rescue(self._database, held, durable=self._durable)
            self._is_between_epochs = True
        if self._is_between_epochs:
            self._begin_epoch()

    def _look(self) -> None:
        """Note what others may have changed, such as a `log trim`."""
        (self._oldest,) = self._database.writer.execute("SELECT min(position) FROM event").fetchone()
        self._used_bytes = self._database.used_bytes()

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """Turn what SQLite, the system or a file that is not ours raise into LogUnavailable."""
        try:
            yield
        except (sqlite3.Error, OSError, DaemonError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> LogUnavailable:
        self._is_failing, self._is_full = True, FULL in str(error)
        return LogUnavailable(str(error))

    # --- read

    @property
    def oldest(self) -> int:
        """See `EventLog.oldest`."""
        return self.head + 1 if self._oldest is None else self._oldest

    async def read(self, after: int, until: int, query: Query) -> Page:
        """See `EventLog.read`."""
        return await self._on_reader(rows.read_page, after, until, query, self._epochs)

    async def history(self, known: Mapping[str, int]) -> AsyncIterator[Sequence[SyncRow]]:
        """See `EventLog.history`."""
        place: rows.Place | None = rows.Place()
        while place is not None:
            page, place = await self._on_reader(rows.read_history, known, place)
            if page:
                yield page

    async def _on_reader(self, read: Callable[..., Result], *arguments: object) -> Result:
        """Call `read` with the reading connection, on the reading thread."""

        def work() -> Result:
            try:
                with self._database.reading() as db:
                    return read(db, *arguments)
            except sqlite3.Error as error:
                raise LogUnavailable(str(error)) from error

        return await asyncio.get_running_loop().run_in_executor(self._reads, work)

    # --- what can be asked

    def cursor(self, position: int) -> Cursor:
        """See `EventLog.cursor`."""
        return self._epochs.cursor(position)

    def is_known(self, cursor: Cursor) -> bool:
        """See `EventLog.is_known`. An epoch's cursors begin before its first event."""
        return self._epochs.is_known(cursor, self.head)

    def close(self) -> None:
        """See `EventLog.close`."""
        if not self._is_closed:
            self._is_closed = True
            self._reads.shutdown()
            self._writes.shutdown()
            self._opened.close()

    def statistics(self) -> dict[str, object]:
        """See `EventLog.statistics`."""
        return {
            "path": str(self._path or MEMORY),
            "epoch": self.epoch,
            "head": self.head,
            "oldest": self.oldest,
            "events": self.head - self.oldest + 1,
            "used_bytes": self._used_bytes,
            "durability": "full" if self._durable else "normal",
        }
