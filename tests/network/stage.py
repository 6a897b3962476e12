"""A real daemon on a host of its own, clients on others, and what can be seen of them from outside.

What the daemon's kernel has of a connection is read in the daemon's namespace, where it stays when the daemon is gone.
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from opencode_events.settings import Settings
from tests.clients import Stream, envelope, until
from tests.network.hosts import HostClient, HostDaemon, connections, peer_of
from tests.network.spaces import Network

T = TypeVar("T")

# How old an answer may be that several ask for at a time.
FRESH_S = 0.1

# A daemon's settings on each loop and each path. TLS is always served the plain way.
LOOPS: dict[str, dict[str, object]] = {"asyncio": {"uvloop": False}, "uvloop": {"uvloop": True}}
PATHS: dict[str, dict[str, object]] = {"taken over": {"takeover": True}, "plain": {"takeover": False}, "tls": {}}

# The default limits, and these scaled down, so that no test takes minutes.
SHORT_LIMITS = {
    "tick_s": 0.1,
    "fin_zombie_s": 1.0,
    "fin_max_s": 4.0,
    "path_dead_s": 3.0,
    "stalled_s": 6.0,
    "ending_stalled_s": 2.0,
    "head_timeout_s": 1.0,
    "heartbeat_s": 0.5,
}
LIMITS = {name: float(vars(Settings().watchdog).get(name, Settings().broker.heartbeat_s)) for name in SHORT_LIMITS}


class Recent(Generic[T]):
    """What `ask` returns, asked again when that is older than `FRESH_S`; for many threads."""

    def __init__(self, ask: Callable[[], T]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._at = -FRESH_S
        self._answer: T

    def forget(self) -> None:
        """Have the next answer be one that is asked for after this."""
        with self._lock:
            self._at = -FRESH_S

    def __call__(self) -> T:
        with self._lock:
            if time.monotonic() - self._at > FRESH_S:
                self._answer = self._ask()
                self._at = time.monotonic()
            return self._answer


class Stage:
    """A network, the daemon on its server, and clients. A context manager.

    `limits` and `changes` are settings. `tables`, `subscribers`, `closed` and `lines` are what the kernel, the daemon
    and its log have to say.
    """

    def __init__(self, folder: Path, hosts: Iterable[str], limits: Mapping[str, float], **changes: object) -> None:
        self.limits = limits
        self.network = Network(*hosts)
        self._folder = folder
        self._changes = changes
        self._stack = contextlib.ExitStack()
        self._clients = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._stack.enter_context(self.network)
            self.daemon = HostDaemon(
                self.network.server, self._folder / "state", log_burst=100_000, **self.limits, **self._changes
            )
            self._stack.callback(self.daemon.kill)
            self.operator = self.daemon.client
            self._stack.callback(self.operator.close)
            self._stack.callback(self._clients.close)
            scheme = self.daemon.url.partition(":")[0]
            self.url = f"{scheme}://{self.network.server.address}:{self.operator.port}"
            self.tables = Recent(lambda: connections(self.network.server.pid, self.operator.port))
            self.subscribers = Recent(self.operator.subscribers)
            self.closed: Recent[list[dict[str, Any]]] = Recent(
                lambda: self.operator.get("/-/subscribers?closed=1").json["closed"]
            )
            self.lines = Recent(self.daemon.lines)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def client(self, host: str = "near") -> HostClient:
        """Return a client on a host; what it opens is closed with the stage."""
        made = HostClient(self.url, self.network.hosts[host])
        self._clients.callback(made.close)
        return made

    def callback(self, function: Callable[[], object]) -> None:
        """Have something done when the stage ends, or when all clients leave."""
        self._clients.callback(function)

    def leave(self) -> None:
        """Have every client go; return when the daemon knows."""
        self._clients.close()
        until(lambda: not self.tables())

    def feed(self, room: str, count: int = 1, size: int = 100_000) -> list[str]:
        """Publish events of `size` bytes to the directory `room`; return their ids."""
        names = [os.urandom(8).hex() for _ in range(count)]
        self.operator.publish(*(envelope(name, room, pad="x" * size) for name in names))
        return [f"evt_{name}" for name in names]

    def look_again(self) -> None:
        """Have nothing told from now on that was seen before."""
        for each in (self.tables, self.subscribers, self.closed, self.lines):
            each.forget()

    def status(self, part: str) -> dict[str, Any]:
        """Return the statistics of a part of the daemon."""
        found: dict[str, Any] = self.operator.status()[part]
        return found

    def knows(self, sock: socket.socket) -> str:
        """Return the name of a client, once the daemon's kernel has its connection."""
        peer = peer_of(sock)
        until(lambda: peer in self.tables())
        return peer

    def handle(self, peer: str) -> dict[str, Any] | None:
        """Return what `/-/subscribers` has of a client."""
        return next((each for each in self.subscribers() if each["peer"] == peer), None)

    def farewell(self, peer: str) -> dict[str, Any] | None:
        """Return what `/-/subscribers?closed=1` has of a client."""
        return next((each for each in self.closed() if each["peer"] == peer), None)

    def evictions(self, peer: str) -> list[dict[str, Any]]:
        """Return what the watchdog has logged of a client."""
        return [line for line in self.lines() if line["event"] == "connection.evicted" and line.get("peer") == peer]

    def fill(self, room: str, stream: Stream) -> list[str]:
        """Feed a subscriber that does not read until its connection takes no more; return the events' ids."""
        peer, names = peer_of(stream.sock), []
        until(lambda: self.handle(peer))
        while not self.is_full(peer):
            names += self.feed(room, 4)
            settle(lambda: self.unacked(peer), for_s=0.1)
        return names

    def is_full(self, peer: str) -> bool:
        """Tell whether more waits for a subscriber than its connection takes."""
        handle = self.handle(peer)
        return handle is not None and handle["is_parked"] and self.unacked(peer) > 0

    def unacked(self, peer: str) -> int:
        """Return the bytes that the daemon's kernel holds for a client; 0 where there is no connection."""
        found = self.tables().get(peer)
        return 0 if found is None else found.unacked_bytes


def stage_of(
    kind: str,
    folder: Path,
    hosts: Iterable[str] = ("near",),
    *,
    limits: Mapping[str, float] = SHORT_LIMITS,
    **changes: object,
) -> Stage:
    """Return a stage of a kind, such as "uvloop, plain"; `changes` are further settings."""
    folder.mkdir(exist_ok=True)
    loop, path = kind.split(", ")
    tls = certificate(folder) if path == "tls" else {}
    return Stage(folder, hosts, limits, **(LOOPS[loop] | PATHS[path] | tls | changes))


def certificate(folder: Path) -> dict[str, object]:
    """Make a certificate that nobody has signed; return the settings for it."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return {"tls_cert": cert, "tls_key": key}


def settle(ask: Callable[[], T], *, for_s: float = 0.3) -> T:
    """Ask until the answer has been the same for a while; return it."""
    answer, since = ask(), time.monotonic()

    def is_settled() -> bool:
        nonlocal answer, since
        now = ask()
        if now != answer:
            answer, since = now, time.monotonic()
        return time.monotonic() - since >= for_s

    until(is_settled)
    return answer
