"""Servers to test against: the daemon's parts on a loop in a thread, where a test can look inside, and a real daemon.

Both listen on a free port of the loopback. What a `Server` must never do, whatever a test does to it (call the loop's
exception handler, leave a subscriber behind, let aiohttp or asyncio complain), is looked at when it stops.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from aiohttp import web
from structlog.testing import capture_logs

from opencode_events import configuration, keys, sockets, statedir
from opencode_events.broker.broker import Broker
from opencode_events.broker.connection import Terms
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.declared import ENV_PREFIX
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.listeners import Listeners
from opencode_events.parts import Behind, Parts
from opencode_events.settings import Settings
from opencode_events.watchdog.classify import Tcp
from opencode_events.watchdog.looplag import LoopLag
from opencode_events.watchdog.patrol import Patrol
from opencode_events.web.app import build_runner
from opencode_events.web.connections import Connections
from tests.clients import DEADLINE_S, Client, until

T = TypeVar("T")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class _Complaints(logging.Handler):
    """Keeps what the libraries below us find worth a warning."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Server:
    """The daemon's parts, put together as `daemon` does it, on the loop called `loop_name` in a thread of its own.

    `send_buffer` is the SO_SNDBUF of each connection: a small one makes a client that does not read felt at once.
    `make_runner` replaces the daemon's own; `behind` is the server that it stands before, and `password` what everybody
    has to show.
    """

    def __init__(
        self,
        settings: Settings,
        loop_name: str,
        *,
        send_buffer: int = 0,
        make_runner: Callable[[web.Application], web.AppRunner] = build_runner,
        behind: Behind | None = None,
        password: str = "",
    ) -> None:
        self.settings = settings
        self.log_path = settings.server.state_dir / "events.sqlite3"
        self.complaints = _Complaints()
        self.failures: list[dict[str, Any]] = []
        self.lines: list[Any] = []
        self.urls: list[str] = []
        self.broker: Broker
        self.keys: keys.Keys
        self.patrol: Patrol
        self.lag: LoopLag
        self.web_connections: Connections
        self.runner: web.AppRunner
        self.client: Client
        self._loop_name = loop_name
        self._send_buffer = send_buffer
        self._make_runner = make_runner
        self._behind = behind or Behind()
        self._environment = {"OPENCODE_SERVER_PASSWORD": password} if password else {}
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._base: set[asyncio.Task[Any]] = set()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    def start(self) -> None:
        self.settings.server.state_dir.mkdir(parents=True, exist_ok=True)
        for name in ("aiohttp", "asyncio"):
            logging.getLogger(name).addHandler(self.complaints)
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        if self._error is not None:
            raise self._error
        self.client = Client(self.urls[0])

    def stop(self) -> None:
        """End it, and tell what it did wrong."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(DEADLINE_S)
        for name in ("aiohttp", "asyncio"):
            logging.getLogger(name).removeHandler(self.complaints)
        self.client.close()
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        assert self.complaints.lines == []
        assert self.failures == []
        assert self.broker.subscribers == {}

    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Await what `make` returns, on the server's loop."""

        async def waited() -> T:
            return await make()

        return asyncio.run_coroutine_threadsafe(waited(), self._loop).result(DEADLINE_S)

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` on the server's loop."""

        async def called() -> T:
            return function()

        return self.run(called)

    def tasks(self) -> list[str]:
        """Return the tasks there are beside the server's own."""

        def named() -> list[str]:
            others = asyncio.all_tasks() - self._base - {asyncio.current_task()}
            return [repr(task) for task in others]

        return self.call(named)

    @property
    def connections(self) -> int:
        """How many connections aiohttp has."""
        server = self.runner.server
        assert server is not None
        return self.call(lambda: len(server.connections))

    @property
    def watched(self) -> int:
        """How many connections the watchdog looks at that are no streams."""
        return self.call(lambda: len(list(self.web_connections.watched())))

    @property
    def kernel(self) -> dict[int, Tcp]:
        """Its connections as the kernel has them, by the client's port."""
        return kernel_states(self.client.port)

    def come_and_go(self, count: int) -> None:
        """Have so many handles that are over at once, each with a number of its own as its peer."""

        def go() -> None:
            for number in range(count):
                terms = Terms(peer=f"192.0.2.1:{number}", on_overflow="end", end="clean", is_chunked=True)
                self.broker.subscribe(Selection(stream="global"), terms, None).lost(Reason.CLIENT_CLOSED)

        self.call(go)

    def told(self, event: str) -> list[Any]:
        """Return the lines of that name that it has logged."""
        return [line for line in self.lines if line["event"] == event]

    @property
    def subscribed(self) -> int:
        """How many handles there are, not asked by HTTP."""
        return self.call(lambda: len(self.broker.subscribers))

    def _run(self) -> None:
        try:
            with capture_logs() as self.lines, asyncio.Runner(loop_factory=LOOPS[self._loop_name]) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # the test's thread raises it
            self._error = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda _, context: self.failures.append(context))
        found = sockets.listen(self.settings.server)
        for listener in found:
            if self._send_buffer:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self._listeners = Listeners(self.settings, found, sockets.tls_context(self.settings.server))
        self.urls = [sockets.url(listener, "https" if self._listeners.tls else "http") for listener in found]
        eventlog = SqliteLog(self.log_path, self.settings.eventlog)
        self.keys = keys.load(self.settings, self._environment)
        self.broker = Broker(self.settings.broker, eventlog, self._loop)
        self._parts = Parts(self.settings, eventlog, self.broker, self.keys, self._behind, self._make_runner)
        self.patrol, self.lag, self.runner = self._parts.patrol, self._parts.lag, self._parts.runner
        self.web_connections, self.revoke = self._parts.connections, self._parts.revoke
        with contextlib.closing(eventlog):
            async with asyncio.TaskGroup() as tasks:
                started = await self._parts.start(tasks, self._listeners)
                await asyncio.sleep(0)  # the broker's tasks start theirs
                await asyncio.sleep(0)
                self._base = asyncio.all_tasks()
                self._ready.set()
                await self._over.wait()
                await self.shut_down()
                for task in started:
                    task.cancel()

    async def shut_down(self, drain_s: float = 0) -> None:
        """End subscribers and connections, in the daemon's order. Twice is fine."""
        self._listeners.close()
        await self._parts.end(drain_s, asyncio.Event())


def settings(state_dir: Path, **changes: object) -> Settings:
    """Return settings that leave nothing to this machine: the defaults, a free port, and `changes`."""
    wanted = {"port": 0, "state_dir": state_dir} | changes
    defaults = Settings()
    groups = {}
    for field in dataclasses.fields(defaults):
        group = getattr(defaults, field.name)
        own = {each.name for each in dataclasses.fields(group)} & wanted.keys()
        groups[field.name] = dataclasses.replace(group, **{name: wanted.pop(name) for name in own})
    assert not wanted, f"no such settings: {', '.join(wanted)}"
    return configuration.decided(Settings(**groups))


def kernel_states(port: int) -> dict[int, Tcp]:
    """Return the state of each connection of a server at 127.0.0.1, by its client's port, as the kernel has it.

    What nobody has open any more is here too, for as long as the kernel keeps it. TIME_WAIT is not: it holds nothing.
    """
    found = {}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        own, peer, state = line.split()[1:4]
        if int(own.partition(":")[2], 16) == port:
            found[int(peer.partition(":")[2], 16)] = Tcp(int(state, 16))
    return {client: state for client, state in found.items() if state not in (Tcp.LISTEN, Tcp.TIME_WAIT)}


def free_port() -> int:
    """Return a free port that stays free while a daemon is away: it is below those that the system gives to clients.

    Else a client that tries to connect to it may be given that very port, and talk to itself.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(lowest // 2, lowest), 100):
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Daemon:
    """`opencode-events run` as a process of its own. Its output goes to files beside its state directory.

    One with `is_awaited=False` is not waited for: it has neither `url` nor `client`, and may be killed while it starts.
    """

    url: str
    client: Client

    def __init__(self, state_dir: Path, *, is_awaited: bool = True, **changes: object) -> None:
        self.state_dir = state_dir
        self.log_path = state_dir / "events.sqlite3"
        self._output = state_dir.with_suffix(".out")
        self._errors = state_dir.with_suffix(".err")
        command = [sys.executable, "-m", "opencode_events", "run", "--state-dir", str(state_dir)]
        for name, value in ({"port": 0} | changes).items():
            flag = name.replace("_", "-")
            command += (
                [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
            )
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment
            )
        self.pid = self.process.pid
        if is_awaited:
            self._wait_ready()

    def _wait_ready(self) -> None:
        try:
            info = until(self._announced)
        except BaseException:
            self.kill()
            raise
        self.url = info.url
        self.client = Client(self.url)

    def _announced(self) -> statedir.DaemonInfo | None:
        assert self.process.poll() is None, self._errors.read_text()
        info = statedir.read(self.state_dir)
        return info if info is not None and info.pid == self.pid else None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Return the exit code."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """Ask it to end and wait until it has. Returns the exit code."""
        self.client.close()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it without a warning."""
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return what it has logged."""
        return [json.loads(line) for line in self._output.read_text("utf-8").splitlines()]

    def errors(self) -> str:
        """Return what it wrote to standard error."""
        return self._errors.read_text("utf-8")

    def descriptors(self) -> int:
        """Return how many files it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def peak_kib(self) -> int:
        """Return the most memory that it ever had, in KiB."""
        return self._memory("VmHWM:")

    def resident_kib(self) -> int:
        """Return the memory that it has, in KiB."""
        return self._memory("VmRSS:")

    def _memory(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
        raise AssertionError("the kernel does not tell")
