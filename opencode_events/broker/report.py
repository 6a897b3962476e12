"""What is known of a handle, for people: the object that `/-/subscribers` has for it, and the line at its end."""

from typing import Any

from opencode_events.broker.owner import Owner
from opencode_events.broker.subscriber import Subscriber


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
