"""One subscriber's handle: what it is given, what it has waiting, and how it ends.

A handle that keeps up never touches its backlog: the flusher writes segments straight to its connection. At the
connection's first pause it is parked, and segments wait in its backlog until the connection resumes. It never waits
for anything and owns no task: pause, resume and loss are told to it by its connection.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from opencode_events import wire
from opencode_events.broker.backlog import Backlog
from opencode_events.broker.budget import Budget
from opencode_events.broker.connection import Connection, Terms
from opencode_events.broker.feed import Feed, Segment
from opencode_events.broker.lifecycle import TOLD, TRANSITIONS, Reason, Signal, State
from opencode_events.settings import BrokerSettings

# The most that a connection is given at a time. On asyncio of Python 3.11 the transport copies what it cannot send,
# so this bounds what one stalled subscriber costs beyond the transport's own high-water mark.
WRITE_BYTES = 64 * 1024


class Owner(Protocol):
    """What a handle needs of the broker."""

    settings: BrokerSettings
    budget: Budget

    def cursor(self, position: int) -> str:
        """Return the cursor after `position`."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back in `delay_s` seconds."""

    def clock(self) -> float:
        """Return the time in seconds, of no particular origin."""

    def closing(self, subscriber: "Subscriber") -> None:
        """`subscriber` has begun to close: it must be in no feed any more."""

    def closed(self, subscriber: "Subscriber") -> None:
        """`subscriber` is over."""

    def over_budget(self) -> None:
        """More is held than the budget allows."""


class Subscriber:
    """A handle. `position` is the last that it was given in full.

    `direct` is its connection's `write` while whole segments may be written past the backlog, which then is empty;
    None while it is parked, closing, or speaks HTTP/1.0, which has no chunks.
    """

    __slots__ = (
        "_backlog", "_connection", "_deadline", "_is_finished", "_is_paused", "_offset", "_owner", "_parked_bytes",
        "direct", "feed", "id", "opened_at", "position", "reason", "sent_bytes", "sent_events", "state", "terms",
    )  # fmt: skip

    def __init__(self, number: int, owner: Owner, feed: Feed, terms: Terms, position: int) -> None:
        self.id = number
        self.feed = feed
        self.terms = terms
        self.position = position
        self.state = State.LIVE
        self.reason: Reason | None = None
        self.direct: Callable[[bytes], None] | None = None
        self.opened_at = owner.clock()
        self.sent_events = 0
        self.sent_bytes = 0
        self._owner = owner
        self._connection: Connection | None = None
        self._backlog: Backlog | None = None
        self._offset = 0  # bytes of the backlog's first segment that are written already
        self._is_paused = True
        self._is_finished = False
        self._parked_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None

    # --- what the connection tells

    def attach(self, connection: Connection) -> None:
        """Take the connection, whose response head is out; what has waited meanwhile is sent."""
        if self.state is State.CLOSED:
            connection.reset()
            return
        self._connection = connection
        self.resume()

    def pause(self) -> None:
        """The connection takes no more for now: park."""
        self.direct = None
        self._is_paused = True
        if self._connection is not None and not self._parked_bytes:
            self._parked_bytes = self._connection.buffered()
            self._owner.budget.buffered(self._parked_bytes)
            if self._owner.budget.is_exceeded:
                # Not now: the connection is in the middle of a write.
                self._owner.call_later(0, self._owner.over_budget)

    def resume(self) -> None:
        """The connection takes again: send what has waited."""
        if self._connection is None or self._is_finished:
            return
        self._forget_parked()
        self._is_paused = False
        self._drain()

    def lost(self, reason: Reason) -> None:
        """The connection is over. `reason` is the connection's view; an earlier one of ours stands."""
        if self.state is State.CLOSED:
            return
        self._advance(Signal.GONE, reason)
        self._forget_parked()
        self._drop_backlog()
        if self._deadline is not None:
            self._deadline.cancel()
        self._connection = None
        self._owner.closed(self)

    # --- what the broker does

    def deliver(self, segment: Segment) -> None:
        """Take one segment: send it, or hold it; at a cap, begin to close instead."""
        if self.state is not State.LIVE:
            return
        backlog = self._backlog or self._new_backlog()
        refused = backlog.refusal(segment)
        if refused is not None:
            self.close(refused)
            return
        backlog.append(segment)
        if not self._is_paused:
            self._drain()
        if backlog.began_to_lag():
            settings = self._owner.settings
            self._append_control(
                wire.LAGGING,
                queued_events=backlog.events,
                queued_bytes=backlog.bytes,
                limit_events=settings.backlog_events,
                limit_bytes=settings.backlog_bytes,
            )
        if self._owner.budget.is_exceeded:
            self._owner.over_budget()

    def close(self, reason: Reason) -> None:
        """Take no more; send what is buffered, then the reason, then end. The deadline is `close_flush_s`."""
        if self.state is not State.LIVE:
            return
        self._advance(Signal.CLOSE, reason)
        self._owner.closing(self)
        self._deadline = self._owner.call_later(self._owner.settings.close_flush_s, self.reset)
        if reason is Reason.OVERFLOW_MEMORY and self._backlog is not None:
            # None of it is lost: the log has it. Half a segment cannot be taken back.
            self._backlog.discard(keep=1 if self._offset else 0)
        if reason in TOLD:
            self._append_control(wire.CLOSING, reason=reason.value, cursor=self._owner.cursor(self.queued_position))
        if not self._is_paused:
            self._drain()

    def reset(self, reason: Reason = Reason.CLIENT_LOST) -> None:
        """End the connection now; whatever was buffered is dropped. An earlier reason stands."""
        if self.state is State.LIVE:
            self._advance(Signal.CLOSE, reason)
            self._owner.closing(self)
        self._drop_backlog()
        self._forget_parked()  # now, not when the loss is told: else others would be cut for what is free already
        if self._connection is None:
            self.lost(reason)
        else:
            self._connection.reset()

    # --- what can be asked

    @property
    def queued_events(self) -> int:
        """Events waiting in the backlog."""
        return self._backlog.events if self._backlog is not None else 0

    @property
    def queued_bytes(self) -> int:
        """Bytes waiting in the backlog."""
        return self._backlog.bytes if self._backlog is not None else 0

    @property
    def peak(self) -> tuple[int, int]:
        """The most events, and the most bytes, that ever waited."""
        return (self._backlog.peak_events, self._backlog.peak_bytes) if self._backlog is not None else (0, 0)

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps from being free: those waiting, and those of a parked connection."""
        return self.queued_bytes + self._parked_bytes

    @property
    def queued_position(self) -> int:
        """The position after which a client resumes that reads all it has been, and will be, sent."""
        return self._backlog.last.last if self._backlog else self.position

    def statistics(self) -> dict[str, Any]:
        """Return what is known of the handle, for `/-/subscribers`."""
        selection = self.feed.selection
        return {
            "id": self.id,
            "peer": self.terms.peer,
            "state": self.state.value,
            "reason": self.reason.value if self.reason else None,
            "selection": {
                "stream": selection.stream,
                "format": selection.form,
                "directory": selection.directory,
                "session": sorted(selection.sessions),
                "types": sorted(selection.types),
                "sync": selection.sync,
                "workspace": sorted(selection.workspaces),
            },
            "end": self.terms.end,
            "open_s": round(self._owner.clock() - self.opened_at, 3),
            "is_parked": self._is_paused,
            "queued_events": self.queued_events,
            "queued_bytes": self.queued_bytes,
            "peak_queued_events": self.peak[0],
            "peak_queued_bytes": self.peak[1],
            "transport_bytes": self._connection.buffered() if self._connection is not None else 0,
            "sent_events": self.sent_events,
            "sent_bytes": self.sent_bytes,
            "cursor": self._owner.cursor(self.position),
        }

    # --- inside

    def _advance(self, signal: Signal, reason: Reason) -> None:
        """Change the state as the table says; the first reason stays."""
        self.state = TRANSITIONS[self.state][signal]
        self.reason = self.reason or reason
        self.direct = None

    def _new_backlog(self) -> Backlog:
        if self._backlog is None:
            self._backlog = Backlog(self._owner.settings, self._owner.budget)
        return self._backlog

    def _drop_backlog(self) -> None:
        self._offset = 0
        if self._backlog is not None:
            self._backlog.discard()

    def _forget_parked(self) -> None:
        self._owner.budget.buffered(-self._parked_bytes)
        self._parked_bytes = 0

    def _append_control(self, kind: str, **properties: object) -> None:
        """Queue a frame of this subscriber's own, behind what it has waiting and past the caps."""
        selection = self.feed.selection
        frame = wire.control(selection.stream, selection.form, kind, properties)
        self._new_backlog().append(Segment([frame], 0, self.queued_position))

    def _drain(self) -> None:
        """Write what waits until the connection pauses; when all is out and the stream closes, end it."""
        backlog, connection = self._backlog, self._connection
        assert connection is not None
        while backlog and not self._is_paused:
            pieces, room = [], WRITE_BYTES
            while backlog and room > 0:
                pieces.append(self._next_piece(backlog, room))
                room -= len(pieces[-1])
            self.sent_bytes += WRITE_BYTES - room
            connection.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if backlog is not None:
            backlog.caught_up()
        if backlog:
            return
        if self.state is State.CLOSING:
            self._finish(connection)
        elif self.state is State.LIVE and not self._is_paused and self.terms.is_chunked:
            self.direct = connection.write

    def _next_piece(self, backlog: Backlog, room: int) -> memoryview:
        """Take at most `room` bytes off the backlog's first segment, and the segment with its last byte."""
        segment = backlog.first
        start, end = (0, segment.size) if self.terms.is_chunked else (segment.head, segment.size - 2)
        start += self._offset
        piece = memoryview(segment.data)[start : min(start + room, end)]
        self._offset += len(piece)
        if start + len(piece) == end:
            self._offset = 0
            backlog.popleft()
            self.position = segment.last
            self.sent_events += segment.events
        return piece

    def _finish(self, connection: Connection) -> None:
        """End a stream whose last byte is written. Nothing may be written after the connection's `close`."""
        self._is_finished = True
        if self.terms.is_chunked and (self.terms.end == "clean" or self.reason is Reason.DISPOSED):
            connection.write(wire.LAST_CHUNK)
        connection.close()
