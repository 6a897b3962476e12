"""Replay: handles that are behind get their events from the log, a page at a time, until their place is the head.

A handle asks for a page when it has nothing left to send, so its client sets the pace and it never holds more than
one. Those who want the same page share it. One page is made between two turns of the loop, whoever waits: a thousand
clients that come back at once take longer to catch up, and who is live does not notice.

No gap and no duplicate: a handle joins its feed in the same turn in which its place is found to be the head. Nothing
can be fanned out in between, and from then on the feed gathers what it has not seen.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from opencode_events import wire
from opencode_events.broker import announcement
from opencode_events.broker.announcement import Announcement
from opencode_events.broker.feed import Feed, Segment
from opencode_events.broker.flusher import COPIED_BYTES
from opencode_events.broker.recent import Recent
from opencode_events.broker.selection import is_gap
from opencode_events.broker.subscriber import Subscriber
from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.base import EventLog, Page, Query
from opencode_events.events import DISPOSED
from opencode_events.settings import BrokerSettings

log = structlog.get_logger()

# The share of a turn of the loop that replay takes, in writes: live streams have the others.
SHARE = 1 / 4
# Seconds until a page that could not be read is tried again.
RETRY_S = 0.5
# And until it is looked again whether what was sealed before a handle fell behind is out.
STALE_S = 0.005

_Group = tuple[Feed, int]


class Replayer:
    """Serves handles that are behind: `head` returns the last position that was fanned out, `rejoin` makes one live.

    `resync` returns what a global stream is told behind a gap.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        eventlog: EventLog,
        loop: asyncio.AbstractEventLoop,
        recent: Recent,
        head: Callable[[], int],
        rejoin: Callable[[Subscriber], None],
        resync: Callable[[], Sequence[Announcement]],
    ) -> None:
        self._settings = settings
        self._log = eventlog
        self._loop = loop
        self._recent = recent
        self._head = head
        self._rejoin = rejoin
        self._resync = resync
        self._waiting: dict[_Group, list[Subscriber]] = {}
        self._wanted = asyncio.Event()
        self._unreadable: dict[int, str] = {}  # why, for each position that somebody cannot get beyond
        self.pages = 0
        self.overtaken = 0
        self.events = 0

    @property
    def trouble(self) -> str | None:
        """Why somebody is kept waiting for what the log has; None when nobody is."""
        return next(iter(self._unreadable.values()), None)

    def statistics(self) -> dict[str, object]:
        """Return what was read for those who are behind, and how often retention was faster than one of them."""
        return {"replay_pages": self.pages, "replayed_events": self.events, "overtaken": self.overtaken}

    def want(self, subscriber: Subscriber) -> None:
        """`subscriber` has sent all it had, and wants what comes after its place."""
        self._waiting.setdefault((subscriber.feed, subscriber.position), []).append(subscriber)
        self._wanted.set()

    async def run(self) -> None:
        """Serve one group after the other, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                group = next(iter(self._waiting))
                members = self._waiting.pop(group)
                await self._serve(group, [one for one in members if one.is_behind])
                await asyncio.sleep(0)

    async def _serve(self, group: _Group, members: list[Subscriber]) -> None:
        feed, after = group
        if not members:
            self._unreadable.pop(after, None)
            return
        if after >= self._head():
            await self._join(after, members)
            return
        query = Query(feed.selection.directory, feed.matches, self._settings.replay_events, self._settings.replay_bytes)
        page = self._recent.read(after, query)
        if page is None:
            try:
                page = await self._log.read(after, self._head(), query)
            except LogUnavailable as error:
                if after not in self._unreadable:
                    log.warning("replay.delayed", reason=error.reason, subscribers=len(members))
                self._unreadable[after] = f"the event log cannot be read: {error.reason}"
                for subscriber in members:
                    self._loop.call_later(RETRY_S, self.want, subscriber)
                return
            self._unreadable.pop(after, None)
        if page.oldest > after + 1:
            self.overtaken += len(members)
            oldest = min(page.oldest, self._head() + 1)  # what is behind the head still comes live, trimmed or not
            for subscriber in members:
                shielded(subscriber, lambda one: one.expire(oldest))
            return
        await self._give(feed, page, members)

    async def _join(self, after: int, members: list[Subscriber]) -> None:
        """Make members live whose place is the head, some in each turn of the loop, for as long as it is the head."""
        size = max(int(self._settings.flush_slice * SHARE), 1)
        for start in range(0, len(members), size):
            for subscriber in members[start : start + size]:
                if not subscriber.is_behind:
                    continue  # closed, while the others had their turn
                if after < self._head():
                    self.want(subscriber)
                elif subscriber.is_stale:
                    self._loop.call_later(STALE_S, self.want, subscriber)
                else:
                    shielded(subscriber, self._rejoin)
            await asyncio.sleep(0)

    async def _give(self, feed: Feed, page: Page, members: list[Subscriber]) -> None:
        """Give one page to all who wanted it, some in each turn of the loop.

        Who has sent all of a page that reaches to the head is there, and is made live in the same turn: a turn later
        the head may have moved, and with a busy publisher would have moved each time.
        """
        encode = wire.ENCODERS[feed.selection.stream, feed.selection.form]
        frames, last, ends = [], page.last, False
        for position, cursor, event in page.events:
            frames.append(encode(cursor, event))
            if event.type == DISPOSED and feed.selection.directory is not None:
                last, ends = position, True  # as a live stream does: it is the last one
                break
        count = len(frames)
        if feed.selection.stream == "global" and any(is_gap(stored.event) for stored in page.events):
            # In one piece with the gap, as if live.
            frames += announcement.frames(self._resync(), feed.selection.form, feed.selection.within)
        segment = Segment(frames, count, last) if frames else None
        self.pages += 1
        self.events += count * len(members)
        cost = 1 + (segment.size // COPIED_BYTES if segment is not None else 0)
        size = max(int(self._settings.flush_slice * SHARE) // cost, 1)
        for start in range(0, len(members), size):
            for subscriber in members[start : start + size]:
                shielded(subscriber, lambda one: one.take_page(segment, last, ends=ends))
            if last >= self._head():
                await self._join(last, self._waiting.pop((feed, last), []))
            await asyncio.sleep(0)


def shielded(subscriber: Subscriber, action: Callable[[Subscriber], None]) -> None:
    """Do something to one of many. What happens to one never reaches the next."""
    try:
        action(subscriber)
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends this subscriber and no other
        log.error("subscriber.failed", subscriber=subscriber.id, error=repr(error))
        subscriber.reset()
