"""A real broker, running, on a loop that turns when it is told to: every interleaving can be had, and had again."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from opencode_events.broker.broker import Broker
from opencode_events.broker.connection import OnOverflow
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.eventlog.base import Appended, EventLog
from opencode_events.events import Event
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import GLOBAL, FakeConnection, FakeLog, terms

Result = TypeVar("Result")


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop that goes on by `turn` and `advance` alone.

    There are no threads: what is to be done in one is done on the loop, after `job_turns` turns of it, and told after
    as many more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.job_turns = 0

    def time(self) -> float:
        return self.now

    def turn(self) -> None:
        """Call what is ready now, and nothing that becomes so meanwhile."""
        self.call_soon(self.stop)
        self.run_forever()

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, and call what is due."""
        self.now += seconds
        self.turn()

    def run_in_executor(  # type: ignore[override]  # a task is a future
        self, executor: Executor | None, func: Callable[..., Result], *args: Any
    ) -> "asyncio.Task[Result]":
        return self.create_task(self._work(functools.partial(func, *args)))

    async def _work(self, work: Callable[[], Result]) -> Result:
        for _ in range(self.job_turns):
            await asyncio.sleep(0)
        result = work()
        for _ in range(self.job_turns):
            await asyncio.sleep(0)
        return result

    def end(self) -> None:
        """Cancel what runs, and close."""
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks))
        self.close()


class SteppedConnection(FakeConnection):
    """Tells its handle of its end in the next turn of a stepped loop, as transports do."""

    def __init__(self, loop: SteppedLoop, room: int | None = None) -> None:
        super().__init__(room)
        self._loop = loop

    def close(self) -> None:
        super().close()
        self._tell(Reason.CLIENT_CLOSED)

    def reset(self) -> None:
        super().reset()
        self._tell(Reason.CLIENT_LOST)

    def _tell(self, reason: Reason) -> None:
        assert self.handle is not None
        self._loop.call_soon(self.handle.lost, reason)


class Run:
    """A broker that runs on a stepped loop and flushes at the end of each turn."""

    def __init__(self, log: EventLog | None = None, *, loop: SteppedLoop | None = None, **changes: Any) -> None:
        self.loop = loop or SteppedLoop()
        settings = BrokerSettings(**{"flush_min_s": 0.0, "flush_max_s": 0.0} | changes)
        self.broker = Broker(settings, log or FakeLog(), self.loop)
        self.publishing: list[asyncio.Task[Appended]] = []
        self.running = self.loop.create_task(self.broker.run())
        self.loop.turns(2)  # its parts have begun to wait

    def join(
        self,
        selection: Selection = GLOBAL,
        *,
        after: int | None = None,
        room: int | None = None,
        on_overflow: OnOverflow = "catchup",
    ) -> tuple[Subscriber, FakeConnection]:
        """Subscribe a connection, which reads unless it has only some room."""
        handle = self.broker.subscribe(selection, terms(on_overflow=on_overflow), after)
        connection = SteppedConnection(self.loop, room)
        connection.attach_to(handle)
        return handle, connection

    def begin(self, *events: Event) -> None:
        """Publish in the next turn."""
        self.publishing.append(self.loop.create_task(self.broker.publish(events)))

    def publish(self, *events: Event, turns: int = 50) -> Appended:
        """Publish, and let the loop turn until all of it is out."""
        self.begin(*events)
        self.loop.turns(turns)
        return self.publishing[-1].result()

    def end(self) -> None:
        """Stop the broker; it must have been running until now."""
        assert not self.running.done()
        self.loop.end()
