"""The broker: the only place where "stored" and "sent" meet.

Publish: append to the log, then fan out in log order, then answer. Nobody sees an event that a crash of the process
could take back, and nobody who was answered loses one. Subscribe: register at once, before the response starts. A fresh
one joins its feed at the head as it stands; as both happen on one loop, every event is either before that head or in
the subscriber's feed. One that resumes joins when its replay has come to the head: `replay` argues that.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

import structlog

from opencode_events.broker.admission import Admission
from opencode_events.broker.announcement import Announcement
from opencode_events.broker.budget import Budget, cut_costliest
from opencode_events.broker.committer import Committer
from opencode_events.broker.connection import Connection, Terms
from opencode_events.broker.drain import come_again_ms, drain
from opencode_events.broker.feeds import Feeds
from opencode_events.broker.flusher import Flusher
from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.recent import Recent
from opencode_events.broker.replay import Replayer, shielded
from opencode_events.broker.report import Closed
from opencode_events.broker.selection import Selection, is_gap
from opencode_events.broker.subscriber import Subscriber
from opencode_events.broker.tally import Tally
from opencode_events.cursor import Cursor
from opencode_events.errors import ENDING, Busy
from opencode_events.eventlog.base import Aggregate, Appended, EventLog, Stored, SyncRow
from opencode_events.events import GAP, Event
from opencode_events.settings import BrokerSettings

log = structlog.get_logger()

# Seconds between two times that the log looks after itself.
UPKEEP_S = 1.0
# Handles that are remembered when they are over.
CLOSED_KEPT = 1_000


class Broker:
    """Fans events out. What is not a coroutine returns at once; all of it belongs to one loop.

    `resync` returns what has clients fetch everything again: what is announced behind each gap.
    """

    def __init__(self, settings: BrokerSettings, eventlog: EventLog, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.budget = Budget(settings.budget_bytes)
        self.call_later = loop.call_later
        self.clock = time.monotonic
        self.subscribers: dict[int, Subscriber] = {}
        self.is_draining = False
        self._log = eventlog
        self._loop = loop
        self._looked_at = eventlog.head
        self.admission = Admission(settings, lambda: self._feeds.away)
        self._flusher = Flusher(settings, loop, lambda: self._looked_at)
        self._feeds = Feeds(settings, self._flusher)
        self._committer = Committer(eventlog, loop, self._fan_out, self._flusher.caught_up)
        self._recent = Recent(settings, eventlog.head)
        self.resync: Callable[[], Sequence[Announcement]] = tuple
        self._replayer = Replayer(
            settings, eventlog, loop, self._recent, lambda: self._looked_at, self._rejoin, lambda: self.resync()
        )
        self.wants_page = self._replayer.want
        self._emptied = asyncio.Event()
        self._tally = Tally()
        self._closed = Closed(CLOSED_KEPT)

    # --- publish

    async def publish(self, events: Sequence[Event]) -> Appended:
        """Append `events` as one, fan them out, and tell what became of them.

        Raises LogUnavailable or OutOfSequence, with nothing stored, or Busy while the daemon shuts down. Never waits
        for a subscriber; when the loop is behind with writing, it waits for the loop. If the caller is cancelled, the
        events may have their place all the same.
        """
        if self.is_draining:
            raise Busy(ENDING, retry_after_s=1)
        began = self.clock()
        appended = await self._committer.commit(events)
        if self._flusher.is_behind:
            await self._flusher.caught_up()
        self._tally.publish_s.observe(self.clock() - began)
        return appended

    async def run(self) -> None:
        """Make slow commits, replays, and what is due from time to time, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._committer.run(), name="commit")
            tasks.create_task(self._replayer.run(), name="replay")
            tasks.create_task(self._upkeep(), name="upkeep")
            tasks.create_task(self._heartbeats(), name="heartbeat")

    def _fan_out(self, appended: Appended) -> None:
        """Give stored events to the feeds that want them."""
        self._tally.stored(appended)
        epoch = appended.epoch.encode()
        for position, event in enumerate(appended.events, appended.first):
            cursor = b"%b-%d" % (epoch, position)
            self._looked_at = position
            self._recent.append(Stored(position, cursor, event))
            self._feeds.gather(event, position, cursor)
            if event.type == GAP and is_gap(event):
                self.announce_resync()

    # --- sequences

    @property
    def newest_ms(self) -> int | None:
        """When the newest event was stored that the log held as it was opened: see `EventLog`."""
        return self._log.newest_ms

    async def aggregates(self) -> dict[str, Aggregate] | None:
        """Return where each sequence stands; None if the log never learned. Raises LogUnavailable."""
        return await self._log.aggregates()

    async def learn(self, places: Mapping[str, Aggregate]) -> None:
        """Set where sequences stand, between two commits: see `EventLog.learn`. Raises LogUnavailable."""
        await self._committer.learn(places)

    # --- announce

    def announce(self, kind: str, properties: Mapping[str, object] | None = None, directory: str | None = None) -> None:
        """Send a control frame, which is in no log, to all live subscribers of the global stream, past their filters.

        It ends no stream. Those who are behind do not get it.
        """
        self._feeds.announce([Announcement(kind, properties, directory)])

    def announce_resync(self) -> None:
        """Announce what `resync` returns now.

        Behind a gap that is done here, in one piece with it, live or from the log: who gets the one gets the other.
        """
        self._feeds.announce(self.resync())

    def directories(self) -> set[str]:
        """Return the directories of the instances that have subscribers."""
        return self._feeds.directories

    # --- subscribe

    def subscribe(
        self, selection: Selection, terms: Terms, after: int | None = None, *, has_missed: bool = False
    ) -> Subscriber:
        """Register a subscriber, which gets every event after `head` from now on, or after the position `after`.

        `has_missed`: it asked for a place that cannot be served. Raises Busy or TooMany at a limit. While the daemon
        ends it is told so, and to come again: an EventSource that was answered 503 would not.
        """
        self.admission.enter(terms.peer, is_behind=after is not None)
        try:
            feed = self._feeds.find(selection)
        except Busy:
            self.admission.leave(terms.peer)
            raise
        self._tally.came(is_resuming=after is not None, has_missed=has_missed)
        place, state = (self._looked_at, State.LIVE) if after is None else (after, State.REPLAYING)
        subscriber = Subscriber(self._tally.opened, self, feed, terms, place, state=state)
        self.subscribers[subscriber.id] = subscriber
        if after is None:
            self._feeds.join(subscriber)
        else:
            self._feeds.part(subscriber)
        log.info(
            "subscriber.opened",
            subscriber=subscriber.id,
            peer=terms.peer,
            stream=selection.stream,
            replays=0 if after is None else self._looked_at - after,
        )
        if self.is_draining:
            subscriber.close(Reason.SHUTDOWN, retry_ms=come_again_ms(len(self.subscribers)))
        return subscriber

    def _rejoin(self, subscriber: Subscriber) -> None:
        """Make a subscriber live whose place is the head."""
        self._tally.caught_up += 1
        subscriber.go_live()
        if subscriber.state is State.LIVE:  # a connection may have broken meanwhile
            self._feeds.join(subscriber)

    # --- what handles tell

    def fell_behind(self, subscriber: Subscriber) -> None:
        """See `subscriber.Owner`."""
        self._tally.fell_behind += 1
        self._feeds.part(subscriber)

    def closing(self, subscriber: Subscriber) -> None:
        """See `subscriber.Owner`."""
        self._feeds.leave(subscriber)

    def closed(self, subscriber: Subscriber) -> None:
        """See `subscriber.Owner`."""
        self._feeds.leave(subscriber)
        if self.subscribers.pop(subscriber.id, None) is not None:
            self.admission.leave(subscriber.terms.peer)
        if not self.subscribers:
            self._emptied.set()
        self._closed.note(subscriber, self.clock())

    def over_budget(self) -> None:
        """Cut those who cost most, until what is held fits, with some room: it is not done for every byte.

        Each gives its backlog back, and is told. What a transport holds, or a handle that is closing already, is had by
        a reset only.
        """
        cut_costliest(self.budget, self.subscribers.values(), self.clock)

    # --- time

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(self.settings.heartbeat_s)
            self._feeds.heartbeat(self.head)
            for subscriber in list(self.subscribers.values()):
                if subscriber.is_behind:
                    shielded(subscriber, Subscriber.heartbeat)

    async def _upkeep(self) -> None:
        while True:
            await asyncio.sleep(UPKEEP_S)
            self._committer.look_after_log()

    async def drain(self, wait_s: float) -> None:
        """End every subscription: what is buffered has `wait_s` seconds to be read, then connections are reset.

        Returns when all are gone, or have been reset.
        """
        self.is_draining = True
        await self._flusher.flushed()
        await drain(self.subscribers, self._emptied, wait_s=wait_s, settings=self.settings)

    # --- what can be asked

    @property
    def head(self) -> str:
        """The cursor of the last event that was fanned out."""
        return self.cursor(self._looked_at)

    @property
    def head_position(self) -> int:
        """The position of the last event that was fanned out."""
        return self._looked_at

    @property
    def oldest_position(self) -> int:
        """The position of the oldest event that can be had; behind the head when there is none."""
        return min(self._log.oldest, self._looked_at + 1)

    @property
    def trouble(self) -> str | None:
        """Why something cannot be published, or replayed, now; None when all is well."""
        return ENDING if self.is_draining else self._committer.trouble or self._replayer.trouble

    def history(self, known: Mapping[str, int]) -> AsyncIterator[Sequence[SyncRow]]:
        """Yield the sync events behind `known`, a page at a time: see `EventLog.history`."""
        return self._log.history(known)

    def cursor(self, position: int) -> str:
        """Return the cursor after `position`."""
        return str(self._log.cursor(position))

    def is_known(self, cursor: Cursor) -> bool:
        """Tell whether `cursor` was given out by this log, in this daemon's epoch or an earlier one."""
        return cursor.position <= self._looked_at and self._log.is_known(cursor)

    def connections(self) -> Iterator[Connection]:
        """Yield the connections of all handles, for the watchdog."""
        for subscriber in self.subscribers.values():
            if subscriber.outbox.connection is not None:
                yield subscriber.outbox.connection

    def closed_reports(self) -> list[dict[str, object]]:
        """Return what is remembered of the last handles that are over, the newest first."""
        return self._closed.newest_first()

    def statistics(self) -> dict[str, object]:
        """Return counts since the start, and what is held now."""
        handles = list(self.subscribers.values())
        states = [handle.state for handle in handles]
        return {
            **self._tally.statistics(),
            **self._closed.statistics(handles),
            "head": self.head,
            "subscribers": len(states),
            "subscribers_by_state": {state.value: states.count(state) for state in State if state in states},
            **self._committer.statistics(),
            **self._replayer.statistics(),
            "selections": len(self._feeds),
            **self._flusher.statistics(),
            **self.budget.statistics(),
        }
