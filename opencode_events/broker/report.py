"""What is known of a handle, for people: the object that `/-/subscribers` has for it, and the line at its end.

And of those that are over, the last thousand.
"""

from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from opencode_events.broker.lifecycle import FORCED
from opencode_events.broker.owner import Owner
from opencode_events.broker.subscriber import Subscriber

log = structlog.get_logger()


class Closed:
    """The last handles that are over, `kept` at most, and, in `reasons`, how many there ever were for each reason.

    `sent_events` and `sent_bytes` are what all of them had been sent.
    """

    def __init__(self, kept: int) -> None:
        self.reasons: dict[str, int] = {}
        self.sent_events = 0
        self.sent_bytes = 0
        self._newest: deque[dict[str, Any]] = deque(maxlen=kept)

    def note(self, subscriber: Subscriber, now_s: float) -> None:
        """Log and remember one that is over."""
        assert subscriber.reason is not None
        reason = subscriber.reason.value
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.sent_events += subscriber.sent_events
        self.sent_bytes += subscriber.sent_bytes
        fields = farewell(subscriber, now_s)
        self._newest.append({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})
        tell = log.warning if subscriber.reason in FORCED else log.info
        tell("subscriber.closed", **fields)

    def statistics(self, others: Sequence[Subscriber]) -> dict[str, object]:
        """Return how many are over, by reason, and what was sent to them and to the others, who are there still."""
        return {
            "subscribers_closed": dict(self.reasons),
            "sent_events": self.sent_events + sum([one.sent_events for one in others]),
            "sent_bytes": self.sent_bytes + sum([one.sent_bytes for one in others]),
        }

    def newest_first(self) -> list[dict[str, Any]]:
        """Return what is remembered."""
        return list(reversed(self._newest))


def report(subscriber: Subscriber, owner: Owner) -> dict[str, Any]:
    """Return one handle as plain values."""
    selection, terms, outbox = subscriber.feed.selection, subscriber.terms, subscriber.outbox
    peak_events, peak_bytes = peak(subscriber)
    return {
        "id": subscriber.id,
        "peer": terms.peer,
        "state": subscriber.state.value,
        "reason": subscriber.reason.value if subscriber.reason else None,
        "selection": {
            "stream": selection.stream,
            "format": selection.form,
            "directory": selection.directory,
            "session": sorted(selection.sessions),
            "types": sorted(selection.types),
            "sync": selection.sync,
            "workspace": sorted(selection.workspaces),
            "within": None if selection.within is None else selection.within.names(),
        },
        "on_overflow": terms.on_overflow,
        "end": terms.end,
        "open_s": round(owner.clock() - subscriber.opened_at, 3),
        "is_parked": outbox.is_paused,
        "queued_events": subscriber.queued_events,
        "queued_bytes": subscriber.queued_bytes,
        "queued_s": round(subscriber.queued_s, 3),
        "peak_queued_events": peak_events,
        "peak_queued_bytes": peak_bytes,
        "transport_bytes": outbox.connection.buffered() if outbox.connection is not None else 0,
        "sent_events": subscriber.sent_events,
        "sent_bytes": subscriber.sent_bytes,
        "cursor": owner.cursor(subscriber.position),
        "lag_events": owner.head_position - subscriber.position,
    }


def farewell(subscriber: Subscriber, now_s: float) -> dict[str, Any]:
    """Return the fields of the line that is logged when a handle is over."""
    peak_events, peak_bytes = peak(subscriber)
    return {
        "subscriber": subscriber.id,
        "peer": subscriber.terms.peer,
        "reason": subscriber.reason.value if subscriber.reason else None,
        "open_s": round(now_s - subscriber.opened_at, 3),
        "sent_events": subscriber.sent_events,
        "sent_bytes": subscriber.sent_bytes,
        "peak_queued_events": peak_events,
        "peak_queued_bytes": peak_bytes,
    }


def peak(subscriber: Subscriber) -> tuple[int, int]:
    """Return the most events, and the most bytes, that ever waited."""
    backlog = subscriber.outbox.backlog
    return (0, 0) if backlog is None else (backlog.peak_events, backlog.peak_bytes)
