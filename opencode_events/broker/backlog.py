"""What one subscriber has waiting: a deque of shared segments, capped in events and in bytes.

Owns the caps and the counting; knows nothing of sockets or time. Segments are shared between backlogs, so nothing
here changes one but for the count of its holders, which is the budget's. Pure.

Why 10 000 events and 32 MiB, whichever comes first: the fastest flood a real server makes is about 1 300 events a
second, so 10 000 is some 8 s of it, longer than a laptop's hiccup and shorter than anybody's patience; of the
recorded events 10 000 weigh 10 MiB on average, but 1 % of them carry most of the bytes, so a count alone bounds
nothing. The cap is on what is undrained, never on throughput: 12 000 events pass if the client reads. Nothing
is ever dropped from the middle: a subscriber at its cap is ended, and comes back to where it was.
"""

from collections import deque

from opencode_events.broker.budget import Budget
from opencode_events.broker.feed import Segment
from opencode_events.broker.lifecycle import Reason
from opencode_events.settings import BrokerSettings

# A client is told that it lags at this share of either cap, and may be told again when it has come down to half of it.
LAGGING = 0.75
CAUGHT_UP = LAGGING / 2


class Backlog:
    """The segments that one subscriber has not been given yet.

    `events` and `bytes` are exact, and never above the caps, but that an empty backlog admits one segment of any
    size: else an event above the cap could never be had.
    """

    __slots__ = ("_budget", "_segments", "_settings", "bytes", "events", "is_lagging", "peak_bytes", "peak_events")

    def __init__(self, settings: BrokerSettings, budget: Budget) -> None:
        self._settings = settings
        self._budget = budget
        self._segments: deque[Segment] = deque()
        self.events = 0
        self.bytes = 0
        self.peak_events = 0
        self.peak_bytes = 0
        self.is_lagging = False

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def first(self) -> Segment:
        """The segment that is next to be sent. The backlog must not be empty."""
        return self._segments[0]

    @property
    def last(self) -> Segment:
        """The segment that came last. The backlog must not be empty."""
        return self._segments[-1]

    def refusal(self, segment: Segment) -> Reason | None:
        """Return the cap that `segment` would pass, or None when there is room for it."""
        if not self._segments:
            return None
        if self.events + segment.events > self._settings.backlog_events:
            return Reason.OVERFLOW_EVENTS
        if self.bytes + segment.size > self._settings.backlog_bytes:
            return Reason.OVERFLOW_BYTES
        return None

    def append(self, segment: Segment) -> None:
        """Hold one more segment, whatever the caps say."""
        self._budget.hold(segment)
        self._segments.append(segment)
        self.events += segment.events
        self.bytes += segment.size
        self.peak_events = max(self.peak_events, self.events)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def popleft(self) -> Segment:
        """Give up the first segment."""
        segment = self._segments.popleft()
        self.events -= segment.events
        self.bytes -= segment.size
        self._budget.release(segment)
        return segment

    def discard(self, *, keep: int = 0) -> None:
        """Give up all but the first `keep` segments."""
        while len(self._segments) > keep:
            segment = self._segments.pop()
            self.events -= segment.events
            self.bytes -= segment.size
            self._budget.release(segment)

    def began_to_lag(self) -> bool:
        """Tell, once per episode, that a cap is three quarters used."""
        if self.is_lagging or self._share() <= LAGGING:
            return False
        self.is_lagging = True
        return True

    def caught_up(self) -> None:
        """Note that the backlog has become shorter: below 37.5 % of both caps the next episode may be told."""
        if self.is_lagging and self._share() < CAUGHT_UP:
            self.is_lagging = False

    def _share(self) -> float:
        return max(self.events / self._settings.backlog_events, self.bytes / self._settings.backlog_bytes)
