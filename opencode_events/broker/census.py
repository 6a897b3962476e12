"""A look at all handles at once: how many there are in each state, and how what waits for them is distributed.

It costs some microseconds a handle, so it is taken some at a time, with a turn of the loop between them, and only when
somebody asks. Each handle is counted once, as it was when its turn came.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable

from opencode_events.broker.lifecycle import State
from opencode_events.broker.subscriber import Subscriber
from opencode_events.histogram import Histogram

# Handles that are looked at in one turn of the loop: less than 1 ms.
SLICE = 250
EVENTS = (0, 1, 10, 100, 500, 1_000, 2_500, 5_000, 7_500, 10_000, 25_000, 100_000)
BYTES = (0, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 8_388_608, 16_777_216, 33_554_432, 67_108_864)
AGE_S = (0.0, 0.01, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 180.0, 600.0)


class Census:
    """What was found. `states` counts by stream and state; the histograms have one value for each handle."""

    def __init__(self) -> None:
        self.states: Counter[tuple[str, str]] = Counter()
        self.lagging = 0
        self.queued_events = Histogram(EVENTS)
        self.queued_bytes = Histogram(BYTES)
        self.queued_s = Histogram(AGE_S)

    def count(self, subscriber: Subscriber, now_s: float) -> None:
        """Count one handle."""
        self.states[subscriber.feed.selection.stream, subscriber.state.value] += 1
        backlog = subscriber.outbox.backlog
        if not backlog:  # most have none, or an empty one
            self.queued_events.observe(0)
            self.queued_bytes.observe(0)
            self.queued_s.observe(0.0)
            return
        self.lagging += backlog.is_lagging
        self.queued_events.observe(backlog.events)
        self.queued_bytes.observe(backlog.bytes)
        self.queued_s.observe(max(now_s - backlog.first.since, 0.0))


async def take(subscribers: Iterable[Subscriber], now_s: float) -> Census:
    """Count all of them; `now_s` is of the handles' clock. Whoever is over when its turn comes is not counted."""
    census, waiting = Census(), list(subscribers)
    for start in range(0, len(waiting), SLICE):
        if start:
            await asyncio.sleep(0)
        for subscriber in waiting[start : start + SLICE]:
            if subscriber.state is not State.CLOSED:
                census.count(subscriber, now_s)
    return census
