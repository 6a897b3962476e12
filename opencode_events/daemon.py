"""Builds the parts, owns their tasks, and ends them in order: the only module that knows all of them.

The order of the end: nobody new, what is gathered is flushed, subscribers are told and have `drain_s` to read, then
connections go, then tasks, then the log. A second signal skips the waiting.
"""

import asyncio
import gc
import signal
from collections.abc import Callable

import structlog
from aiohttp import web

from opencode_events import __version__, logs, sockets
from opencode_events.broker.broker import Broker
from opencode_events.errors import DaemonError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import Settings
from opencode_events.statedir import StateDir
from opencode_events.web.app import build_app, build_runner

log = structlog.get_logger()


def run(settings: Settings, *, ready: Callable[[str], None] | None = None) -> int:
    """Run a daemon until it is told to stop; return its exit code. `ready` is called with its URL once it answers.

    Raises DaemonError when it cannot start: another one runs on the state directory, the port is taken, the log
    cannot be opened.
    """
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
    listeners = sockets.listen(settings.server)
    descriptors = sockets.allow_descriptors(settings.broker.max_subscribers)
    eventlog = SqliteLog(logfile.locate(settings), settings.eventlog)
    try:
        broker = Broker(settings.broker, eventlog, asyncio.get_running_loop())
        app = build_app(settings.server, broker, __version__, {"broker": broker.statistics, "log": eventlog.statistics})
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(broker.run(), name="broker")
            runner = build_runner(app)
            await runner.setup()
            for listener in listeners:
                await web.SockSite(runner, listener, backlog=sockets.ACCEPTS_A_TURN).start()
                listener.listen(settings.server.listen_backlog)  # the site has set the smaller number for both
            # What is there now stays: the collector need not look at it again.
            gc.collect()
            gc.freeze()
            url = sockets.url(listeners[0])
            signals = _Signals()
            state.announce(url, __version__)
            log.info("daemon.started", url=url, version=__version__, descriptors=descriptors, **eventlog.statistics())
            if ready is not None:
                ready(url)
            await signals.first.wait()
            log.info("daemon.stopping", subscribers=len(broker.subscribers))
            await _stop(broker, runner, signals, settings.server.drain_s)
            work.cancel()
    finally:
        eventlog.close()
    log.info("daemon.stopped")
    return 0


class _Signals:
    """SIGTERM and SIGINT: the first one asks to stop, the second to stop waiting."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._received)

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _stop(broker: Broker, runner: web.AppRunner, signals: _Signals, drain_s: float) -> None:
    """End subscriptions, then connections. A second signal ends the wait for readers."""
    for site in list(runner.sites):
        await site.stop()
    drain = asyncio.create_task(broker.drain(drain_s), name="drain")
    hurry = asyncio.create_task(signals.second.wait(), name="hurry")
    await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not drain.done():
        drain.cancel()
        await asyncio.wait((drain,))
        await broker.drain(0)
    await runner.cleanup()
