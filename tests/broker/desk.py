"""A committer by itself, and a note of everything that happens at it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from opencode_events.broker.committer import Committer
from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.base import Appended
from tests.broker.fakes import FakeLog
from tests.samples import event


class Desk:
    """A committer between a fake log and a broker that writes down what it is handed.

    After the first hand-over the log `then_is_slow`, and raises `then_fails`.
    """

    def __init__(
        self,
        *,
        then_is_slow: bool = False,
        then_fails: LogUnavailable | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.log = FakeLog()
        self.trace = self.log.trace
        self.stored: list[Appended] = []
        self._then = (then_is_slow, then_fails)
        self.committer = Committer(self.log, self.loop, self._store, self._keep_pace)

    def _store(self, appended: Appended) -> None:
        if not self.stored and any(self._then):
            self.log.is_slow, self.log.error = self._then
        self.stored.append(appended)
        self.trace.append(f"stored {[event.id for event in appended.events]}")

    async def _keep_pace(self) -> None:
        self.trace.append("kept pace")

    async def publish(self, *numbers: int) -> Appended:
        answer = await self.committer.commit([event(number) for number in numbers])
        self.trace.append(f"answered {list(numbers)}")
        return answer

    def publishing(self, *numbers: int) -> "asyncio.Task[Appended]":
        return self.loop.create_task(self.publish(*numbers))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.committer.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()
