"""What a process costs, as Linux tells it: CPU time of all its threads, and resident memory.

The texts of /proc are parsed by pure functions. A process that cannot be seen costs `None`, everywhere: the rest of
a measurement is still worth having.
"""

import os
import time
from pathlib import Path

PROC = Path("/proc")
_CPUCLOCK_SCHED = 2


def cpu_ticks(stat: str) -> int:
    """Return utime + stime of a /proc/PID/stat line, in clock ticks. The command in it may contain spaces and `)`."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def cpu_clock(pid: int) -> int:
    """Return the clock of a process' CPU time, as clock_getcpuclockid(3) makes it; `time` has it for threads only."""
    return (~pid << 3) | _CPUCLOCK_SCHED


def resident_bytes(status: str) -> int:
    """Return VmRSS of a /proc/PID/status text, in bytes. Raise ValueError if it has none: a kernel thread, a zombie."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmRSS")


class Process:
    """One process, by its id; `pid` None is a process that cannot be seen."""

    def __init__(self, pid: int | None, root: Path = PROC) -> None:
        self.pid = pid
        self._root = root / str(pid)
        self._is_real = root == PROC
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def cpu_s(self) -> float | None:
        """Return the seconds of CPU time used so far, in the kernel and outside, by threads that are gone as well.

        It is what utime and stime of /proc/PID/stat add up to, but in nanoseconds instead of ticks of 10 ms, where
        the kernel lets us read the process' clock.
        """
        stat = self._text("stat")
        if self.pid is None or stat is None:
            return None
        if self._is_real:
            try:
                return time.clock_gettime(cpu_clock(self.pid))
            except OSError:
                pass
        return cpu_ticks(stat) * self._tick_s

    def rss_bytes(self) -> int | None:
        """Return the resident memory. Pages shared with other processes count in full."""
        status = self._text("status")
        try:
            return None if status is None else resident_bytes(status)
        except ValueError:
            return None

    def _text(self, name: str) -> str | None:
        if self.pid is None:
            return None
        try:
            return (self._root / name).read_text()
        except OSError:
            return None
