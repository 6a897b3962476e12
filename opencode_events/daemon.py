"""Builds the parts, owns their tasks, and ends them in order: the only module that knows all of them.

The order of the end: nobody new, what is gathered is flushed, subscribers are told and have `drain_s` to read, then
connections go, then tasks, then the log. A second signal skips the waiting.
"""

import asyncio
import contextlib
import functools
import gc
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import web

from opencode_events import __version__, configuration, keys, logs, service, sockets, systemd
from opencode_events.broker.broker import Broker
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import Subscriber
from opencode_events.errors import DaemonError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.keys import Keys
from opencode_events.listeners import Listeners
from opencode_events.relay.passthrough import PassThrough
from opencode_events.relay.relay import Relay
from opencode_events.relay.upstream import Upstream
from opencode_events.reloaders import Reloaders
from opencode_events.service import Service
from opencode_events.settings import Settings
from opencode_events.statedir import StateDir
from opencode_events.watchdog.looplag import LoopLag
from opencode_events.watchdog.patrol import Patrol, describe
from opencode_events.watchdog.probe import best_probe
from opencode_events.web.app import build_app, build_runner, serve
from opencode_events.web.connections import Connections
from opencode_events.web.shield import Shield

log = structlog.get_logger()


def run(
    settings: Settings,
    *,
    ready: Callable[[str], None] | None = None,
    reread: Callable[[], Settings] | None = None,
) -> int:
    """Run a daemon until it is told to stop; return its exit code. `ready` is called with its URL once it answers.

    `reread` returns the settings as they are chosen now, for a reload; None: they stay, only files are read again.

    Raises DaemonError when it cannot start: another one runs on the state directory, the port is taken, the log
    cannot be opened.
    """
    settings = configuration.decided(settings)
    reloaders = Reloaders(settings, lambda: settings if reread is None else configuration.decided(reread()))
    logs.configure(settings.logging)
    with StateDir(settings.server.state_dir) as state, asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
        try:
            return runner.run(_serve(settings, state, ready, reloaders))
        except* DaemonError as errors:
            reason = errors.exceptions[0]
    raise reason


def _loop_factory(settings: Settings) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not settings.server.uvloop:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, state: StateDir, ready: Callable[[str], None] | None, reloaders: Reloaders) -> int:
    """Serve until a signal comes."""
    held = keys.load(settings, os.environ)
    listeners = Listeners.open(settings, held, os.environ)
    descriptors = sockets.allow_descriptors(settings.broker.max_subscribers)
    eventlog = SqliteLog(logfile.locate(settings), settings.eventlog)
    async with contextlib.AsyncExitStack() as owned:
        notifier = owned.enter_context(contextlib.closing(systemd.Notifier.from_environment(os.environ)))
        owned.callback(eventlog.close)
        broker = Broker(settings.broker, eventlog, asyncio.get_running_loop())
        behind = await owned.enter_async_context(_stand_before(settings, broker, held))
        connections = Connections()
        patrol = Patrol(
            settings.watchdog, best_probe(), (broker.connections, connections.watched), work=time.thread_time
        )
        lag = LoopLag()
        parts = {
            "broker": broker.statistics,
            "log": eventlog.statistics,
            "watchdog": patrol.statistics,
            "loop": lag.statistics,
        }
        app = build_app(
            settings.server,
            broker,
            __version__,
            {**parts, **behind.parts},
            connections=connections,
            look=functools.partial(look, patrol),
            access=settings.access,
            credentials=held.credentials,
            tokens=held.tokens,
            shield=behind.shield,
        )
        service.claim(reloaders, broker=broker, patrol=patrol, eventlog=eventlog, tls=listeners.tls)
        revoking = functools.partial(revoke, broker, connections)
        reloaders.add(("tokens_file",), functools.partial(held.prepare, revoke=revoking))
        own = Service(reloaders, notifier, broker)
        async with asyncio.TaskGroup() as tasks:
            relay = tasks.create_task(behind.run(), name="relay")
            others = [
                tasks.create_task(broker.run(), name="broker"),
                tasks.create_task(patrol.run(), name="watchdog"),
                tasks.create_task(lag.run(), name="lag"),
            ]
            runner = build_runner(app)
            await listeners.serve(await serve(runner))
            # What is there now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            own.listen()
            state.announce(listeners.url, __version__)
            about = {"version": __version__, "inherited": listeners.inherited, "descriptors": descriptors}
            log.info("daemon.started", url=listeners.url, **about, **eventlog.statistics())
            own.ready()
            others.append(tasks.create_task(own.run(), name="service"))
            if ready is not None:
                ready(listeners.url)
            await own.first.wait()
            asked_s = state.asked_drain_s()
            drain_s = reloaders.settings.server.drain_s if asked_s is None else asked_s
            own.stopping(drain_s)
            relay.cancel()
            listeners.close()
            await _stop(broker, connections, runner, own.second, drain_s)
            for task in others:
                task.cancel()
    log.info("daemon.stopped")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Behind:
    """What there is of a server behind: nothing but defaults if there is none. `run` is its task."""

    run: Callable[[], Coroutine[Any, Any, None]]
    shield: Shield | None = None
    parts: Mapping[str, Callable[[], Mapping[str, object]]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def _stand_before(settings: Settings, broker: Broker, held: Keys) -> AsyncIterator[_Behind]:
    """Stand before the server behind, if there is to be one: make its relay, and what passes requests on to it."""
    if not settings.relay.upstream:
        yield _Behind(run=_nothing)
        return
    password, limit = held.credentials, settings.server.max_event_bytes
    async with (
        Upstream(settings.relay, password, max_row_bytes=limit) as upstream,
        PassThrough(settings.relay, password, is_for_us=held.tokens is not None) as pass_through,
    ):
        relay = Relay(settings.relay, broker, upstream, max_event_bytes=limit, directory=settings.server.state_dir)
        broker.resync = relay.resync
        shield = Shield(
            pass_through=pass_through,
            find_directory=relay.directories.find,
            trouble=lambda: relay.trouble,
            is_locked_out=lambda: relay.is_locked_out,
            announcements=relay.announcements,
            allow_publish=settings.relay.allow_publish,
        )
        parts = {"upstream": relay.statistics, "pass_through": pass_through.statistics}
        yield _Behind(run=relay.run, shield=shield, parts=parts)


async def _nothing() -> None:
    """Relay nothing."""


def revoke(broker: Broker, connections: Connections, tokens: frozenset[str]) -> None:
    """End the streams and the long answers of those whom tokens of these names have let in."""
    for subscriber in list(broker.subscribers.values()):
        if subscriber.terms.token in tokens:
            subscriber.close(Reason.OPERATOR)
    connections.revoke(tokens)


def look(patrol: Patrol, subscriber: Subscriber) -> Mapping[str, object]:
    """Return what the watchdog sees of a subscriber's connection."""
    connection = subscriber.outbox.connection
    seen = None if connection is None else patrol.look(connection)
    return {} if seen is None else describe(seen)


async def _stop(
    broker: Broker, connections: Connections, runner: web.AppRunner, second: asyncio.Event, drain_s: float
) -> None:
    """End subscriptions, then connections. A second signal ends the wait for readers."""
    drain = asyncio.create_task(broker.drain(drain_s), name="drain")
    hurry = asyncio.create_task(second.wait(), name="hurry")
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not drain.done():
        drain.cancel()
        await asyncio.wait((drain,))
        await broker.drain(0)
    await runner.cleanup()
    for connection in list(connections.watched()):
        connection.evict("shutdown")  # an answer that nobody has read: the kernel would keep it for minutes
    await asyncio.sleep(0)
