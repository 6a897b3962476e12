"""A histogram that costs a comparison or two: how often a value came that was no larger than each of a few bounds.

For what is worth knowing by its distribution: how long publishers wait, how late the loop is. Knows no unit and no
name; `web.metrics` gives it both. Pure.
"""

from bisect import bisect_left
from collections.abc import Sequence

# Seconds: from a commit into the page cache to what nobody waits for.
SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """Counts values. `bounds` are in rising order; a value that is equal to one counts there."""

    __slots__ = ("_bounds", "_counts", "peak", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0
        self.peak = 0.0

    def observe(self, value: float) -> None:
        """Count one value, which is not negative."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value
        if value > self.peak:
            self.peak = value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[float, int]]:
        """Return for each bound how many values were no larger."""
        found, below = [], 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            below += count
            found.append((bound, below))
        return found

    def summary(self) -> dict[str, float]:
        """Return it for people. `p99` is a bound, or the peak, that 99 of 100 values are no larger than."""
        count = self.count
        bounds = [bound for bound, below in self.buckets() if below >= 0.99 * count]
        p99 = min(bounds[0], self.peak) if bounds else self.peak
        mean = self.sum / count if count else 0.0
        return {"count": count, "mean": round(mean, 6), "p99": round(p99, 6), "peak": round(self.peak, 6)}
