"""One subscriber's handle: what it is given, what it has waiting, and how it ends.

A handle that keeps up never touches its backlog: the flusher writes segments straight to its connection. At the
connection's first pause it is parked, and segments wait in its backlog until the connection resumes. One that is behind
has at most a page of the log in its backlog, and asks for the next when that is sent. It never waits for anything and
owns no task: pause, resume and loss are told to it by its connection.
"""

import asyncio
from collections.abc import Callable

from opencode_events import wire
from opencode_events.broker.connection import Connection, Terms
from opencode_events.broker.feed import Feed, Segment
from opencode_events.broker.lifecycle import BEHIND, OPEN, TOLD, TRANSITIONS, Reason, Signal, State
from opencode_events.broker.outbox import Outbox
from opencode_events.broker.owner import Owner


class Subscriber:
    """A handle. `position` is the last that it was given in full.

    `direct` is its connection's `write` while whole segments may be written past the backlog, which then is empty;
    None while it is parked, closing, or speaks HTTP/1.0, which has no chunks.
    """

    __slots__ = (
        "_awaits_page", "_deadline", "_is_finished", "_left", "_owner", "direct", "feed", "id", "opened_at",
        "outbox", "parked_at", "position", "reason", "replayed", "sent_bytes", "sent_events", "state", "terms",
    )  # fmt: skip

    def __init__(
        self, number: int, owner: Owner, feed: Feed, terms: Terms, position: int, *, state: State = State.LIVE
    ) -> None:
        self.id = number
        self.feed = feed
        self.terms = terms
        self.position = position
        self.state = state
        self.reason: Reason | None = None
        self.direct: Callable[[bytes], None] | None = None
        self.opened_at = self.parked_at = owner.clock()
        self.sent_events = 0
        self.sent_bytes = 0
        self.replayed = 0  # events from the log, since it was last behind
        self.outbox = Outbox(owner.settings, owner.budget, is_chunked=terms.is_chunked)
        self._owner = owner
        self._is_finished = False
        self._awaits_page = False
        self._left: tuple[Feed, int] | None = None  # the feed that it fell behind in, and what was sealed with it
        self._deadline: asyncio.TimerHandle | None = None

    # --- what the connection tells

    def attach(self, connection: Connection) -> None:
        """Take the connection, whose response head is out; what has waited meanwhile is sent."""
        if self.state is State.CLOSED:
            connection.reset()
            return
        self.outbox.connection = connection
        self.resume()

    def pause(self) -> None:
        """The connection takes no more for now: park."""
        self.direct = None
        self.parked_at = self._owner.clock()
        self.outbox.pause()
        if self._owner.budget.is_exceeded:
            # Not now: the connection is in the middle of a write.
            self._owner.call_later(0, self._owner.over_budget)

    def resume(self) -> None:
        """The connection takes again: send what has waited."""
        if self.outbox.connection is None or self._is_finished:
            return
        self.outbox.resume()
        self._drain()

    def lost(self, reason: Reason) -> None:
        """The connection is over. `reason` is the connection's view; an earlier one of ours stands."""
        if self.state is State.CLOSED:
            return
        self._advance(Signal.GONE, reason)
        self.outbox.forget_parked()
        self.outbox.drop()
        if self._deadline is not None:
            self._deadline.cancel()
        self.outbox.connection = None
        self._owner.closed(self)

    # --- what the broker does

    def deliver(self, segment: Segment, *, ends: bool = False) -> None:
        """Take one segment: send it, or hold it; at a cap, give up instead. `ends`: the stream ends with it."""
        if self.state is not State.LIVE:
            return
        backlog = self.outbox.opened()
        refused = backlog.refusal(segment)
        if refused is not None:
            self.give_up(refused)
            return
        self._hold(segment)
        if ends:
            self.close(Reason.DISPOSED)
            return
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

    def give_up(self, reason: Reason) -> None:
        """Take no more from the feed: fall behind, if that was asked for, or close for `reason`."""
        if self.state is not State.LIVE or self.terms.on_overflow != "catchup":
            self.close(reason)
            return
        self._advance(Signal.FELL_BEHIND)
        self.replayed = 0
        self._left = (self.feed, self.feed.sealed)
        self._owner.fell_behind(self)
        self.outbox.give_back()
        self._drain()

    def take_page(self, segment: Segment | None, last: int, *, ends: bool = False) -> None:
        """Take a page of the log, None where nothing matched up to `last`. `ends`: the stream ends with it."""
        if self.state not in BEHIND:
            return
        self._awaits_page = False
        if segment is None:
            self.position = last
        else:
            self.replayed += segment.events
            self._hold(segment)
        if ends:
            self.close(Reason.DISPOSED)
            return
        self._drain()
        if self._owner.budget.is_exceeded:
            self._owner.over_budget()

    def expire(self, oldest: int) -> None:
        """Retention has overtaken its place: tell the client, and go on with the oldest event, or at the head."""
        if self.state not in BEHIND:
            return
        self._awaits_page = False
        requested, self.position = self.position, oldest - 1
        cursor = self._owner.cursor
        newest = self._owner.head_position
        if self._owner.settings.on_expired == "head":
            self.position = newest
        self._append_control(
            wire.EXPIRED,
            requested=cursor(requested),
            oldest=cursor(min(oldest, newest)),
            newest=cursor(newest),
            reason="trimmed",
        )
        self._drain()

    def go_live(self) -> None:
        """Its place is the head: tell the client. The caller joins it to its feed in the same turn of the loop."""
        self._advance(Signal.CAUGHT_UP)
        self._awaits_page = False
        self._left = None
        self._append_control(wire.LIVE, replayed=self.replayed)
        self._drain()

    def heartbeat(self) -> None:
        """Tell a client that is behind that nothing was for it, up to its place."""
        if self.outbox.backlog or self.outbox.is_paused or self.state not in BEHIND:
            return
        selection = self.feed.selection
        cursor = self._owner.cursor(self.position)
        frame = wire.control(selection.stream, selection.form, wire.HEARTBEAT, cursor=cursor)
        self._hold(Segment([frame], 0, self.position))
        self._drain()

    def close(self, reason: Reason, *, retry_ms: int | None = None) -> None:
        """Take no more; send what is buffered, then the reason, then end. The deadline is `close_flush_s`.

        `retry_ms` is how long the client shall wait until it comes again, None for as long as it was told before.
        """
        if self.state not in OPEN:
            return
        self._advance(Signal.CLOSE, reason)
        self._owner.closing(self)
        self._deadline = self._owner.call_later(self._owner.settings.close_flush_s, self.reset)
        if reason is Reason.OVERFLOW_MEMORY and self.queued_events:  # frames of its own are in no log
            self.outbox.give_back()
        if reason in TOLD:
            cursor = self._owner.cursor(self.queued_position)
            self._append_control(wire.CLOSING, retry_ms=retry_ms, reason=reason.value, cursor=cursor)
        self._drain()

    def reset(self, reason: Reason = Reason.CLIENT_LOST) -> None:
        """End the connection now; whatever was buffered is dropped. An earlier reason stands."""
        if self.state in OPEN:
            self._advance(Signal.CLOSE, reason)
            self._owner.closing(self)
        self.outbox.drop()
        self.outbox.forget_parked()  # now, not when the loss is told: else others would be cut for what is free already
        if self.outbox.connection is None:
            self.lost(reason)
        else:
            self.outbox.connection.reset()

    # --- what can be asked

    @property
    def is_behind(self) -> bool:
        """Whether it reads from the log."""
        return self.state in BEHIND

    @property
    def is_stale(self) -> bool:
        """Whether something is still on its way to it that was sealed before it fell behind: it may not be live yet."""
        return self._left is not None and self._left[0].written < self._left[1]

    @property
    def queued_events(self) -> int:
        """Events waiting in the backlog."""
        return self.outbox.backlog.events if self.outbox.backlog is not None else 0

    @property
    def queued_bytes(self) -> int:
        """Bytes waiting in the backlog."""
        return self.outbox.backlog.bytes if self.outbox.backlog is not None else 0

    @property
    def queued_s(self) -> float:
        """Seconds that the oldest of what is in the backlog has waited; 0 when nothing has."""
        backlog = self.outbox.backlog
        return self._owner.clock() - backlog.first.since if backlog else 0.0

    @property
    def held_bytes(self) -> int:
        """Bytes that it keeps from being free: those waiting, and those of a parked connection."""
        return self.queued_bytes + self.outbox.parked_bytes

    @property
    def queued_position(self) -> int:
        """The position after which a client resumes that reads all it has been, and will be, sent."""
        return self.outbox.backlog.last.last if self.outbox.backlog else self.position

    # --- inside

    def _advance(self, signal: Signal, reason: Reason | None = None) -> None:
        """Change the state as the table says; the first reason stays."""
        self.state = TRANSITIONS[self.state][signal]
        self.reason = self.reason or reason
        self.direct = None

    def _append_control(self, kind: str, *, retry_ms: int | None = None, **properties: object) -> None:
        """Queue a frame of this subscriber's own, behind what it has waiting and past the caps."""
        selection = self.feed.selection
        frame = wire.control(selection.stream, selection.form, kind, properties, retry_ms=retry_ms)
        self._hold(Segment([frame], 0, self.queued_position))

    def _hold(self, segment: Segment) -> None:
        """Put one segment into the backlog: it waits from now on, unless it does so for another already."""
        segment.since = segment.since or self._owner.clock()
        self.outbox.opened().append(segment)

    def _drain(self) -> None:
        """Send what waits, unless the connection is paused; when all is out, go on as the state has it."""
        outbox = self.outbox
        if outbox.is_paused or not outbox.send(self._sent):
            return
        connection = outbox.connection
        assert connection is not None
        if self.state is State.CLOSING:
            self._finish(connection)
        elif outbox.is_paused:
            return
        elif self.state is State.LIVE:
            self.direct = connection.write if self.terms.is_chunked else None
        elif not self._awaits_page:
            self._awaits_page = True
            self._owner.wants_page(self)

    def _sent(self, segment: Segment | None, size: int) -> None:
        """Count what was written: a segment in full, or bytes."""
        self.sent_bytes += size
        if segment is not None:
            self.position = segment.last
            self.sent_events += segment.events

    def _finish(self, connection: Connection) -> None:
        """End a stream whose last byte is written. Nothing may be written after the connection's `close`."""
        self._is_finished = True
        if self.terms.is_chunked and (self.terms.end == "clean" or self.reason is Reason.DISPOSED):
            connection.write(wire.LAST_CHUNK)
        connection.close()
