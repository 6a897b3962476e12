"""What all subscribers together may hold: distinct segments, each counted once, and what transports buffer. Pure."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opencode_events.broker.feed import Segment
from opencode_events.broker.lifecycle import Reason

if TYPE_CHECKING:
    from opencode_events.broker.subscriber import Subscriber

# The share of the budget that is made free when it is exceeded: looking for the largest costs a look at everybody.
ROOM = 1 / 16

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

    def statistics(self) -> dict[str, object]:
        """Return what is held, was held at most, and may be."""
        return {"held_bytes": self.held, "held_bytes_peak": self.peak, "held_bytes_limit": self.limit}

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


def cut_costliest(budget: Budget, subscribers: Iterable["Subscriber"], clock: Callable[[], float]) -> None:
    """Cut those who cost most, until what is held fits, with some room: it is not done for every byte.

    Each gives its backlog back, and is told. What a transport holds, or a handle that is closing already, is had by a
    reset only.
    """
    enough = budget.limit * (1 - ROOM)

    def price(one: "Subscriber") -> float:
        return cost(one.held_bytes, clock() - one.parked_at)

    while budget.is_exceeded:
        before = budget.held
        for most in sorted(subscribers, key=price, reverse=True):
            held = most.held_bytes
            if budget.held <= enough or not held:
                break
            most.give_up(Reason.OVERFLOW_MEMORY)
            if budget.held > enough and 2 * most.held_bytes > held:
                most.reset(Reason.OVERFLOW_MEMORY)
        if budget.held == before:  # nobody has anything
            return
