"""The directory where one daemon keeps its files, and the only place that knows whether a daemon runs there.

Owns `daemon.lock`, which the daemon holds (flock) for as long as its process lives, and `daemon.json`, which tells
others where to find it. The lock alone decides who runs: the kernel releases it when the process ends, however it
ends, so a `daemon.json` beside a free lock is stale, whatever process has its pid by now. The event log is in the
same directory, and belongs to others.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from opencode_events import lockfile
from opencode_events.errors import DaemonError

LOCK_NAME = "daemon.lock"
INFO_NAME = "daemon.json"
DRAIN_NAME = "daemon.drain"
ALREADY_RUNNING = 3  # the exit code of a daemon that finds another one; the command line documents it

# Whoever asks `is_held` takes the lock for some microseconds. A daemon that starts in that moment tries again.
ACQUIRE_TRIES = 25
ACQUIRE_PAUSE_S = 0.02


@dataclasses.dataclass(frozen=True)
class DaemonInfo:
    """What `daemon.json` says of the daemon that runs: its process, where it answers, and its version."""

    pid: int
    url: str
    version: str


class StateDir:
    """A state directory that this process has to itself, from `with` to the end of its block.

    Entering makes the directory (mode 0700; an existing one keeps its mode), takes the lock and removes what a killed
    daemon left. It raises DaemonError when another daemon holds the lock, after half a second, or when the directory
    cannot be used. Leaving removes `daemon.json` and releases the lock; the lock's file stays, because removing it
    could take away the one that the next daemon has just locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def __enter__(self) -> Self:
        make(self.path)
        try:
            lock = lockfile.open_lock(self.path / LOCK_NAME)
        except OSError as error:
            raise unusable(self.path, error) from error
        try:
            if not _acquire(lock):
                raise DaemonError(f"already running: {_describe_holder(self.path)}", exit_code=ALREADY_RUNNING)
            os.ftruncate(lock, 0)
            os.pwrite(lock, b"%d\n" % os.getpid(), 0)
            for name in (INFO_NAME, DRAIN_NAME):
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            os.close(lock)
            raise unusable(self.path, error) from error
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return self

    def announce(self, url: str, version: str) -> None:
        """Tell others, in `daemon.json`, that the daemon answers at `url`. They see the whole file or none."""
        assert self._lock is not None, "only the holder of the lock announces itself"
        info = DaemonInfo(os.getpid(), url, version)
        draft = self.path / f".{INFO_NAME}.{info.pid}"
        try:
            draft.write_text(json.dumps(dataclasses.asdict(info)) + "\n", encoding="utf-8")
            draft.replace(self.path / INFO_NAME)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise unusable(self.path, error) from error

    def asked_drain_s(self) -> float | None:
        """Return the seconds that whoever stops this daemon gives its subscribers; None if that was not said."""
        try:
            pid, text = (self.path / DRAIN_NAME).read_text("ascii").split()
            seconds = float(text)
            return seconds if int(pid) == os.getpid() and 0 <= seconds < math.inf else None
        except (OSError, ValueError):
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            with contextlib.suppress(OSError, DaemonError):  # a file that stays is stale, and seen to be
                info = _read_info(self.path)
                if info is not None and info.pid == os.getpid():  # another's, if the directory was removed and remade
                    (self.path / INFO_NAME).unlink()
                (self.path / DRAIN_NAME).unlink(missing_ok=True)
                os.ftruncate(lock, 0)
        finally:
            os.close(lock)


def make(path: Path) -> None:
    """Make the directory for its owner alone, unless it is there. Raises DaemonError when it cannot be."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(path, error) from error


def read(path: Path) -> DaemonInfo | None:
    """Return the daemon that runs on `path`; None if none does, or none has announced itself yet.

    Raises DaemonError when the directory cannot be read.
    """
    info = _read_info(path)
    return info if info is not None and is_held(path) else None


def is_held(path: Path) -> bool:
    """Ask whether a daemon has `path`, announced or not. Raises DaemonError when that cannot be found out."""
    try:
        lock = os.open(path / LOCK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        raise unusable(path, error) from error
    finally:
        os.close(lock)
    return False


def holder_pid(path: Path) -> int | None:
    """Return the process that has `path`, announced or not; None if nobody has."""
    try:
        pid = int((path / LOCK_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return pid if is_held(path) else None


def ask_drain(path: Path, pid: int, seconds: float) -> None:
    """Have the daemon `pid` give its subscribers so many seconds when it is stopped. Raises DaemonError.

    A signal cannot carry a number; and who may write here may stop the daemon anyway.
    """
    draft = path / f".{DRAIN_NAME}.{os.getpid()}"
    try:
        draft.write_text(f"{pid} {seconds!r}\n", "ascii")
        draft.replace(path / DRAIN_NAME)
    except OSError as error:
        raise unusable(path, error) from error


def remove_stale(path: Path) -> bool:
    """Remove the `daemon.json` of a daemon that was killed, and tell whether there was one.

    This is done as a daemon does it, under the lock, so one that is starting never loses the file it has just written.
    """
    if not (path / INFO_NAME).exists():
        return False
    try:
        with StateDir(path):
            return True
    except DaemonError:
        return False


def unusable(path: Path, error: OSError) -> DaemonError:
    """Return the one-line error for a state directory that the system refuses."""
    return DaemonError(f"the state directory {path} cannot be used: {error.strerror or error}")


def _acquire(lock: int) -> bool:
    """Take the lock, if nobody keeps it longer than a look takes."""
    for _ in range(ACQUIRE_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(ACQUIRE_PAUSE_S)
        else:
            return True
    return False


def _read_info(path: Path) -> DaemonInfo | None:
    """Return what `daemon.json` says, stale or not; None if it is absent or not ours to understand."""
    try:
        found = json.loads((path / INFO_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(path, error) from error
    except ValueError:
        return None
    match found:
        case {"pid": int(pid), "url": str(url), "version": str(version)}:
            return DaemonInfo(pid, url, version)
    return None


def _describe_holder(path: Path) -> str:
    """Say who holds the lock, as well as is known."""
    info, pid = _read_info(path), holder_pid(path)
    if info is not None and info.pid == pid:
        return f"pid {info.pid} at {info.url} on {path}"
    return f"pid {pid or 'unknown'} on {path}, not answering yet"
