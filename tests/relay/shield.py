"""A pass-through handler on a loop in a thread, and an upstream of bare sockets that says what a test has it say.

`Shield` checks access and guards the handler as the daemon does, and tells on its end whatever went wrong inside.
"""

import asyncio
import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web
from structlog.testing import capture_logs

from opencode_events import sockets
from opencode_events.credentials import Credentials
from opencode_events.relay.passthrough import PassThrough
from opencode_events.settings import RelaySettings, ServerSettings
from opencode_events.tokens import Tokens
from opencode_events.web.access import Access, expect_later
from opencode_events.web.app import build_runner
from opencode_events.web.connections import Connections
from opencode_events.web.cors import Cors
from opencode_events.web.memory import Memory
from opencode_events.web.problems import Guard
from tests.clients import DEADLINE_S, Answer, Chunks, Client, parse_head, until
from tests.servers import LOOPS

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """A request as upstream received it, to the octet."""

    raw: bytes
    body: bytes = b""

    @property
    def line(self) -> str:
        """The request line."""
        return self.raw.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The fields in order, their names in lower case."""
        pairs = (line.split(": ", 1) for line in self.raw.decode("latin-1").split("\r\n")[1:])
        return [(name.lower(), value) for name, value in pairs]

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.fields if known == name.lower()]


class Wire:
    """One connection: reads and writes octets, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.raw = b""

    def head(self) -> Asked:
        """Return the next request, of which only the head is read. Raises EOFError when the connection is over."""
        while b"\r\n\r\n" not in self.raw:
            self._receive()
        raw, _, self.raw = self.raw.partition(b"\r\n\r\n")
        return Asked(raw)

    def request(self) -> Asked:
        """Return the next request with its body."""
        asked = self.head()
        if asked.all("transfer-encoding") == ["chunked"]:
            chunks, body = Chunks(), b""
            while not chunks.is_over:
                if not self.raw:
                    self._receive()
                data, self.raw = self.raw, b""
                body += chunks.feed(data)
            return Asked(asked.raw, body)
        return Asked(asked.raw, self.read(int((asked.all("content-length") or ["0"])[0])))

    def read(self, size: int) -> bytes:
        """Return so many octets."""
        while len(self.raw) < size:
            self._receive()
        data, self.raw = self.raw[:size], self.raw[size:]
        return data

    def say(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def answer(self, body: bytes = b"", *fields: str, status: str = "200 OK") -> None:
        """Send a whole answer."""
        lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
        self.say("\r\n".join(lines).encode("latin-1"), body)

    def is_over(self) -> bool:
        """Wait for the other side's end; tell whether that came, and nothing before it."""
        try:
            return self.sock.recv(65_536) == b""
        except ConnectionResetError:
            return True

    def _receive(self) -> None:
        received = self.sock.recv(262_144)
        if not received:
            raise EOFError
        self.raw += received


Serve = Callable[[Wire], None]


def always(*fields: str, body: bytes = b"hello", status: str = "200 OK") -> Serve:
    """Return what answers every request alike, and keeps the connection."""

    def serve(wire: Wire) -> None:
        while True:
            wire.request()
            wire.answer(body, *fields, status=status)

    return serve


class Upstream:
    """A server on a free port; `serve` is called in a thread for each connection, which is closed afterwards."""

    def __init__(self, serve: Serve, *, receive_buffer: int = 0) -> None:
        self.asked: list[Asked] = []
        self.accepted = 0
        self.failures: list[BaseException] = []
        self._serve = serve
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(100)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """Stop accepting, wait for those that serve, and tell what failed there."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(DEADLINE_S)
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        assert self.failures == []

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(DEADLINE_S)
                self.accepted += 1
                thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, sock: socket.socket) -> None:
        wire = Wire(sock)
        remember = wire.head

        def head() -> Asked:
            asked = remember()
            self.asked.append(asked)
            return asked

        wire.head = head  # type: ignore[method-assign]
        with sock, contextlib.suppress(EOFError, ConnectionError):
            try:
                self._serve(wire)
            except AssertionError as error:
                self.failures.append(error)


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Shield:
    """The handler behind aiohttp's server, as the daemon runs it, on the loop called `loop_name`."""

    def __init__(
        self,
        upstream: str,
        loop_name: str,
        *,
        credentials: Credentials | None = None,
        tokens: Tokens | None = None,
        send_buffer: int = 0,
        **changes: Any,
    ) -> None:
        self.complaints = _Complaints()
        self.failures: list[dict[str, Any]] = []
        self.lines: list[Any] = []
        self.client: Client
        self.handler: PassThrough
        self._settings = RelaySettings(upstream=upstream, **changes)
        self._credentials = credentials
        self._tokens = tokens
        self._send_buffer = send_buffer
        self._loop_name = loop_name
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        self._url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        for name in ("aiohttp", "asyncio"):
            logging.getLogger(name).addHandler(self.complaints)
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        self.client = Client(self._url)

    def stop(self) -> None:
        """End it, and tell what it did wrong: nothing may be left of any request."""
        self.client.close()
        until(lambda: self.statistics["requests"] == 0 and self.statistics["streams"] == 0)
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(DEADLINE_S)
        for name in ("aiohttp", "asyncio"):
            logging.getLogger(name).removeHandler(self.complaints)
        assert not self._thread.is_alive()
        assert self.complaints.lines == []
        assert self.failures == []
        assert [line for line in self.lines if line["event"] == "request.failed"] == []

    @property
    def statistics(self) -> dict[str, object]:
        return self.run(self.handler.statistics)

    def run(self, function: Callable[[], T]) -> T:
        """Call `function` on its loop."""

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(DEADLINE_S)

    def ask(self, raw: bytes) -> Answer:
        """Send octets and return the answer to them, whose head is taken as it is."""
        sock = self.client.connect()
        sock.sendall(raw)
        return read_answer(sock, is_head=raw.startswith(b"HEAD "))

    def get(self, target: str, *fields: str, method: str = "GET") -> Answer:
        """Ask for a target, written as it is."""
        return self.ask(self.client.request(target, *fields, method=method))

    def _run(self) -> None:
        with capture_logs() as self.lines, asyncio.Runner(loop_factory=LOOPS[self._loop_name]) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda _, context: self.failures.append(context))
        server = ServerSettings(port=0)
        (listener,) = sockets.listen(server)
        if self._send_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self._url = sockets.url(listener)
        cors = Cors(frozenset())
        access = Access(self._credentials, frozenset(), cors, self._tokens)
        guard = Guard(access, cors, Connections(), Memory(0), max_head_bytes=16_384)
        is_for_us = self._tokens is not None
        async with PassThrough(self._settings, self._credentials, is_for_us=is_for_us) as self.handler:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", guard(self.handler, "upstream"), expect_handler=expect_later)
            runner = build_runner(app)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            self._ready.set()
            await self._over.wait()
            await runner.cleanup()


def read_answer(sock: socket.socket, *, is_head: bool = False) -> Answer:
    """Return one whole answer from a connection that says no more than it. Raises EOFError if it is cut."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        received = sock.recv(65_536)
        if not received:
            raise EOFError(raw)
        raw += received
    head_raw, _, body = raw.partition(b"\r\n\r\n")
    head = parse_head(head_raw)
    if is_head or head.status in (204, 304):
        return Answer(head, body)
    chunks = Chunks() if head.all("transfer-encoding") == ["chunked"] else None
    length = head.all("content-length")
    if chunks is not None:
        body = chunks.feed(body)
    while not (chunks.is_over if chunks is not None else length and len(body) >= int(length[0])):
        received = sock.recv(262_144)
        if not received:
            if chunks is None and not length:
                break
            raise EOFError(body)
        body += received if chunks is None else chunks.feed(received)
    return Answer(head, body)


def hop_free(answer: Answer) -> list[tuple[str, str]]:
    """Return an answer's fields without Date, which the shield may have added."""
    return [(name, value) for name, value in answer.head.fields if name != "date"]


def document(answer: Answer) -> dict[str, Any]:
    """Return the problem that an answer tells of."""
    assert re.match("application/problem\\+json", answer.head["Content-Type"])
    found: dict[str, Any] = answer.json
    return found


Start = Callable[..., tuple[Upstream, Shield]]


@contextlib.contextmanager
def stack(loop_name: str) -> Iterator[Start]:
    """Start upstreams and shields before them. Keywords are `Shield`'s and the settings of the relay."""
    with contextlib.ExitStack() as held:

        def start(serve: Serve, *, receive_buffer: int = 0, **more: Any) -> tuple[Upstream, Shield]:
            upstream = Upstream(serve, receive_buffer=receive_buffer)
            held.callback(upstream.close)
            shield = Shield(f"http://127.0.0.1:{upstream.port}", loop_name, **more)
            shield.start()
            held.callback(shield.stop)
            return upstream, shield

        yield start
