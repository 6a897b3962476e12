"""A log's file: its two connections, whether it is still the file at its path, and when its WAL is brought home.

One connection writes, the other reads, so that neither waits for the other. In memory there is one, under a lock.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import structlog

from opencode_events.errors import DaemonError
from opencode_events.eventlog import schema

log = structlog.get_logger()

MEMORY = ":memory:"
# Let the WAL grow to about 16 MiB between checkpoints; each costs two fsyncs, during which publishers wait. Where less
# than four times that is free, to a quarter of it: what the WAL fills the disk with cannot be brought home any more.
CHECKPOINT_BYTES = 16 * 1024 * 1024
LEAST_CHECKPOINT_BYTES = 256 * 1024
# With less than this a disk counts as full, once it was: a few small commits may fit at any time.
ROOM_BYTES = 1024 * 1024
# Seconds to wait for another process that writes, such as `log trim`. On the log's thread only, never on the loop.
BUSY_S = 2.0

_Identity = tuple[int, int]


class Database:
    """Both connections to the log at `path`, None for one in memory; made, migrated and opened for writing.

    `written` counts bytes that were committed since the last checkpoint, about. Raises DaemonError for a file that is
    not ours, and sqlite3.Error.
    """

    def __init__(self, path: Path | None, *, durable: bool) -> None:
        self.path = path
        self.written = 0
        self._disk_share = CHECKPOINT_BYTES
        self.is_closed = False
        self._lock = threading.Lock()
        # To be held while writing: in memory, those who read use the same connection.
        self.writing: contextlib.AbstractContextManager[object] = (
            self._lock if path is None else contextlib.nullcontext()
        )
        self._is_checkpoint_late = False
        if path is not None:
            _make(path)
        with contextlib.ExitStack() as undo:
            self.writer = _connect(path or MEMORY)
            undo.callback(self.writer.close)
            execute = self.writer.execute
            with self.patient():  # a `log` command may be at work on the file, or just closing it
                schema.check(self.writer, path)  # before anything is written
                execute("PRAGMA journal_mode = WAL")
                execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                execute("PRAGMA wal_autocheckpoint = 0")
                version = schema.prepare(self.writer, path)
            if 0 < version < schema.VERSION:
                log.info("eventlog.migrated", path=str(path), schema=version, to=schema.VERSION)
            self._reader = self.writer
            if path is not None:
                self._reader = _connect(path)
                undo.callback(self._reader.close)
                self._reader.execute("PRAGMA query_only = ON")
                schema.check(self._reader, path)  # SQLite opens its other files only now; later they may be others
            undo.pop_all()
        # Where the path is a link, SQLite has its other files beside what that leads to.
        files = () if path is None else (str(path), *(f"{path.resolve()}-{suffix}" for suffix in ("wal", "shm")))
        # As bytes, which are asked for in three quarters of the time.
        self._own = [(os.fsencode(file), identity(file)) for file in files]
        self._least_size = self._size()

    # --- reading and writing

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection that reads: what is read in the block is of one moment."""
        with self._lock:
            if self.path is None:
                yield self._reader
                return
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Wait, within the block, for another process that writes. Not on the loop."""
        self.writer.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
        try:
            yield
        finally:
            self.writer.execute("PRAGMA busy_timeout = 0")

    # --- the file

    @property
    def is_lost(self) -> bool:
        """Whether what is committed now would not be found at the path again.

        SQLite itself does not look: it commits into a file that was removed or replaced as if nothing had happened.
        Without the -shm beside it, another process that writes does not know of this one, and each spoils the other's.
        """
        size = None
        try:
            for file, known in self._own:
                found = os.stat(file)  # noqa: PTH116  # before each commit: a Path would take twice as long
                if (found.st_dev, found.st_ino) != known:
                    return True
                if size is None:
                    size = found.st_size
        except OSError:
            return True
        return self.is_closed or (size is not None and size < self._least_size and self._lacks_pages())

    @property
    def is_truncated(self) -> bool:
        """Whether the file at the path is the one that is open, and lacks pages that it had."""
        return (
            self.path is not None and self.is_own(self.path) and self._size() < self._least_size and self._lacks_pages()
        )

    def is_own(self, path: Path) -> bool:
        """Tell whether what stands at a path is one of the files that are open."""
        return identity(path) in [known for _, known in self._own]

    def _size(self) -> int:
        try:
            return self.path.stat().st_size if self.path is not None else 0
        except OSError:
            return 0

    def _lacks_pages(self) -> bool:
        """Tell whether a file that became smaller lacks pages; it may also have been vacuumed."""
        try:
            (pages,) = self.writer.execute("PRAGMA page_count").fetchone()
            (size,) = self.writer.execute("PRAGMA page_size").fetchone()
        except sqlite3.Error:
            return True
        found = self._size()
        if pages * size <= found:
            self._least_size = found
            return False
        return True

    @property
    def is_checkpoint_due(self) -> bool:
        """Whether the WAL has grown enough to be brought home. Not on the loop: it waits for the disk."""
        return self.written > min(CHECKPOINT_BYTES, self._disk_share)

    def has_room(self) -> bool:
        """Tell whether more than a little can be written, in pages that are free or new ones. Raises OSError."""
        free, size = (self.writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size"))
        return bool(self._disk_bytes() + free * size >= ROOM_BYTES)

    def _disk_bytes(self) -> int:
        """Return the bytes that are free on the disk; in memory there is always enough. Raises OSError."""
        if self.path is None:
            return 4 * CHECKPOINT_BYTES
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def checkpoint(self) -> None:
        """Bring the WAL's pages home. What another process or a full disk holds up is tried again 16 MiB later."""
        self.written = 0
        try:
            self.writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            if not self._is_checkpoint_late:
                log.warning("eventlog.checkpoint_failed", reason=str(error))
            self._is_checkpoint_late = True
        else:
            self._is_checkpoint_late = False
        self._least_size = self._size()
        with contextlib.suppress(OSError):
            self._disk_share = max(LEAST_CHECKPOINT_BYTES, self._disk_bytes() // 4)

    def used_bytes(self) -> int:
        """Return the bytes of all pages in use; those that trimming has freed, and will be used again, left out."""
        execute = self.writer.execute
        pages, free, size = (
            execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def close(self) -> None:
        """Close both connections; closing twice is fine. Waits for whoever reads."""
        with self._lock:
            self.is_closed = True
            self._reader.close()
            self.writer.close()


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done in the block, or nothing of it. Raises sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def identity(path: str | Path) -> _Identity | None:
    """Return device and inode of a path, None where there is nothing."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make(path: Path) -> None:
    """Make a new file for its owner alone; SQLite's others have its mode. What goes wrong SQLite tells."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle
        os.close(os.open(path.resolve(), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _connect(path: Path | str) -> sqlite3.Connection:
    """Open a connection without waiting for anybody. Raises DaemonError where there is no such place."""
    try:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    except sqlite3.Error as error:
        raise DaemonError(f"the event log {path} cannot be opened: {error}") from error
