"""What all subscribers together may hold: distinct segments, each counted once, and what transports buffer. Pure."""

from opencode_events.broker.feed import Segment

# Seconds that count even for who was parked just now, so that of those the largest costs most.
INSTANT_S = 0.001


def cost(held_bytes: int, parked_s: float) -> float:
    """Return what a handle costs: the bytes that it holds, times the seconds since its connection last took some.

    A reader may hold most of all for a moment, when a burst has just come; it is not who the budget is for.
    """
    return held_bytes * (parked_s + INSTANT_S)


class Budget:
    """A count of bytes against `limit`. It refuses nothing; the broker asks `is_exceeded` and cuts who holds most."""

    __slots__ = ("limit", "peak", "segments", "transports")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.segments = 0
        self.transports = 0
        self.peak = 0

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self.segments + self.transports

    @property
    def is_exceeded(self) -> bool:
        """Whether more is held than may be."""
        return self.segments + self.transports > self.limit

    def hold(self, segment: Segment) -> None:
        """Count one more holder of `segment`; its bytes count with the first."""
        if segment.holders == 0:
            self.segments += segment.size
            self.peak = max(self.peak, self.held)
        segment.holders += 1

    def release(self, segment: Segment) -> None:
        """Count one holder less; the bytes are free with the last."""
        segment.holders -= 1
        if segment.holders == 0:
            self.segments -= segment.size

    def buffered(self, change: int) -> None:
        """Count what a paused transport holds (positive), and give it back when it goes on (negative)."""
        self.transports += change
        self.peak = max(self.peak, self.held)
