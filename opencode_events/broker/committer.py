"""Group commit: who publishes in one turn of the loop, or while the log is busy, shares the next transaction.

The first of a turn commits at once, so that a lone publisher waits for nobody; those who come after it in the same turn
share one commit at its end. What could hold the loop (an fsync, a large batch, a checkpoint) goes to the log's own
thread, one at a time, and so do the steps of the log's own work, one between two commits at most. What is stored is
handed on in log order, before its publisher is answered.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from opencode_events.errors import LogUnavailable, OutOfSequence
from opencode_events.eventlog.base import Aggregate, Appended, EventLog, Outcome
from opencode_events.events import Event
from opencode_events.histogram import SECONDS, Histogram

# Events of a large batch that are handed on between two turns of the loop: about 1 ms for each feed.
GROUP_EVENTS = 500
# Between two steps of the log's own work publishers have it to themselves for so many times as long as a step took;
# unless meanwhile so many events came that it would never be done.
UPKEEP_PAUSE = 2.0
UPKEEP_EVENTS = 500
# And bytes: what feeds gather before they are flushed.
GROUP_BYTES = 512 * 1024
# What one commit may hold: a lone publisher's event, or what many had waiting.
BATCHES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000)

log = structlog.get_logger()

_Waiting = tuple[Sequence[Event], "asyncio.Future[Appended]"]
_Lesson = tuple[Mapping[str, Aggregate], "asyncio.Future[None]"]


class Committer:
    """Appends to `eventlog`, one commit at a time, and calls `stored` with what is new.

    `keep_pace` waits, between the groups of a large batch, until what was handed on has been dealt with.
    """

    def __init__(
        self,
        eventlog: EventLog,
        loop: asyncio.AbstractEventLoop,
        stored: Callable[[Appended], None],
        keep_pace: Callable[[], Awaitable[None]],
    ) -> None:
        self._log = eventlog
        self._loop = loop
        self._stored = stored
        self._keep_pace = keep_pace
        self._is_busy = False  # a commit is under way, or was made in this turn of the loop
        self._waiting: list[_Waiting] = []
        self._lessons: list[_Lesson] = []  # what the log shall learn
        self._handed_over = asyncio.Event()
        self._has_upkeep = False  # the log has work of its own to do, now
        self._has_more_upkeep = False  # or in a moment
        self._since_upkeep = 0
        self._trouble: str | None = None  # why nothing can be stored
        self._upkeep_trouble: str | None = None  # why the log cannot look after itself
        self.commit_s = Histogram(SECONDS)
        self.commit_events = Histogram(BATCHES)  # the duplicates too, for they cost as much

    async def commit(self, events: Sequence[Event]) -> Appended:
        """Append `events` as one and hand on those that are new.

        Raises LogUnavailable or OutOfSequence, with nothing of them stored.

        If the caller is cancelled, the events may have their place, and be handed on, all the same.
        """
        appended = None if self._is_busy else self._append_nowait([events])
        if appended is None:
            future: asyncio.Future[Appended] = self._loop.create_future()
            self._waiting.append((events, future))
            if not self._is_busy:
                self._is_busy = True
                self._handed_over.set()
            return await future
        self._is_busy = True
        self._loop.call_soon(self._commit_waiting)
        if isinstance(appended[0], OutOfSequence):
            raise appended[0]
        self._count(appended[0])
        self._stored(appended[0])
        return appended[0]

    async def learn(self, places: Mapping[str, Aggregate]) -> None:
        """Have the log learn where sequences stand, between two commits. Raises LogUnavailable, with nothing changed.

        If the caller is cancelled, the log may learn it all the same.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._lessons.append((places, future))
        if not self._is_busy:
            self._is_busy = True
            self._handed_over.set()
        await future

    @property
    def trouble(self) -> str | None:
        """What is wrong with the log; None when all is well."""
        return self._trouble or self._upkeep_trouble

    def statistics(self) -> dict[str, object]:
        """Return how long commits took, and how many events there were in each."""
        return {"commit_s": self.commit_s, "commit_events": self.commit_events}

    def look_after_log(self) -> None:
        """Have the log do its own work, when it is its turn."""
        self._has_upkeep = True
        if not self._is_busy:
            self._is_busy = True
            self._handed_over.set()

    async def run(self) -> None:
        """Make the commits that could hold the loop, until cancelled."""
        while True:
            await self._handed_over.wait()
            self._handed_over.clear()
            if self._has_upkeep:
                await self._keep_up()
            while self._lessons:
                await self._teach(*self._lessons.pop(0))
            waiting = self._take_waiting()
            if not waiting:
                self._commit_waiting()
                continue
            began = time.monotonic()
            try:
                appended = await self._log.append([events for events, _ in waiting])
            except LogUnavailable as error:
                self._refuse(waiting, error)
            else:
                self._measure(began, [events for events, _ in waiting])
                self._note_success()
                for one, (_, future) in zip(appended, waiting, strict=True):
                    if isinstance(one, Appended):
                        self._count(one)
                        await self._hand_on(one)
                    _answer(future, one)
            self._commit_waiting()

    async def _keep_up(self) -> None:
        """Have the log do one step of its own work."""
        self._has_upkeep = self._has_more_upkeep = False
        began = self._loop.time()
        try:
            self._has_more_upkeep = await self._log.maintain()
        except LogUnavailable as error:
            if self.trouble is None:
                log.error("eventlog.upkeep_failed", reason=error.reason)
            self._upkeep_trouble = error.reason
            return
        self._note_success(of_upkeep=True)
        self._since_upkeep = 0
        if self._has_more_upkeep:
            self._loop.call_later(UPKEEP_PAUSE * (self._loop.time() - began), self.look_after_log)

    async def _teach(self, places: Mapping[str, Aggregate], future: "asyncio.Future[None]") -> None:
        """Have the log learn, and tell whoever waits for it."""
        try:
            await self._log.learn(places)
        except LogUnavailable as error:
            self._note_failure(error)
            if not future.done():
                future.set_exception(error)
        else:
            self._note_success()
            if not future.done():
                future.set_result(None)

    def _count(self, appended: Appended) -> None:
        """Note that events came: the log's own work may not wait for ever."""
        self._since_upkeep += len(appended.events)
        if self._has_more_upkeep and self._since_upkeep >= UPKEEP_EVENTS:
            self._has_upkeep = True

    def _commit_waiting(self) -> None:
        """Commit what waits, on the loop if that is quick; called while busy, which it ends if nobody waits."""
        if self._has_upkeep or self._lessons:
            self._handed_over.set()
            return
        if not self._waiting:
            self._is_busy = False
            return
        try:
            appended = self._append_nowait([events for events, _ in self._waiting])
        except LogUnavailable as error:
            self._refuse(self._take_waiting(), error)
        else:
            if appended is None:
                self._handed_over.set()
                return
            for one, (_, future) in zip(appended, self._take_waiting(), strict=True):
                if isinstance(one, Appended):
                    self._count(one)
                    self._stored(one)
                _answer(future, one)
        self._loop.call_soon(self._commit_waiting)

    async def _hand_on(self, appended: Appended) -> None:
        """Hand a large batch on in groups, with a turn of the loop or more after each."""
        start, duplicates = 0, appended.duplicates
        while True:
            end, size = start, 0
            while end < len(appended.events) and end - start < GROUP_EVENTS and size < GROUP_BYTES:
                size += len(appended.events[end].envelope)
                end += 1
            self._stored(Appended(appended.first + start, appended.events[start:end], duplicates, appended.epoch))
            await asyncio.sleep(0)
            await self._keep_pace()
            if end == len(appended.events):
                return
            start, duplicates = end, 0

    def _take_waiting(self) -> list[_Waiting]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _append_nowait(self, batches: Sequence[Sequence[Event]]) -> list[Outcome] | None:
        began = time.monotonic()
        try:
            appended = self._log.append_nowait(batches)
        except LogUnavailable as error:
            self._note_failure(error)
            raise
        if appended is not None:
            self._measure(began, batches)
            self._note_success()
        return appended

    def _measure(self, began: float, batches: Sequence[Sequence[Event]]) -> None:
        """Note how long a commit took that is over, and how much it had to do."""
        self.commit_s.observe(time.monotonic() - began)
        self.commit_events.observe(sum(map(len, batches)))

    def _refuse(self, waiting: list[_Waiting], error: LogUnavailable) -> None:
        """Tell publishers that nothing of theirs is stored."""
        self._note_failure(error)
        for _, future in waiting:
            if not future.done():
                future.set_exception(LogUnavailable(error.reason, retry_after_s=error.retry_after_s))

    def _note_failure(self, error: LogUnavailable) -> None:
        """Say once per episode that nothing can be stored."""
        is_news = self._trouble is None
        self._trouble = error.reason
        if is_news:
            log.error("eventlog.failed", reason=error.reason)

    def _note_success(self, *, of_upkeep: bool = False) -> None:
        """Say that all is well again; a commit tells nothing of the log's own work, which tells of both."""
        before = self.trouble
        self._trouble = None
        if of_upkeep:
            self._upkeep_trouble = None
        if before is not None and self.trouble is None:
            log.info("eventlog.recovered")


def _answer(future: "asyncio.Future[Appended]", outcome: Outcome) -> None:
    """Tell a publisher, unless it has gone."""
    if future.done():
        return
    if isinstance(outcome, Appended):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)
