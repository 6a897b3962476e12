"""Clients made of bare sockets: what arrives is judged byte by byte, and a connection can die in any way TCP knows.

A `Client` knows one server's address and closes all that it opened. A `Stream` is one subscriber: it reads the head,
undoes the chunks and cuts frames, strictly, so that a byte out of place fails the test that reads it.
"""

import http.client
import json
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

# Nothing here takes a tenth of this; a machine that does is not waited for any longer.
DEADLINE_S = 20.0
PAUSE_S = 0.005

# SO_LINGER with a timeout of nothing: closing sends RST.
LINGER_NONE = struct.pack("ii", 1, 0)
NDJSON = "application/x-ndjson"
JSON = "application/json"

# How a stream ended: with the last chunk; by FIN without it; by RST.
End = Literal["clean", "cut", "reset"]


def until(condition: Callable[[], T | None], *, timeout_s: float = DEADLINE_S) -> T:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s:g} s; the last answer was {answer!r}")
        time.sleep(PAUSE_S)
    return answer


def dumps(value: object) -> bytes:
    """Return a value as opencode writes it: on one line, without spaces, not escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def payload(number: int | str, kind: str = "test.tick", **properties: object) -> dict[str, object]:
    """Return an instance event; its id is made of `number`."""
    return {"id": f"evt_{number}", "type": kind, "properties": properties}


def envelope(number: int | str, directory: str | None = "/d", **more: object) -> dict[str, object]:
    """Return a global event. What is in `more` goes to `payload`."""
    inner = payload(number, **more)  # type: ignore[arg-type]  # `kind`, if it is there, is text
    return {"payload": inner} if directory is None else {"directory": directory, "payload": inner}


def twin(number: int | str, kind: str = "test.tick.1", directory: str = "/d", session: str = "ses_1") -> dict[str, Any]:
    """Return the `sync` twin of the event with that number."""
    inner = {"id": f"evt_{number}", "type": kind, "seq": 0, "aggregateID": session, "data": {}}
    return {"directory": directory, "payload": {"type": "sync", "syncEvent": inner, "id": f"evt_{number}"}}


def lines(values: Iterable[object]) -> bytes:
    """Return values as NDJSON."""
    return b"".join(dumps(value) + b"\n" for value in values)


def disposal(number: int | str, directory: str = "/d") -> dict[str, object]:
    """Return the event that ends an instance."""
    properties = {"directory": directory}
    inner = {"id": f"evt_{number}", "type": "server.instance.disposed", "properties": properties}
    return {"directory": directory, "payload": inner}


@dataclass(frozen=True)
class Head:
    """A response head. `fields` are as they came, but that names are in lower case."""

    version: str
    status: int
    fields: tuple[tuple[str, str], ...]

    def __getitem__(self, name: str) -> str:
        """Return the value of the one field of that name."""
        (value,) = self.all(name)
        return value

    def all(self, name: str) -> list[str]:
        """Return the values of the fields of that name."""
        return [value for known, value in self.fields if known == name.lower()]

    def without(self, *names: str) -> dict[str, str]:
        """Return the other fields, none of which may be there twice."""
        found = [(name, value) for name, value in self.fields if name not in names]
        assert len(dict(found)) == len(found)
        return dict(found)


def parse_head(raw: bytes) -> Head:
    """Return what stands before the empty line."""
    first, *rest = raw.decode("latin-1").split("\r\n")
    version, status, _ = first.split(" ", 2)
    fields = (line.split(": ", 1) for line in rest)
    return Head(version, int(status), tuple((name.lower(), value) for name, value in fields))


@dataclass(frozen=True)
class Answer:
    """A whole response."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Frame:
    """One block of a text/event-stream, or one line of NDJSON, which has its cursor as `id`."""

    data: bytes
    id: str | None = None
    retry: int | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def payload(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json
        inner: dict[str, Any] = found.get("payload", found)
        return inner

    @property
    def type(self) -> str:
        return str(self.payload["type"])

    @property
    def event(self) -> str:
        """The id of the event, which is not the place in the stream."""
        return str(self.payload["id"])

    @property
    def properties(self) -> dict[str, Any]:
        return dict(self.payload["properties"])

    @property
    def is_control(self) -> bool:
        return re.match(r"server\.(connected|heartbeat|stream\.)", self.type) is not None


BLOCK = re.compile(rb"(?:retry: (?P<retry>[0-9]+)\n)?(?:id: (?P<id>[!-~]+)\n)?data: (?P<data>[^\r\n]+)")


def parse_block(raw: bytes) -> Frame:
    """Return one block, whose fields must stand in the order in which we write them."""
    found = BLOCK.fullmatch(raw)
    assert found is not None, raw[:200]
    cursor: bytes | None = found["id"]
    retry: bytes | None = found["retry"]
    return Frame(found["data"], None if cursor is None else cursor.decode(), None if retry is None else int(retry))


def parse_line(raw: bytes) -> Frame:
    """Return one line of NDJSON."""
    members = json.loads(raw, object_pairs_hook=list)
    key, value = members[-1]
    return Frame(raw, value if key == "cursor" else None)


class Chunks:
    """Undoes RFC 9112, section 7.1. `is_over` after the last chunk, behind which nothing may come."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._need = -1  # bytes of the chunk that is coming in, its line end included
        self.is_over = False

    def feed(self, data: bytes) -> bytes:
        """Return what `data` adds to the body."""
        assert not (self.is_over and data), data[:200]
        self._raw += data
        body = []
        while not self.is_over:
            if self._need < 0:
                size, mark, _ = self._raw.partition(b"\r\n")
                if not mark:
                    assert len(size) < 20, size[:200]
                    break
                assert re.fullmatch(rb"[0-9a-f]+", size), size[:200]
                del self._raw[: len(size) + 2]
                self._need = int(size, 16) + 2
            if len(self._raw) < self._need:
                break
            body.append(bytes(self._raw[: self._need - 2]))
            assert self._raw[self._need - 2 : self._need] == b"\r\n"
            del self._raw[: self._need]
            self.is_over, self._need = self._need == 2, -1
        assert not (self.is_over and self._raw), bytes(self._raw[:200])
        return b"".join(body)


class Ended(AssertionError):
    """The stream is over, and another frame was asked for. `end` tells how."""

    def __init__(self, end: End) -> None:
        super().__init__(f"the stream has ended: {end}")
        self.end = end


class Stream:
    """One connection that a GET was sent on. Nothing is read before it is asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head: Head | None = None
        self.connected: Frame | None = None
        self.ended: End | None = None
        self._raw = b""
        self._chunks: Chunks | None = None
        self._separator = b"\n\n"
        self._parse = parse_block
        self._body = bytearray()
        self._scanned = 0

    # --- reading

    def read_head(self) -> Head:
        """Return the response head, which is read once."""
        while self.head is None:
            received = self.sock.recv(65_536)
            assert received, f"no head, only {self._raw!r}"
            self._take(received)
        return self.head

    def frame(self) -> Frame:
        """Return the next frame. Raises Ended."""
        self.read_head()
        while (found := self._next()) is None:
            if self.ended is not None:
                raise Ended(self.ended)
            self._receive()
        return found

    def poll(self, size: int = 262_144) -> list[Frame]:
        """Take at most `size` bytes of what is there, without waiting; return the frames that are whole now.

        `ended` tells that no more will come: for a stream without a head that it was never answered.
        """
        self.sock.settimeout(0)
        try:
            self._receive(size)
        finally:
            self.sock.settimeout(DEADLINE_S)
        found = []
        while self.head is not None and (frame := self._next()) is not None:
            found.append(frame)
        return found

    def frames(self, count: int) -> list[Frame]:
        """Return the next `count` frames."""
        return [self.frame() for _ in range(count)]

    def events(self, count: int) -> list[Frame]:
        """Return the next `count` frames that are events; control frames between them are passed over."""
        found: list[Frame] = []
        while len(found) < count:
            frame = self.frame()
            if not frame.is_control:
                found.append(frame)
        return found

    def until(self, kind: str) -> list[Frame]:
        """Return the frames up to and with the next one of type `kind`."""
        found = [self.frame()]
        while found[-1].type != kind:
            found.append(self.frame())
        return found

    def rest(self) -> list[Frame]:
        """Return all frames to the end; `ended` tells then how that was."""
        found = []
        try:
            while True:
                found.append(self.frame())
        except Ended:
            assert self.ended == "reset" or not self._body, bytes(self._body[:200])
            return found

    def read_some(self, size: int) -> bytes:
        """Take bytes off the connection, past all parsing: afterwards nothing else can be read."""
        return self.sock.recv(size)

    def drain(self) -> End:
        """Read to the end without looking at what comes; return how that was."""
        try:
            while self.read_some(262_144):
                pass
        except ConnectionResetError:
            return "reset"
        return "cut"

    def _receive(self, size: int = 262_144) -> None:
        try:
            received = self.sock.recv(size)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.ended = "reset"
            return
        if not received:
            self.ended = "clean" if self._chunks is not None and self._chunks.is_over else "cut"
        self._take(received)

    def _take(self, received: bytes) -> None:
        if self.head is None:
            raw, end, received = (self._raw + received).partition(b"\r\n\r\n")
            if not end:
                self._raw = raw
                return
            self._take_head(parse_head(raw))
        self._body += received if self._chunks is None else self._chunks.feed(received)

    def _take_head(self, head: Head) -> None:
        self.head = head
        if head.all("Transfer-Encoding") == ["chunked"]:
            self._chunks = Chunks()
        if head["Content-Type"] == NDJSON:
            self._separator, self._parse = b"\n", parse_line

    def _next(self) -> Frame | None:
        """Return the next frame of what was received, None when it is not whole yet."""
        at = self._body.find(self._separator, self._scanned)
        if at < 0:
            self._scanned = max(0, len(self._body) - 1)
            return None
        raw = bytes(self._body[:at])
        del self._body[: at + len(self._separator)]
        self._scanned = 0
        return self._parse(raw)

    # --- dying

    def say_goodbye(self) -> None:
        """Send FIN, and keep what comes in: half a close."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.sock.close()

    def close(self) -> None:
        """Close as a program that ends: FIN, or RST where something was not read."""
        self.sock.close()


class Client:
    """Whoever talks to the server at `url`. Closes what it opened in `close`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port = parts.hostname, parts.port
        self._opened: list[socket.socket] = []

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()

    # --- subscribing

    def connect(self, *, receive_buffer: int = 0) -> socket.socket:
        """Return a connection. `receive_buffer` is its SO_RCVBUF in bytes, 0 the system's own choice."""
        sock = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        self._opened.append(sock)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE_S)
        sock.connect((self.host, self.port))
        return sock

    def request(self, target: str, *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
        """Return a request head."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = [f"{method} {target} HTTP/{version}", f"Host: {host}:{self.port}", *fields]
        return "\r\n".join([*head, "", ""]).encode("latin-1")

    def ask(self, target: str, *fields: str, version: str = "1.1", receive_buffer: int = 0) -> Stream:
        """Send a GET and read nothing."""
        sock = self.connect(receive_buffer=receive_buffer)
        sock.sendall(self.request(target, *fields, version=version))
        return Stream(sock)

    def subscribe(
        self, target: str = "/global/event", *fields: str, version: str = "1.1", receive_buffer: int = 0
    ) -> Stream:
        """Subscribe, and read up to `server.connected`, which the stream keeps."""
        stream = self.ask(target, *fields, version=version, receive_buffer=receive_buffer)
        head = stream.read_head()
        assert head.status == 200, stream.read_some(65_536)
        stream.connected = stream.frame()
        assert stream.connected.type == "server.connected"
        return stream

    def stall(self, target: str = "/global/event", *fields: str) -> Stream:
        """Subscribe with the smallest receive buffer there is, and read nothing. Returns when the server knows."""
        before = {each["id"] for each in self.subscribers()}
        stream = self.ask(target, *fields, receive_buffer=1)
        until(lambda: {each["id"] for each in self.subscribers()} - before)
        return stream

    # --- asking

    def send(self, method: str, target: str, body: bytes | Iterable[bytes] | None = None, **fields: str) -> Answer:
        """Send a request and return the whole answer. Underscores in names of `fields` are dashes."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=DEADLINE_S)
        try:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, target, body, headers, encode_chunked=not isinstance(body, bytes | None))
            response = connection.getresponse()
            found = tuple((name.lower(), value) for name, value in response.getheaders())
            return Answer(Head(f"HTTP/{response.version / 10}", response.status, found), response.read())
        finally:
            connection.close()

    def get(self, target: str) -> Answer:
        return self.send("GET", target)

    def post(self, target: str, body: bytes, content_type: str = JSON, **fields: str) -> Answer:
        """Publish a body."""
        return self.send("POST", target, body, Content_Type=content_type, **fields)

    def publish(self, *events: object) -> dict[str, Any]:
        """Publish envelopes, as NDJSON, and return the receipt."""
        answer = self.post("/global/event", lines(events), NDJSON)
        assert answer.status == 200, answer.body
        receipt: dict[str, Any] = answer.json
        return receipt

    def subscribers(self) -> list[dict[str, Any]]:
        """Return the handles that the server has."""
        found: list[dict[str, Any]] = self.get("/-/subscribers").json["subscribers"]
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/-/status").json
        return found
