"""The newest events, as they were fanned out, so that who comes back soon is served without the log.

It is also what makes joining exact: it always reaches to the head, so a page of it can prove, within one turn of the
loop, that nothing lies between it and what comes live. Pure.
"""

from collections import deque
from itertools import islice

from opencode_events.broker.selection import is_gap
from opencode_events.eventlog.base import Page, Query, Stored
from opencode_events.events import Event
from opencode_events.settings import BrokerSettings


class Recent:
    """A ring of events at consecutive positions, bounded in events and bytes; the newest is always there."""

    def __init__(self, settings: BrokerSettings, head: int) -> None:
        self._max_events = settings.recent_events
        self._max_bytes = settings.recent_bytes
        self._events: deque[Stored] = deque()
        self._bytes = 0
        self._head = head

    def append(self, stored: Stored) -> None:
        """Add the event at the next position."""
        events = self._events
        events.append(stored)
        self._head = stored.position
        self._bytes += len(stored.event.envelope)
        while len(events) > self._max_events or (self._bytes > self._max_bytes and len(events) > 1):
            self._bytes -= len(events.popleft().event.envelope)

    def read(self, after: int, query: Query) -> Page | None:
        """Return what `EventLog.read` would return up to the head, or None where that begins before the ring."""
        skipped = after - self._head + len(self._events)
        if skipped < 0:
            return None
        found: list[Stored] = []
        size = 0
        for stored in islice(self._events, skipped, None):
            event = stored.event
            if not is_wanted(event, query):
                continue
            if found and (len(found) == query.max_events or size + len(event.envelope) > query.max_bytes):
                return Page(found, found[-1].position, 0)
            size += len(event.envelope)
            found.append(stored)
        return Page(found, self._head, 0)


def is_wanted(event: Event, query: Query) -> bool:
    """Tell whether a page shall have an event."""
    if query.directory is not None and (event.is_sync or event.directory != query.directory) and not is_gap(event):
        return False
    return query.matches is None or query.matches(event)
