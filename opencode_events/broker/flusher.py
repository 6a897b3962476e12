"""When bytes leave: the adaptive window, and the slices that keep the loop free.

On a quiet stream an event leaves at the end of the turn in which it came. While flushing is expensive the next flush
waits as long as the last one took (2 ms at least, 50 ms at most), so that load turns into larger segments instead of
more system calls. A flush is cut into slices with a turn of the loop between them. Of a burst, a feed sends one
segment in a flush, so that a client that reads drains meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from opencode_events.broker.feed import Feed, Sealed
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.outbox import WRITE_BYTES
from opencode_events.broker.subscriber import Subscriber
from opencode_events.settings import BrokerSettings

log = structlog.get_logger()

# Publishers wait while more than this is sealed and not yet written to everybody (four full segments): they may not
# outrun the loop.
BEHIND_BYTES = 1024 * 1024
# What is written at a time counts as one more write in its slice for each of these: the kernel copies it.
COPIED_BYTES = 32 * 1024


class Flusher:
    """Takes what feeds have gathered and writes it. `position` returns the last position that feeds have looked at."""

    def __init__(self, settings: BrokerSettings, loop: asyncio.AbstractEventLoop, position: Callable[[], int]) -> None:
        self._settings = settings
        self._loop = loop
        self._clock = time.monotonic  # uvloop's own stands still within a turn, and counts in milliseconds
        self._position = position
        self._dirty: dict[Feed, None] = {}
        self._rounds: list[tuple[Feed, list[Sealed]]] = []  # what is sealed and not in this flush
        self._flushing: deque[Sealed] = deque()
        self._next = 0  # members of the first one in this flush that have it already
        self._unwritten_bytes = 0
        self._is_running = False
        self._started_at = 0.0
        self._not_before = 0.0
        self._waiters: list[asyncio.Future[None]] = []
        self._idlers: list[asyncio.Future[None]] = []
        self.flushes = 0
        self.last_flush_s = 0.0

    @property
    def is_behind(self) -> bool:
        """Whether more is sealed than the loop has got to."""
        return self._unwritten_bytes > BEHIND_BYTES

    def statistics(self) -> dict[str, object]:
        """Return how many flushes there were, and how long the last one took."""
        return {"flushes": self.flushes, "last_flush_s": round(self.last_flush_s, 6)}

    async def caught_up(self) -> None:
        """Wait until the loop has got to what is sealed. It waits for the loop alone, never for a subscriber."""
        while self.is_behind:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def flushed(self) -> None:
        """Wait until everything that was gathered is written or held."""
        while self._is_running:
            waiter = self._loop.create_future()
            self._idlers.append(waiter)
            await waiter

    def want(self, feed: Feed) -> None:
        """`feed` has gathered something: flush it when the window allows."""
        self._dirty[feed] = None
        if not self._is_running:
            self._schedule()

    def seal(self, feed: Feed, last: int, *, ends: bool = False) -> None:
        """Close what `feed` has gathered, up to the position `last`; it goes out in order with the rest."""
        sealed = list(feed.seal(last, ends=ends))
        if sealed:
            self._rounds.append((feed, sealed))
            self._unwritten_bytes += sum(one.size for one in sealed)

    def _schedule(self) -> None:
        self._is_running = True
        wait = self._not_before - self._clock()
        if wait > 0:
            self._loop.call_later(wait, self._start)
        else:
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        """Begin a flush: of each feed, what it sealed first."""
        self._started_at = self._clock()
        last = self._position()
        for feed in self._dirty:
            self.seal(feed, last)
        self._dirty.clear()
        seen: set[Feed] = set()
        later: list[tuple[Feed, list[Sealed]]] = []
        for feed, sealed in self._rounds:
            if feed in seen:
                later.append((feed, sealed))
            else:
                seen.add(feed)
                self._flushing.extend(sealed)
        self._rounds = later
        self._slice()

    def _slice(self) -> None:
        """Write to some members; come back in the next turn for the others."""
        left = self._settings.flush_slice
        while self._flushing and left > 0:
            sealed = self._flushing[0]
            cost = 1 + sealed.size // COPIED_BYTES
            members = sealed.members[self._next : self._next + max(left // cost, 1)]
            _write(sealed, members)
            left -= len(members) * cost
            self._next += len(members)
            if self._next >= len(sealed.members):
                self._flushing.popleft()
                sealed.feed.written += 1
                self._unwritten_bytes -= sealed.size
                self._next = 0
        if self._waiters and not self.is_behind:
            _wake(self._waiters)
        # The end is one turn later: a loop may send at the end of a turn what was written in it.
        self._loop.call_soon(self._slice if self._flushing else self._finish)

    def _finish(self) -> None:
        now = self._clock()
        self.flushes += 1
        self.last_flush_s = now - self._started_at
        pause = min(max(self.last_flush_s, self._settings.flush_min_s), self._settings.flush_max_s)
        self._not_before = now + pause
        self._is_running = False
        if self._dirty or self._rounds:
            self._schedule()
        elif self._idlers:
            _wake(self._idlers)


def _wake(waiters: list["asyncio.Future[None]"]) -> None:
    """Let those go on who wait."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
    waiters.clear()


def _write(sealed: Sealed, members: Sequence[Subscriber]) -> None:
    """Give one segment to some of its members. What happens to one of them never reaches the next."""
    segment = sealed.segment
    data, size, events, last = segment.data, segment.size, segment.events, segment.last
    is_small = size <= WRITE_BYTES
    for subscriber in members:
        try:
            direct = subscriber.direct
            if direct is not None and is_small:
                subscriber.position = last
                subscriber.sent_events += events
                subscriber.sent_bytes += size
                direct(data)
                if sealed.ends:
                    subscriber.close(Reason.DISPOSED)
            else:
                subscriber.deliver(segment, ends=sealed.ends)
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends this subscriber and no other
            log.error("subscriber.failed", subscriber=subscriber.id, error=repr(error))
            subscriber.reset()
