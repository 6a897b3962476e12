"""One daemon for one log: whoever has `<log>.lock` locked may append. Two would give one place to two events.

The lock of a state directory does not tell: `log_path` may lead from several directories to one file. It is a file of
its own, for SQLite's locks are on the log's, and go when anybody in the process closes that. Tools need none: what they
do is a transaction, which finds the places as they are.
"""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from opencode_events import lockfile
from opencode_events.errors import DaemonError


class Claim:
    """The log at `path` is this process's from now on, until `close`, or its end, however it ends.

    The file stays: removing it could take away the one that the next daemon has just locked. Raises DaemonError when
    another process has the log, OSError when the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._path = path.resolve()  # beside the log itself, whatever links lead there
        except RuntimeError as error:  # links in a circle; an OSError in later versions of Python
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from error
        self._lock: int | None = lockfile.open_lock(Path(f"{self._path}.lock"))
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._lock, 0)
            with contextlib.suppress(OSError):  # a full disk: it is only told to people
                os.pwrite(self._lock, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            who = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            self.close()
            raise DaemonError(f"the event log {path} is in use by another process: pid {who or 'unknown'}") from error
        except BaseException:
            self.close()
            raise

    def give_to_owner(self) -> None:
        """Have a log that root has made belong to whom its directory does. Raises OSError."""
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                lockfile.give_to_owner(Path(f"{self._path}{suffix}"))

    def close(self) -> None:
        """Let others have it. Twice is fine."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
