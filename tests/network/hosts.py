"""What runs on the hosts of a network: a real daemon, clients, and what a host's kernel has of their connections.

A client is known by its `peer`, "address:port", as the daemon's log and `/-/subscribers` call it.
"""

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from opencode_events.credentials import PASSWORD_ENV, Credentials
from opencode_events.declared import ENV_PREFIX
from tests.clients import DEADLINE_S, Answer, Client, Head, Stream
from tests.network.spaces import Space
from tests.servers import Daemon

# What opens every daemon here, and what every client shows.
HELD = Credentials("opencode", "s3cret")
# Numbers of TCP's states, as /proc/net/tcp has them.
TIME_WAIT, CLOSE_WAIT, LISTEN = 6, 8, 10


class HostDaemon(Daemon):
    """A daemon that runs in a namespace and listens on all of its addresses."""

    def __init__(self, space: Space, state_dir: Path, **changes: object) -> None:
        self.state_dir = state_dir
        self.log_path = state_dir / "events.sqlite3"
        self._space = space
        self._output = state_dir.with_suffix(".out")
        self._errors = state_dir.with_suffix(".err")
        command = [*space.entry, sys.executable, "-m", "opencode_events", "run", "--state-dir", str(state_dir)]
        for name, value in ({"port": 0, "host": "0.0.0.0"} | changes).items():
            flag = name.replace("_", "-")
            command += (
                [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
            )
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        environment[PASSWORD_ENV] = HELD.password  # it would not listen for others without one
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment
            )
        self.pid = self.process.pid
        self._wait_ready()
        self.client = HostClient(self.url, space)


class HostStream(Stream):
    """A stream that may come by TLS, which has an exception of its own for "nothing yet"."""

    def _receive(self, size: int = 262_144) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            super()._receive(size)


class HostClient(Client):
    """A client on the host `space`. Certificates are taken as they come."""

    def __init__(self, url: str, space: Space) -> None:
        super().__init__(url)
        self._space = space
        self._tls: ssl.SSLContext | None = None
        if url.startswith("https:"):
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        sock = self.connect_tcp(receive_buffer=receive_buffer)
        if self._tls is None:
            return sock
        wrapped = self._tls.wrap_socket(sock)
        self._opened.append(wrapped)
        return wrapped

    def connect_tcp(self, *, receive_buffer: int = 0) -> socket.socket:
        """Return a connection that speaks no TLS."""
        sock = self._space.socket()
        self._opened.append(sock)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE_S)
        sock.connect((self.host, self.port))
        return sock

    def request(self, target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
        shown = f"Authorization: {HELD.authorization}"
        return super().request(target, shown, *fields, method=method, version=version)

    def ask(self, target: str, *fields: str, version: str = "1.1", receive_buffer: int = 0) -> Stream:
        sock = self.connect(receive_buffer=receive_buffer)
        sock.sendall(self.request(target, *fields, version=version))
        return HostStream(sock)

    def send(self, method: str, target: str, body: bytes | Iterable[bytes] | None = None, **fields: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.sock = self.connect()
        try:
            shown = {"Authorization": HELD.authorization}
            headers = shown | {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            found = tuple((name.lower(), value) for name, value in response.getheaders())
            return Answer(Head(f"HTTP/{response.version / 10}", response.status, found), response.read())
        finally:
            connection.close()


@dataclass(frozen=True)
class Tcp:
    """What a kernel has of a connection: its state's number, and the bytes that the peer has not acknowledged."""

    state: int
    unacked_bytes: int


def peer_of(sock: socket.socket) -> str:
    """Return a client's name at the server."""
    host, port = sock.getsockname()
    return f"{host}:{port}"


def connections(pid: int, port: int) -> dict[str, Tcp]:
    """Return what the kernel of a process's namespace has at a port, by peer.

    What only waits for time to pass (TIME-WAIT) is left out: it holds nothing, and nobody.
    """
    found = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        if int(local.split(":")[1], 16) == port and int(state, 16) not in (TIME_WAIT, LISTEN):
            address, peer_port = remote.split(":")
            host = socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder))
            found[f"{host}:{int(peer_port, 16)}"] = Tcp(int(state, 16), int(queues.split(":")[0], 16))
    return found
