"""When bytes leave: the adaptive window, and the slices that keep the loop free.

On a quiet stream an event leaves at the end of the turn in which it came. While flushing is expensive the next flush
waits as long as the last one took (2 ms at least, 50 ms at most), so that load turns into larger segments instead of
more system calls. A flush is cut into slices with a turn of the loop between them; two segments of one feed never
go out in one turn, so that a client that reads drains meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from opencode_events.broker.feed import Feed, Sealed
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import WRITE_BYTES, Subscriber
from opencode_events.settings import BrokerSettings

log = structlog.get_logger()

# Publishers wait while this many segments are sealed and not yet written to everybody: they may not outrun the loop.
BEHIND_SEGMENTS = 8


class Flusher:
    """Takes what feeds have gathered and writes it. `position` returns the last position that feeds have looked at."""

    def __init__(self, settings: BrokerSettings, loop: asyncio.AbstractEventLoop, position: Callable[[], int]) -> None:
        self._settings = settings
        self._loop = loop
        self._clock = time.monotonic  # uvloop's own stands still within a turn, and counts in milliseconds
        self._position = position
        self._dirty: dict[Feed, None] = {}
        self._sealed: deque[tuple[Feed, Sealed]] = deque()
        self._next = 0  # members of the first sealed segment that have it already
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
        return len(self._sealed) >= BEHIND_SEGMENTS

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
            self._is_running = True
            wait = self._not_before - self._clock()
            if wait > 0:
                self._loop.call_later(wait, self._start)
            else:
                self._loop.call_soon(self._start)

    def seal(self, feed: Feed, last: int, *, ends: bool = False) -> None:
        """Make a segment of what `feed` has gathered, up to the position `last`; it goes out in order with the rest."""
        self._sealed.extend((feed, sealed) for sealed in feed.seal(last, ends=ends))

    def _start(self) -> None:
        self._started_at = self._clock()
        last = self._position()
        for feed in self._dirty:
            self.seal(feed, last)
        self._dirty.clear()
        self._slice()

    def _slice(self) -> None:
        """Write to some members; come back in the next turn for the others."""
        left = self._settings.flush_slice
        seen: set[Feed] = set()
        while self._sealed and left > 0:
            feed, sealed = self._sealed[0]
            if feed in seen:
                break
            batch = sealed.members[self._next : self._next + left]
            _write(sealed, batch)
            left -= len(batch)
            self._next += len(batch)
            if self._next >= len(sealed.members):
                self._sealed.popleft()
                self._next = 0
                seen.add(feed)
        if self._waiters and not self.is_behind:
            _wake(self._waiters)
        # uvloop sends at the end of a turn what was written in it, so even the last slice is timed from the next one.
        self._loop.call_soon(self._slice if self._sealed else self._finish)

    def _finish(self) -> None:
        if self._sealed:  # a feed ran over and sealed in the meantime
            self._slice()
            return
        now = self._clock()
        self.flushes += 1
        self.last_flush_s = now - self._started_at
        pause = min(max(self.last_flush_s, self._settings.flush_min_s), self._settings.flush_max_s)
        self._not_before = now + pause
        self._is_running = False
        if self._dirty:
            self.want(next(iter(self._dirty)))
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
            else:
                subscriber.deliver(segment)
            if sealed.ends:
                subscriber.close(Reason.DISPOSED)
        except Exception as error:  # noqa: BLE001  # whatever it is, it ends this subscriber and no other
            log.error("subscriber.failed", subscriber=subscriber.id, error=repr(error))
            subscriber.reset()
