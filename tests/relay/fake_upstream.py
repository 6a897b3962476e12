"""An opencode server as far as the relay asks one: its stream of all events, its history, its places.

It keeps a history of its own, which outlives it in a `Memory`, and does what a test has it do: lose its connections,
answer with anything, or fall silent.
"""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.clients import DEADLINE_S, dumps
from tests.relay.memory import NUMBERS, Home, Memory
from tests.servers import free_port

T = TypeVar("T")

EVENTS, HISTORY, PATH, HEALTH = "/global/event", "/sync/history", "/path", "/global/health"
STREAM = (
    b"HTTP/1.1 200 OK\r\nCache-Control: no-cache, no-transform\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"


def whole(data: bytes) -> Iterable[bytes]:
    """Cut nothing."""
    return [data]


class FakeUpstream:
    """The server. `moods` has, by path, how it answers instead of well; "" is well.

    Of the stream: a status ("401"), "html", "hang" (no answer), "mute" (a head and nothing more), "ends", "cut" (both
    behind `server.connected`). Of the others: a status, "html", "hang", "cut", "stalls" (both in the middle of an
    answer), "trickles" (it never ends), "garbage". `pieces` cuts what is sent. `before_history` is called when the rows
    of an answer have been gathered, `history_gate` holds the answer up.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory or Memory()
        self.moods: dict[str, str] = {}
        self.starting = 0  # requests that are never answered, as by a server whose port has opened just now
        self.pieces: Callable[[bytes], Iterable[bytes]] = whole
        self.before_history: Callable[[], None] | None = None
        self.history_gate = asyncio.Event()
        self.history_gate.set()
        self.password = ""
        self.own_directory = "/srv/own"
        self.links: dict[str, str] = {}  # directories that lead to others
        self.asked: list[tuple[str, str]] = []  # method and target
        self.known: list[dict[str, int]] = []  # what each question for the history told
        self.most_listeners = 0
        self.port = free_port()
        self._listeners: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def listeners(self) -> int:
        """How many connections have the stream of all events now."""
        return len(self._listeners)

    def count(self, path: str) -> int:
        """Return how many questions there were for a path."""
        return sum(urlsplit(target).path == path for _, target in self.asked)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Come up, at the same port each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 24)

    async def stop(self) -> None:
        """Be killed: all connections break."""
        self.history_gate.set()
        if self._server is not None:
            self._server.close()
        self._break(self._open)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def lose(self) -> None:
        """Break the connections of those who listen."""
        self._break(self._listeners)

    def end(self) -> None:
        """End the stream of those who listen as an answer that is whole."""
        for writer in list(self._listeners):
            writer.write(LAST)
            writer.close()
        self._listeners.clear()

    def _break(self, writers: set[asyncio.StreamWriter]) -> None:
        for writer in list(writers):
            writer.transport.abort()
        writers.clear()

    # --- what happens there

    def open(self, session: str, directory: str = "/srv/a", project: str = "prj_a") -> None:
        """Have a session, which need not tell anybody where it is."""
        self.memory.homes[session] = Home(directory, project)
        self.durable(session, "session.created", **(self._info(session) if self.memory.places_told else {}))

    def move(self, session: str, directory: str, project: str) -> None:
        """Have a session's events come from another directory from now on."""
        home = self.memory.homes[session]
        home.directory, home.project = directory, project
        self.durable(session, "session.updated", **self._info(session))

    def _info(self, session: str) -> dict[str, Any]:
        home = self.memory.homes[session]
        return {"info": {"id": session, "directory": home.directory, "projectID": home.project}}

    def durable(self, session: str = "ses_1", kind: str = "message.updated", **data: Any) -> str:
        """Have the next durable event of a session happen: kept, and sent as both twins. Returns its id."""
        row = self.memory.note(session, kind, data)
        for frame in self.memory.frames(row):
            self.say(frame)
        return str(row["id"])

    def many(self, count: int, session: str = "ses_1") -> None:
        for number in range(count):
            self.durable(session, number=number)

    def transient(self, kind: str = "session.idle", directory: str = "/srv/a", **properties: Any) -> str:
        """Have an event happen that is kept by nobody. Returns its id."""
        identity = f"evt_{next(NUMBERS)}"
        self.say(dumps({"directory": directory, "payload": {"id": identity, "type": kind, "properties": properties}}))
        return identity

    def beat(self) -> None:
        self.say(_own("server.heartbeat"))

    def say(self, data: bytes) -> None:
        """Send one frame."""
        self.write(b"data: %b\n\n" % data)

    def write(self, raw: bytes) -> None:
        """Send octets of a stream, cut as `pieces` says."""
        for writer in list(self._listeners):
            self._write(writer, raw)

    def _write(self, writer: asyncio.StreamWriter, raw: bytes) -> None:
        for piece in self.pieces(raw):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    # --- HTTP

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    method, target, _ = head.split(" ", 2)
                    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
                    body = await reader.readexactly(int(fields.get("Content-Length", 0)))
                    self.asked.append((method, target))
                    await self._answer(reader, writer, urlsplit(target), body, fields.get("Authorization", ""))
        finally:
            self._listeners.discard(writer)
            self._open.discard(writer)
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Any, body: bytes, shown: str
    ) -> None:
        mood = self.moods.get(target.path, "")
        if self.starting:
            self.starting -= 1
            mood = "hang"
        if self.password and shown != f"Basic {base64.b64encode(b'opencode:' + self.password.encode()).decode()}":
            mood = "401"
        if mood == "hang":
            await reader.read()  # until the other side has enough
        elif mood == "html":
            _say_whole(writer, b"<!doctype html>", kind="text/html")
        elif mood.isdigit():
            _say_whole(writer, b"", status=mood)
        elif target.path == EVENTS:
            await self._stream(reader, writer, mood)
        else:
            await self._document(reader, writer, mood, await self._find(target, body))

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mood: str) -> None:
        writer.write(STREAM)
        if mood != "mute":
            self._write(writer, b"data: %b\n\n" % _own("server.connected"))
        if mood == "ends":
            writer.write(LAST)
            return
        if mood == "cut":
            await writer.drain()
            writer.transport.abort()
            return
        self._listeners.add(writer)
        self.most_listeners = max(self.most_listeners, len(self._listeners))
        await reader.read()

    async def _document(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mood: str, found: object
    ) -> None:
        if found is None:
            _say_whole(writer, b'{"name":"NotFoundError"}', status="404")
            return
        raw = b"[" + b",".join([b"{}", b'{"id":7}', dumps(found)[1:]]) if mood == "garbage" else dumps(found)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        if mood == "trickles":
            while not writer.is_closing():
                self._write(writer, raw[:1] + b" " * 10)
                raw = b" "
                await asyncio.sleep(0.005)
        if mood not in ("cut", "stalls"):
            self._write(writer, raw)
            writer.write(LAST)
            return
        self._write(writer, raw[: len(raw) // 2])
        if mood == "stalls":
            await reader.read()
        await writer.drain()
        writer.close()

    async def _find(self, target: Any, body: bytes) -> object:
        if target.path == HEALTH:
            return {"healthy": True, "version": "1.18.33"}
        if target.path == PATH:
            asked = parse_qs(target.query).get("directory", [self.own_directory])[0]
            return {"directory": self.links.get(asked, asked), "worktree": "/"}
        if target.path.startswith("/session/"):
            home = self.memory.homes.get(session := unquote(target.path.removeprefix("/session/")))
            return home and {"id": session, "directory": home.directory, "projectID": home.project}
        known = json.loads(body)
        assert all(last >= 0 for last in known.values()), known
        self.known.append(known)
        rows = [row for row in self.memory.rows if row["seq"] > known.get(row["aggregate_id"], -1)]
        if self.before_history is not None:
            self.before_history()
        await self.history_gate.wait()
        return rows


def _own(kind: str) -> bytes:
    return dumps({"payload": {"id": f"evt_{next(NUMBERS)}", "type": kind, "properties": {}}})


def _say_whole(writer: asyncio.StreamWriter, body: bytes, *, status: str = "200", kind: str = "text/plain") -> None:
    writer.write(b"HTTP/1.1 %b X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (
        status.encode(), kind.encode(), len(body), body
    ))  # fmt: skip


class ThreadedUpstream:
    """The server on a loop of its own in a thread, for tests that block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.fake = self.do(FakeUpstream)
        self.wait(self.fake.start)
        return self

    def __exit__(self, *error: object) -> None:
        self.wait(self.fake.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE_S)
        self._loop.close()

    def do(self, function: Callable[[], T]) -> T:
        """Call something on its loop."""

        async def called() -> T:
            return function()

        return self.wait(called)

    def wait(self, make: Callable[[], Awaitable[T]]) -> T:
        """Await something on its loop."""

        async def waited() -> T:
            return await make()

        return asyncio.run_coroutine_threadsafe(waited(), self._loop).result(DEADLINE_S)
