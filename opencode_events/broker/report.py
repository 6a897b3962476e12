"""What is known of a handle, for people: the object that `/-/subscribers` has for it, and the line at its end.

And of those that are over, the last thousand.
"""

from collections import deque
from datetime import UTC, datetime
from typing import Any

import structlog

from opencode_events.broker.lifecycle import FORCED
from opencode_events.broker.owner import Owner
from opencode_events.broker.subscriber import Subscriber

log = structlog.get_logger()


class Closed:
    """The last handles that are over, `kept` at most, and, in `reasons`, how many there ever were for each reason."""

    def __init__(self, kept: int) -> None:
        self.reasons: dict[str, int] = {}
        self._newest: deque[dict[str, Any]] = deque(maxlen=kept)

    def note(self, subscriber: Subscriber, now_s: float) -> None:
        """Log and remember one that is over."""
        assert subscriber.reason is not None
        reason = subscriber.reason.value
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        fields = farewell(subscriber, now_s)
        self._newest.append({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})
        tell = log.warning if subscriber.reason in FORCED else log.info
        tell("subscriber.closed", **fields)

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
        },
        "on_overflow": terms.on_overflow,
        "end": terms.end,
        "open_s": round(owner.clock() - subscriber.opened_at, 3),
        "is_parked": outbox.is_paused,
        "queued_events": subscriber.queued_events,
        "queued_bytes": subscriber.queued_bytes,
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
