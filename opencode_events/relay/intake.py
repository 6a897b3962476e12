"""What upstream says, on its way into the log: frames wait in a spool, in their order, and are appended in groups.

Whoever reads upstream puts frames here and never waits, so upstream is always drained, whatever the log does. While
what was missed is fetched, nothing is taken out. The log may refuse for a while (then frames wait), never for good: an
event that breaks the sequence of its aggregate has others missing before it, or tells that upstream counts anew.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from opencode_events import events
from opencode_events.broker.broker import Broker
from opencode_events.errors import OutOfSequence, RequestError
from opencode_events.eventlog.base import Aggregate
from opencode_events.events import Event
from opencode_events.relay.patience import patiently
from opencode_events.relay.spool import Spool, SpoolUnreadable

log = structlog.get_logger()

# Appended as one: as much as is handed on between two turns of the loop.
GROUP_EVENTS = 500
GROUP_BYTES = 512 * 1024
# What stands in the spool for a frame that could not be kept.
UNREADABLE = b""


class Intake:
    """Takes frames with `put`, keeps them in `spool`, and appends them with `pump`. `missed` fetches what was missed.

    `firsts` is filled while it is not None: the first sequence number of each aggregate among what is put. `learned`
    tells how far upstream's history said that aggregates had come, for those of which nothing was appended since.
    """

    def __init__(
        self,
        broker: Broker,
        spool: Spool,
        missed: Callable[[], Awaitable[None]],
        *,
        max_event_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._missed = missed
        self._max_event_bytes = max_event_bytes
        self._clock = clock
        self._spool = spool
        self._filled = asyncio.Event()
        self._fetched_for: str | None = None  # the event for which what was missed has been fetched last
        self.firsts: dict[str, int] | None = None
        self.learned: dict[str, int] = {}
        self.frames = 0
        self.events = 0
        self.unreadable = 0
        self.out_of_sequence = 0

    @property
    def is_idle(self) -> bool:
        """Whether `pump` waits for more: all that was put is in the log."""
        return not self._filled.is_set()

    def put(self, data: bytes) -> None:
        """Take one frame's data, or UNREADABLE. Raises SpoolFull, with what was put before kept."""
        self._spool.append(data)
        self.frames += 1
        self._filled.set()
        if self.firsts is not None and b'"sync"' in data:
            self._note_first(data, self.firsts)

    def _note_first(self, data: bytes, firsts: dict[str, int]) -> None:
        try:
            event = events.parse_global(data, self._max_event_bytes)
        except RequestError:
            return
        if isinstance(event, Event) and event.seq is not None and event.aggregate is not None:
            firsts.setdefault(event.aggregate, event.seq)

    def drop(self) -> int:
        """Forget what waits; return how many frames it were."""
        dropped = len(self._spool)
        self._spool.close()
        return dropped

    def begin(self) -> None:
        """A connection begins: forget whatever was noted of the one before."""
        self.firsts, self.learned, self._fetched_for = {}, {}, None

    def end(self) -> None:
        """It is over: forget what still waits. What of it is durable is fetched for the next one."""
        self.drop()
        self.firsts = None

    def wake(self) -> None:
        """Have `pump` look again whether it is over."""
        self._filled.set()

    async def pump(self, is_over: Callable[[], bool], taken: Callable[[Sequence[Event]], None]) -> None:
        """Append what waits, and what comes, until nothing does and `is_over`. `taken` is told of what was appended."""
        while True:
            batch = await self._take()
            if batch:
                found = self._read_all(batch)
                await self.append(found)
                taken(found)
            elif is_over():
                return
            else:
                self._filled.clear()
                await self._filled.wait()

    async def _take(self) -> list[bytes]:
        """Return what waited longest. What the disk does not give back is lost, and fetched as far as it can be."""
        try:
            return self._spool.take(GROUP_EVENTS, GROUP_BYTES)
        except SpoolUnreadable as error:
            log.error("relay.held_lost", frames=self.drop(), reason=str(error))
            await self._missed()
            return []

    def _read_all(self, batch: Sequence[bytes]) -> list[Event]:
        """Return the events of some frames; those beside each other that cannot be read have one mark."""
        found: list[Event] = []
        for data in batch:
            event = self._read(data)
            if event is not None and not (event.type == found[-1].type == events.GAP if found else False):
                found.append(event)
        return found

    def _read(self, data: bytes) -> Event | None:
        """Return the event of a frame, None for one of upstream's own connection, a mark where it cannot be read."""
        reason = f"over max_event_bytes ({self._max_event_bytes})"
        if data != UNREADABLE:
            try:
                event = events.parse_global(data, self._max_event_bytes)
                return event if isinstance(event, Event) else None
            except RequestError as error:
                reason = f"{error.field}: {error}" if error.field else str(error)
        self.unreadable += 1
        log.warning("relay.event_unreadable", reason=reason)
        now_ms = int(self._clock() * 1000)
        return events.gap(now_ms, now_ms, 0)

    async def append(self, batch: Sequence[Event], *, is_past: bool = False) -> int:
        """Append events, however long it takes; return how many were new.

        `is_past`: they are of upstream's history, so nothing better is to be had where a sequence of theirs breaks.
        """
        new = 0
        while batch:
            if self.learned and not is_past:
                await self._put_back(batch)
            try:
                new += await self._publish(batch)
                break
            except OutOfSequence as error:
                at = error.index or 0
                # Its plain twin waits with it: those that are missing come before both.
                start = at - 1 if at and batch[at - 1].id == batch[at].id else at
                if start:
                    new += await self.append(batch[:start], is_past=is_past)
                if await self._mend(batch[at], may_ask=not is_past):
                    batch = batch[start:]
                else:
                    batch = [*batch[start:at], *batch[at + 1 :]]
        return new

    async def _publish(self, batch: Sequence[Event]) -> int:
        appended = await patiently(lambda: self._broker.publish(batch))
        self.events += len(appended.events)
        return len(appended.events)

    async def _put_back(self, batch: Sequence[Event]) -> None:
        """Have the log take, as the next of its aggregate, what the history had before the stream brought it."""
        places = {}
        for event in batch:
            if event.aggregate is None or event.seq is None:
                continue
            last = self.learned.pop(event.aggregate, None)
            if last is not None and event.seq <= last:
                places[event.aggregate] = Aggregate(event.seq - 1)
        if places:
            await patiently(lambda: self._broker.learn(places))

    async def _mend(self, event: Event, *, may_ask: bool) -> bool:
        """Have the log take an event that is not the next one of its aggregate; tell whether it does now.

        A log that has not learned yet where all sequences stand must not be told of one alone: it would take what
        upstream's history has of all others for missed. So there it is left out, if nothing can be learned now.
        """
        assert event.aggregate is not None
        assert event.seq is not None
        places = await patiently(self._broker.aggregates)
        last = -1 if places is None else places.get(event.aggregate, Aggregate(-1)).last
        cause = "nothing was learned" if places is None else event.id
        if may_ask and (places is None or event.seq > last + 1) and self._fetched_for != cause:
            self._fetched_for = cause
            await self._missed()
            return True
        self.out_of_sequence += 1
        log.warning("relay.sequence_broken", aggregate=event.aggregate[:64], last=last, seq=event.seq)
        if places is None:
            return False
        place = {event.aggregate: Aggregate(event.seq - 1)}
        await patiently(lambda: self._broker.learn(place))
        return True
