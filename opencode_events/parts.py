"""The parts that serve, put together as a daemon runs them; what listens, and who sends signals, is its own affair."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from opencode_events import __version__
from opencode_events.broker.broker import Broker
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import Subscriber
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.keys import Keys
from opencode_events.listeners import Listeners
from opencode_events.settings import Settings
from opencode_events.watchdog.looplag import LoopLag
from opencode_events.watchdog.patrol import Patrol, describe
from opencode_events.watchdog.probe import best_probe
from opencode_events.web.app import build_app, build_runner, serve
from opencode_events.web.connections import Connections
from opencode_events.web.shield import Shield


@dataclass(frozen=True, kw_only=True)
class Behind:
    """What the web needs of a server behind, and what that tells of itself; the defaults: there is none."""

    shield: Shield | None = None
    statistics: Mapping[str, Callable[[], Mapping[str, object]]] = field(default_factory=dict)


class Parts:
    """The broker, the watchdog and the web. All of it belongs to the loop that it is made on."""

    def __init__(
        self,
        settings: Settings,
        eventlog: SqliteLog,
        broker: Broker,
        keys: Keys,
        behind: Behind,
        make_runner: Callable[[web.Application], web.AppRunner] = build_runner,
    ) -> None:
        self.broker = broker
        self.connections = Connections()
        sources = (broker.connections, self.connections.watched)
        self.patrol = Patrol(settings.watchdog, best_probe(), sources, work=time.thread_time)
        self.lag = LoopLag()
        statistics = {
            "broker": broker.statistics,
            "log": eventlog.statistics,
            "watchdog": self.patrol.statistics,
            "loop": self.lag.statistics,
            **behind.statistics,
        }
        app = build_app(
            settings.server,
            broker,
            __version__,
            statistics,
            connections=self.connections,
            look=self.look,
            access=settings.access,
            credentials=keys.credentials,
            tokens=keys.tokens,
            shield=behind.shield,
        )
        self.runner = make_runner(app)

    async def start(self, tasks: asyncio.TaskGroup, listeners: Listeners) -> list[asyncio.Task[None]]:
        """Serve what `listeners` accept; return the tasks, which run until they are cancelled."""
        started = [
            tasks.create_task(self.broker.run(), name="broker"),
            tasks.create_task(self.patrol.run(), name="watchdog"),
            tasks.create_task(self.lag.run(), name="lag"),
        ]
        await listeners.serve(await serve(self.runner))
        return started

    async def end(self, drain_s: float, hurry: asyncio.Event) -> None:
        """End subscriptions, then connections. Subscribers have `drain_s` seconds to read, or until `hurry` is set."""
        self.connections.are_ending = True
        async with asyncio.TaskGroup() as tasks:
            drain = tasks.create_task(self.broker.drain(drain_s), name="drain")
            hurried = tasks.create_task(hurry.wait(), name="hurry")
            await asyncio.wait((drain, hurried), return_when=asyncio.FIRST_COMPLETED)
            is_over = drain.done()
            drain.cancel()
            hurried.cancel()
        if not is_over:
            await self.broker.drain(0)
        self.connections.interrupt()
        await self.runner.cleanup()
        for connection in list(self.connections.watched()):
            connection.evict("shutdown")  # an answer that nobody has read: the kernel would keep it for minutes
        await asyncio.sleep(0)

    def revoke(self, tokens: frozenset[str]) -> None:
        """End the streams and the long answers of those whom tokens of these names have let in."""
        for subscriber in list(self.broker.subscribers.values()):
            if subscriber.terms.token in tokens:
                subscriber.close(Reason.OPERATOR)
        self.connections.revoke(tokens)

    def look(self, subscriber: Subscriber) -> Mapping[str, object]:
        """Return what the watchdog sees of a subscriber's connection."""
        connection = subscriber.outbox.connection
        seen = None if connection is None else self.patrol.look(connection)
        return {} if seen is None else describe(seen)
