"""Bounds what one connection may have aiohttp hold that is no request yet: it bounds each field of a head, 128 times.

Stands between a transport and aiohttp's own protocol, and counts what comes since the last progress: a head that is
over, more of a body, the end of one. So it bounds heads, and the trailers and the extensions of chunks as well,
whatever came before them and whether that was answered or not. A head that is over is the guard's to judge. How far
aiohttp has read it tells nobody: three names of its protocol are asked that are no promise of its own.
"""

import asyncio
from collections import deque
from typing import Any, cast

from aiohttp import StreamReader, web

from opencode_events.web.connections import Connections
from opencode_events.web.problems import SECURITY, head_too_large

# What is asked of `web.RequestHandler`: the requests whose heads were read and that wait for their turn; the future by
# which it waits for one; whether another protocol is spoken, whose data is aiohttp's to bound.
ASKED = ("_messages", "_waiter", "_upgraded")
# What a head may have beside what the guard counts: a colon, a space and a line end for each of 128 fields, and what
# its first line has around the target.
PUNCTUATION_BYTES = 128 * 4 + 64
# What goes on in one piece: of a head that begins in one that ends a body, that piece is not counted.
PIECE_BYTES = 64 * 1024
# Seconds for whoever was refused to hear of it: closing at once what it still writes into would take that back.
GOODBYE_S = 1.0


def can_bound() -> bool:
    """Ask whether this release of aiohttp has what is asked of it."""
    return all(hasattr(web.RequestHandler, name) for name in ASKED)


class Noted(deque[tuple[Any, StreamReader]]):
    """The requests that wait for their turn. Notes each that comes in: some do while nothing is being received."""

    __slots__ = ("last", "seen")

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.last: tuple[Any, StreamReader] | None = None

    def append(self, request: tuple[Any, StreamReader], /) -> None:
        """Take one more: its head, and its body."""
        self.seen += 1
        self.last = request
        super().append(request)


class BoundedHead(asyncio.Protocol):
    """The protocol of one connection: hands everything on to `inner`, but no head without an end.

    `limit` is what the guard allows a head to have, in bytes.
    """

    __slots__ = (
        "_body", "_connections", "_inner", "_is_deaf", "_limit", "_most", "_read", "_size", "_transport", "_was",
    )  # fmt: skip

    def __init__(self, inner: web.RequestHandler, connections: Connections, limit: int) -> None:
        self._inner: Any = inner
        self._inner._messages = self._read = Noted()
        self._connections = connections
        self._limit = limit
        self._most = limit + PUNCTUATION_BYTES
        self._was = 0  # how many heads had been read when that was looked at last
        self._body: StreamReader | None = None  # of the last of them
        self._is_deaf = False
        self._size = 0  # bytes since the last progress

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand data on. Where no progress is made by more than the limit, the connection ends, and no more is heard."""
        self._look()  # aiohttp reads on by itself, too, when it has had to wait
        while data and not self._is_deaf:
            room = self._most + 1 - self._size
            piece, data = data, b""
            if len(piece) > room:
                at = room if self._is_between else PIECE_BYTES
                piece, data = piece[:at], piece[at:]
            if self._goes_on_by(piece):
                self._size = 0
                continue
            self._size += len(piece)
            if self._size > self._most:
                self._refuse()

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        self._inner.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.resume_writing()

    # --- what aiohttp is doing

    @property
    def _is_between(self) -> bool:
        """Whether what comes now belongs to a head."""
        return (self._body is None or self._body.is_eof()) and not self._inner._upgraded

    def _look(self) -> bool:
        """Note the last request whose head was read; tell whether there is another one than before."""
        if self._read.seen == self._was or self._read.last is None:
            return False
        self._was, self._size = self._read.seen, 0
        message, self._body = self._read.last
        if not hasattr(message, "upgrade"):  # it could not be read: that is answered, and the connection's end
            self._is_deaf = True
        return True

    def _goes_on_by(self, piece: bytes) -> bool:
        """Hand a piece on; tell whether aiohttp has come further by it, or takes no more for now."""
        inner, body = self._inner, self._body
        is_open = body is not None and not body.is_eof()
        taken = body.total_bytes if body is not None and is_open else 0
        inner.data_received(piece)
        if self._look():
            return True
        if body is not None and is_open and (body.is_eof() or body.total_bytes > taken):
            return True
        return not self._transport.is_reading() or inner._upgraded or not (self._size or piece.strip(b"\r\n"))

    # --- the end

    def _refuse(self) -> None:
        """Answer, if aiohttp waits for a request and for nothing else, and end the connection."""
        self._is_deaf = True
        waiter = self._inner._waiter
        if self._read.seen and (waiter is None or waiter.done()):
            if not self._connections.are_ending:  # then it takes nothing more, and may still have something to say
                self._transport.abort()
            return
        answer = head_too_large(self._limit)
        body = cast(bytes, answer.body)
        fields = {**answer.headers, **SECURITY, "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in fields.items())]
        self._connections.note_answer(answer.status)
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        asyncio.get_running_loop().call_later(GOODBYE_S, self._transport.close)
