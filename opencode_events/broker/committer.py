"""Group commit: who publishes in one turn of the loop, or while the log is busy, shares the next transaction.

The first of a turn commits at once, so that a lone publisher waits for nobody; those who come after it in the same turn
share one commit at its end. What could hold the loop (an fsync, a large batch, a checkpoint) goes to the log's own
thread, one at a time. What is stored is handed on in log order, before its publisher is answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.base import Appended, EventLog
from opencode_events.events import Event

# Events of a large batch that are handed on between two turns of the loop: about 1 ms for each feed.
GROUP_EVENTS = 500
# And bytes: what feeds gather before they are flushed.
GROUP_BYTES = 512 * 1024

log = structlog.get_logger()

_Waiting = tuple[Sequence[Event], "asyncio.Future[Appended]"]


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
        self._handed_over = asyncio.Event()
        self._has_failed = False

    async def commit(self, events: Sequence[Event]) -> Appended:
        """Append `events` as one and hand on those that are new. Raises LogUnavailable, with nothing stored.

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
        self._stored(appended[0])
        return appended[0]

    async def run(self) -> None:
        """Make the commits that could hold the loop, until cancelled."""
        while True:
            await self._handed_over.wait()
            self._handed_over.clear()
            waiting = self._take_waiting()
            try:
                appended = await self._log.append([events for events, _ in waiting])
            except LogUnavailable as error:
                self._refuse(waiting, error)
            else:
                self._note_success()
                for one, (_, future) in zip(appended, waiting, strict=True):
                    await self._hand_on(one)
                    _answer(future, one)
            self._commit_waiting()

    def _commit_waiting(self) -> None:
        """Commit what waits, on the loop if that is quick; called while busy, which it ends if nobody waits."""
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
            self._stored(Appended(appended.first + start, appended.events[start:end], duplicates))
            await asyncio.sleep(0)
            await self._keep_pace()
            if end == len(appended.events):
                return
            start, duplicates = end, 0

    def _take_waiting(self) -> list[_Waiting]:
        waiting, self._waiting = self._waiting, []
        return waiting

    def _append_nowait(self, batches: Sequence[Sequence[Event]]) -> list[Appended] | None:
        try:
            appended = self._log.append_nowait(batches)
        except LogUnavailable as error:
            self._note_failure(error)
            raise
        if appended is not None:
            self._note_success()
        return appended

    def _refuse(self, waiting: list[_Waiting], error: LogUnavailable) -> None:
        """Tell publishers that nothing of theirs is stored."""
        self._note_failure(error)
        for _, future in waiting:
            if not future.done():
                future.set_exception(LogUnavailable(error.reason, retry_after_s=error.retry_after_s))

    def _note_failure(self, error: LogUnavailable) -> None:
        """Say once per episode that nothing can be stored."""
        if not self._has_failed:
            self._has_failed = True
            log.error("eventlog.failed", reason=error.reason)

    def _note_success(self) -> None:
        if self._has_failed:
            self._has_failed = False
            log.info("eventlog.recovered")


def _answer(future: "asyncio.Future[Appended]", appended: Appended) -> None:
    """Tell a publisher, unless it has gone."""
    if not future.done():
        future.set_result(appended)
