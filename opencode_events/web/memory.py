"""Whether there is memory for somebody new. Who is served already has a budget, and stays.

What the process has is compared with what it may have: by setting, or nine tenths of what its control group may have,
or the machine. Beyond that, the system would end somebody, and that would be all of us.
"""

import contextlib
import ctypes
import resource
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from opencode_events.errors import Busy

log = structlog.get_logger()

# Seconds that an answer of the system holds.
LOOK_S = 0.25
# Seconds between two times that what is free is given back to the system: it takes a millisecond for each 10 MB.
GIVE_BACK_S = 5.0
SHARE = 0.9
RETRY_S = 5
CONTROL_GROUPS = Path("/sys/fs/cgroup")


class Memory:
    """Judges by `read`, which returns the bytes that the process has; `limit` is what it may have, 0 for no limit."""

    def __init__(
        self,
        limit: int,
        *,
        read: Callable[[], int] | None = None,
        give_back: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._read = resident_bytes if read is None else read
        self._give_back = give_back_free if give_back is None else give_back
        self._clock = clock
        self._looked_s = self._gave_back_s = float("-inf")
        self._has = 0
        self._is_short = False

    @property
    def trouble(self) -> str | None:
        """Why nobody new is served; None when they are."""
        self._look()
        return f"memory is short: {self._has} bytes are in use, of {self.limit}" if self._is_short else None

    def check(self) -> None:
        """Raise Busy when there is none for somebody new."""
        if (trouble := self.trouble) is not None:
            raise Busy(trouble, retry_after_s=RETRY_S, limit=self.limit)

    def statistics(self) -> dict[str, object]:
        """Return what the process has, what it may have, and whether that is why nobody new is served."""
        self._look()
        rss_bytes = self._has if self.limit else self._read()
        return {"rss_bytes": rss_bytes, "limit_bytes": self.limit, "is_short": self._is_short}

    def _look(self) -> None:
        now_s = self._clock()
        if not self.limit or now_s - self._looked_s < LOOK_S:
            return
        self._looked_s, self._has = now_s, self._read() or self._has  # no descriptor may be left to read it with
        if self._has > self.limit and now_s - self._gave_back_s >= GIVE_BACK_S:
            self._gave_back_s = now_s
            self._give_back()
            self._has = self._read() or self._has
        is_short = self._has > self.limit
        if is_short and not self._is_short:
            log.warning("memory.short", rss_bytes=self._has, limit_bytes=self.limit)
        elif self._is_short and not is_short:
            log.info("memory.eased", rss_bytes=self._has, limit_bytes=self.limit)
        self._is_short = is_short


def memory_bytes() -> tuple[int, int]:
    """Return the process's address space, and what of it is in memory; 0 of both where the system does not tell."""
    try:
        space, resident = Path("/proc/self/statm").read_bytes().split()[:2]
        return int(space) * resource.getpagesize(), int(resident) * resource.getpagesize()
    except (OSError, ValueError):
        return 0, 0


def resident_bytes() -> int:
    """Return what the process has in memory; 0 where the system does not tell."""
    return memory_bytes()[1]


def give_back_free() -> None:
    """Have the C library give what it holds for later back to the system."""
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def allowed_bytes(groups: Path = CONTROL_GROUPS, process: Path = Path("/proc")) -> int:
    """Return what the process should have at most: a share of what its control group, or the machine, has; 0: unknown.

    A group's limit holds for those below it, so the smallest on the way up counts (cgroups, version 2).
    """
    limits = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        own = (process / "self/cgroup").read_text().splitlines()[-1].split(":", 2)[2].strip("/")
        folder = groups / own
        for each in (folder, *folder.parents):
            if each == groups.parent:
                break
            with contextlib.suppress(OSError, ValueError):  # the root has none; `max` is no number
                limits.append(int((each / "memory.max").read_text()))
    with contextlib.suppress(OSError, ValueError, IndexError):
        total = next(line for line in (process / "meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
        limits.append(int(total.split()[1]) * 1024)
    return int(min(limits) * SHARE) if limits else 0
