"""How late the loop is: what a callback that is due waits until it gets its turn.

Whatever holds the loop, a slow system call or a bug, holds every subscriber and publisher; here it becomes a number. A
timer is set again and again, and each time its delay is counted.
"""

import asyncio
import time
from collections.abc import Callable

from opencode_events.histogram import Histogram

# Seconds between two measurements: ten thousand of them in an hour, at some microseconds each.
PERIOD_S = 0.25
# Seconds. uvloop counts time in milliseconds, and is one late at the best of times.
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class LoopLag:
    """Measures the loop that `run` is awaited on. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = clock()
        self._lag_s = Histogram(BOUNDS_S)

    async def run(self) -> None:
        """Measure every `PERIOD_S` seconds, until cancelled."""
        while True:
            self._due = self._clock() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self.tick()

    def tick(self) -> None:
        """Count how late it is."""
        self._lag_s.observe(max(self._clock() - self._due, 0.0))

    def statistics(self) -> dict[str, object]:
        """Return what was measured since the start."""
        return {"lag_s": self._lag_s}
