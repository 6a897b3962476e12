"""What a stretch of time took: on the wall clock, of the daemon's CPU, and of this tool's own."""

import time
from dataclasses import dataclass

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.procfs import Process


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds. `cpu_s`, the daemon's, is None if its process cannot be seen."""

    wall_s: float = 0.0
    cpu_s: float | None = 0.0
    tool_cpu_s: float = 0.0

    @property
    def tool_cores(self) -> float:
        """How many cores this tool kept busy: as many as it has, and it is the tool that was measured."""
        return self.tool_cpu_s / self.wall_s

    def plus(self, other: "Spent") -> "Spent":
        """Return both together."""
        return Spent(
            wall_s=self.wall_s + other.wall_s,
            cpu_s=None if self.cpu_s is None or other.cpu_s is None else self.cpu_s + other.cpu_s,
            tool_cpu_s=self.tool_cpu_s + other.tool_cpu_s,
        )


class Meter:
    """Counts from its making on. `crowds` are those whose processes belong to the tool, beside this one."""

    def __init__(self, process: Process, *crowds: Crowd) -> None:
        self._process = process
        self._crowds = crowds
        self._tool = self._tool_cpu_s()
        self._cpu = process.cpu_s()
        self._start = time.monotonic()

    def read(self) -> Spent:
        """Return what was spent so far."""
        wall_s, cpu_s = time.monotonic() - self._start, self._process.cpu_s()
        return Spent(
            wall_s=wall_s,
            cpu_s=None if cpu_s is None or self._cpu is None else cpu_s - self._cpu,
            tool_cpu_s=self._tool_cpu_s() - self._tool,
        )

    def _tool_cpu_s(self) -> float:
        return time.process_time() + sum(crowd.cpu_s() for crowd in self._crowds)
