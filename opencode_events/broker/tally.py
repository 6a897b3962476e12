"""What a broker has done since its start, as numbers: what was published, who came, who fell behind. Pure.

Counted once for each batch or each subscriber, never for each event and subscriber: what was sent is summed over the
handles when somebody asks, and over those that are over by `report.Closed`.
"""

from opencode_events.eventlog.base import Appended
from opencode_events.histogram import SECONDS, Histogram

# How a subscription can begin, as to the place that was asked for.
STARTS = ("fresh", "hit", "expired")


class Tally:
    """The counts. `publish_s` has how long each publisher waited, those whose events were refused left out."""

    def __init__(self) -> None:
        self.published_events = 0
        self.published_bytes = 0
        self.duplicate_events = 0
        self.opened = 0
        self.starts = dict.fromkeys(STARTS, 0)
        self.fell_behind = 0
        self.caught_up = 0
        self.publish_s = Histogram(SECONDS)

    def stored(self, appended: Appended) -> None:
        """Count a batch that is in the log; the bytes are those of its envelopes."""
        self.published_events += len(appended.events)
        self.published_bytes += sum([len(event.envelope) for event in appended.events])
        self.duplicate_events += appended.duplicates

    def came(self, *, is_resuming: bool, has_missed: bool) -> None:
        """Count one who subscribes: at the head, after a place, or after one that cannot be served."""
        self.opened += 1
        self.starts["expired" if has_missed else "hit" if is_resuming else "fresh"] += 1

    def statistics(self) -> dict[str, object]:
        """Return the counts."""
        return {
            "published_events": self.published_events,
            "published_bytes": self.published_bytes,
            "duplicate_events": self.duplicate_events,
            "publish_s": self.publish_s,
            "subscribers_opened": self.opened,
            "starts": dict(self.starts),
            "fell_behind": self.fell_behind,
            "caught_up": self.caught_up,
        }
