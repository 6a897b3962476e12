"""Latencies: a bounded sample of a stream of numbers, and its percentiles. Pure."""

import math
from collections.abc import Sequence


class Sample:
    """Keeps every n-th of the values added, with n doubling whenever `limit` values are held.

    So the sample covers the whole run evenly, and memory and time stay bounded at any rate.
    """

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._stride = 1
        self._added = 0
        self.values: list[int] = []

    def add(self, value: int) -> None:
        """Take one more value into account."""
        if self._added % self._stride == 0:
            self.values.append(value)
            if len(self.values) >= self._limit:
                self.values = self.values[::2]
                self._stride *= 2
        self._added += 1

    def clear(self) -> None:
        """Forget everything."""
        self._stride = 1
        self._added = 0
        self.values = []


def percentile(ordered: Sequence[int], percent: float) -> int | None:
    """Return the smallest of the sorted values that has `percent` % of them at or below it; None if there is none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
