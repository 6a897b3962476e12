"""Makes the parts, owns their tasks, and ends them in order: the only module that knows all of them.

The order of the end: nobody new, what is gathered is flushed, subscribers are told and have `drain_s` to read, then
connections go, then tasks, then the log. A second signal skips the waiting.
"""

import asyncio
import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

from opencode_events import __version__, configuration, keys, logs, service, sockets, systemd
from opencode_events.broker.broker import Broker
from opencode_events.errors import DaemonError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.keys import Keys
from opencode_events.listeners import Listeners
from opencode_events.parts import Behind, Parts
from opencode_events.relay.passthrough import PassThrough
from opencode_events.relay.relay import Relay
from opencode_events.relay.upstream import Upstream
from opencode_events.reloaders import Reloaders
from opencode_events.service import Service
from opencode_events.settings import Settings
from opencode_events.statedir import StateDir
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
        relaying, behind = await owned.enter_async_context(_stand_before(settings, broker, held))
        parts = Parts(settings, eventlog, broker, held, behind)
        service.claim(reloaders, broker=broker, patrol=parts.patrol, eventlog=eventlog, tls=listeners.tls)
        reloaders.add((), lambda _: held.prepare_password(parts.revoke))
        reloaders.add(("tokens_file",), lambda new: held.prepare_tokens(new, parts.revoke))
        own = Service(reloaders, notifier, broker)
        async with asyncio.TaskGroup() as tasks:
            relay = tasks.create_task(relaying(), name="relay")
            others = await parts.start(tasks, listeners)
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
            await parts.end(drain_s, own.second)
            for task in others:
                task.cancel()
    log.info("daemon.stopped")
    return 0


@contextlib.asynccontextmanager
async def _stand_before(
    settings: Settings, broker: Broker, held: Keys
) -> AsyncIterator[tuple[Callable[[], Coroutine[Any, Any, None]], Behind]]:
    """Stand before the server behind, if there is to be one: make its relay, and what passes requests on to it.

    Yields what runs the relay, and what others have to know of it.
    """
    if not settings.relay.upstream:
        yield _nothing, Behind()
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
        statistics = {"upstream": relay.statistics, "pass_through": pass_through.statistics}
        yield relay.run, Behind(shield=shield, statistics=statistics)


async def _nothing() -> None:
    """Relay nothing."""
