"""Builds the parts, owns their tasks, and ends them in order: the only module that knows all of them.

The order of the end: nobody new, what is gathered is flushed, subscribers are told and have `drain_s` to read, then
connections go, then tasks, then the log. A second signal skips the waiting.
"""

import asyncio
import contextlib
import functools
import gc
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import web

from opencode_events import __version__, configuration, credentials, logs, sockets
from opencode_events.broker.broker import Broker
from opencode_events.broker.subscriber import Subscriber
from opencode_events.credentials import Credentials
from opencode_events.errors import DaemonError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.relay.passthrough import PassThrough
from opencode_events.relay.relay import Relay
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import Settings
from opencode_events.statedir import StateDir
from opencode_events.watchdog.patrol import Patrol, describe
from opencode_events.watchdog.probe import best_probe
from opencode_events.web.app import build_app, build_runner
from opencode_events.web.connections import Connections
from opencode_events.web.shield import Shield

log = structlog.get_logger()


def run(settings: Settings, *, ready: Callable[[str], None] | None = None) -> int:
    """Run a daemon until it is told to stop; return its exit code. `ready` is called with its URL once it answers.

    Raises DaemonError when it cannot start: another one runs on the state directory, the port is taken, the log
    cannot be opened.
    """
    settings = configuration.decided(settings)
    logs.configure(settings.logging)
    with StateDir(settings.server.state_dir) as state, asyncio.Runner(loop_factory=_loop_factory(settings)) as runner:
        try:
            return runner.run(_serve(settings, state, ready))
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


async def _serve(settings: Settings, state: StateDir, ready: Callable[[str], None] | None) -> int:
    """Serve until a signal comes."""
    tls = sockets.tls_context(settings.server)
    listeners = sockets.listen(settings.server)
    descriptors = sockets.allow_descriptors(settings.broker.max_subscribers)
    eventlog = SqliteLog(logfile.locate(settings), settings.eventlog)
    async with contextlib.AsyncExitStack() as owned:
        owned.callback(eventlog.close)
        loop = asyncio.get_running_loop()
        broker = Broker(settings.broker, eventlog, loop)
        behind = await owned.enter_async_context(_stand_before(settings, broker))
        connections = Connections()
        sources = (broker.connections, connections.watched)
        patrol = Patrol(settings.watchdog, best_probe(), sources, work=time.thread_time)
        parts = {"broker": broker.statistics, "log": eventlog.statistics, "watchdog": patrol.statistics}
        app = build_app(
            settings.server,
            broker,
            __version__,
            {**parts, **behind.parts},
            connections=connections,
            look=functools.partial(look, patrol),
            credentials=behind.credentials,
            shield=behind.shield,
        )
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(broker.run(), name="broker")
            watchdog = tasks.create_task(patrol.run(), name="watchdog")
            relay = tasks.create_task(behind.run(), name="relay")
            runner = build_runner(app)
            await runner.setup()
            connections.server = runner.server
            assert runner.server is not None
            # Not aiohttp's sites: a TLS connection is nobody's before its handshake, so that has its limit here, and
            # its end a long one: the loop's own 30 s would cut who reads the last answer slowly.
            handshake_s = None if tls is None else max(settings.watchdog.head_timeout_s, 0.1)
            goodbye_s = None if tls is None else float(settings.server.tcp_user_timeout_s)
            servers = []
            for listener in listeners:
                server = await loop.create_server(
                    runner.server,
                    sock=listener,
                    backlog=sockets.ACCEPTS_A_TURN,
                    ssl=tls,
                    ssl_handshake_timeout=handshake_s,
                    ssl_shutdown_timeout=goodbye_s,
                )
                servers.append(server)
                listener.listen(settings.server.listen_backlog)  # the server has set the smaller number for both
            # What is there now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            url = sockets.url(listeners[0], "https" if tls else "http")
            signals = _Signals()
            state.announce(url, __version__)
            log.info("daemon.started", url=url, version=__version__, descriptors=descriptors, **eventlog.statistics())
            if ready is not None:
                ready(url)
            await signals.first.wait()
            log.info("daemon.stopping", subscribers=len(broker.subscribers))
            relay.cancel()
            await _stop(broker, servers, runner, signals, settings.server.drain_s)
            for connection in list(connections.watched()):
                connection.evict("shutdown")  # an answer that nobody has read: the kernel would keep it for minutes
            await asyncio.sleep(0)
            work.cancel()
            watchdog.cancel()
    log.info("daemon.stopped")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Behind:
    """What there is of a server behind: nothing but defaults if there is none. `run` is its task."""

    run: Callable[[], Coroutine[Any, Any, None]]
    credentials: Credentials | None = None
    shield: Shield | None = None
    parts: Mapping[str, Callable[[], Mapping[str, object]]] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def _stand_before(settings: Settings, broker: Broker) -> AsyncIterator[_Behind]:
    """Stand before the server behind, if there is to be one: make its relay, and what passes requests on to it.

    Raises SettingError for a password file that cannot be used.
    """
    if not settings.relay.upstream:
        yield _Behind(run=_nothing)
        return
    held, limit = credentials.load(settings.relay, os.environ), settings.server.max_event_bytes
    async with (
        Upstream(settings.relay, held, max_row_bytes=limit) as upstream,
        PassThrough(settings.relay, held) as pass_through,
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
        yield _Behind(run=relay.run, credentials=held, shield=shield, parts=parts)


async def _nothing() -> None:
    """Relay nothing."""


def look(patrol: Patrol, subscriber: Subscriber) -> Mapping[str, object]:
    """Return what the watchdog sees of a subscriber's connection."""
    connection = subscriber.outbox.connection
    seen = None if connection is None else patrol.look(connection)
    return {} if seen is None else describe(seen)


class _Signals:
    """SIGTERM and SIGINT: the first one asks to stop, the second to stop waiting."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _stop(
    broker: Broker, servers: Sequence[asyncio.Server], runner: web.AppRunner, signals: _Signals, drain_s: float
) -> None:
    """End subscriptions, then connections. A second signal ends the wait for readers."""
    for server in servers:
        server.close()
    drain = asyncio.create_task(broker.drain(drain_s), name="drain")
    hurry = asyncio.create_task(signals.second.wait(), name="hurry")
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not drain.done():
        drain.cancel()
        await asyncio.wait((drain,))
        await broker.drain(0)
    await runner.cleanup()
