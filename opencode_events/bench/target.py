"""The daemon under measurement: its address, and the heads of requests to it."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from opencode_events.bench.answers import Answer, AnswerParser
from opencode_events.bench.errors import BenchError

ANSWER_S = 10.0
STREAM = "/global/event"


def instance_stream(directory: str) -> str:
    """Return the path of one directory's stream."""
    return "/event?directory=" + quote(directory, safe="")


def stream_after(cursor: str) -> str:
    """Return the path of the stream of everything, resumed after `cursor`."""
    return f"{STREAM}?after={quote(cursor, safe='')}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where to connect, and what every request says. `headers` are further lines, each without its line break."""

    family: socket.AddressFamily
    address: tuple[Any, ...]
    host: str
    prefix: str = ""
    headers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str, headers: tuple[str, ...] = ()) -> "Target":
        """Return the target that `url` names. Raise BenchError if it is no http URL or its host has no address."""
        parts = urlsplit(url if "//" in url else "//" + url, scheme="http")
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError as error:
            raise BenchError(f"{url}: {error}") from error
        if parts.scheme != "http" or not host:
            raise BenchError(f"{url}: must be an http URL, like http://127.0.0.1:4097")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise BenchError(f"{url}: {error.strerror}") from error
        family, _, _, _, address = found[0]
        return cls(family=family, address=address, host=parts.netloc, prefix=parts.path.rstrip("/"), headers=headers)

    def request(self, method: str, path: str, *fields: str) -> bytes:
        """Return the head of a request, its empty line included."""
        lines = (f"{method} {self.prefix}{path} HTTP/1.1", f"Host: {self.host}", *self.headers, *fields, "", "")
        return "\r\n".join(lines).encode("latin-1")

    def connect(self, timeout_s: float = ANSWER_S) -> socket.socket:
        """Return a connected socket that raises TimeoutError after `timeout_s` without progress."""
        connection = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(self.address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connection.close()
            raise BenchError(f"no daemon at {self.host}: {error}") from error
        return connection

    def ask(self, method: str, path: str, *fields: str, body: bytes = b"") -> Answer | None:
        """Return the answer to one request, over a connection of its own; None if the daemon hangs up instead.

        Raise BenchError if nobody answers at all.
        """
        parser = AnswerParser()
        lines = (*fields, f"Content-Length: {len(body)}") if body else fields
        with self.connect() as connection:
            try:
                connection.sendall(self.request(method, path, *lines, "Connection: close") + body)
                while data := connection.recv(65536):
                    if answers := parser.feed(data):
                        return answers[0]
            except (OSError, ValueError) as error:
                raise BenchError(f"{self.host} does not answer: {error}") from error
        return None

    def is_local(self) -> bool:
        """Tell whether a process id that the daemon names is one of this machine."""
        return str(self.address[0]) == "::1" or str(self.address[0]).startswith("127.")

    def ask_pid(self) -> int | None:
        """Return the daemon's process id as `GET /-/status` tells it; None if it does not, or is on another machine.

        Raise BenchError if nobody answers at all.
        """
        answer = self.ask("GET", "/-/status")
        if answer is None or answer.status != 200 or not self.is_local():
            return None
        try:
            pid = json.loads(answer.body)["pid"]
        except (ValueError, KeyError, TypeError):
            return None
        return pid if isinstance(pid, int) and Path("/proc", str(pid)).exists() and pid != os.getpid() else None
