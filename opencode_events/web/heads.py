"""Bounds what one connection may send of a request's head that is not over: aiohttp bounds each of its 128 fields.

Stands between a transport and aiohttp's own protocol, and counts while a head is due. A head that is whole is the
guard's to judge. What a client sends of its next request before it has the answer to the last is not counted.
"""

import asyncio
from typing import cast

from aiohttp import web

from opencode_events.web.connections import Connections
from opencode_events.web.problems import SECURITY, head_too_large

END = b"\r\n\r\n"
# What a head may have beside what the guard counts: a colon, a space and a line end for each of 128 fields, and what
# its first line has around the target.
PUNCTUATION_BYTES = 128 * 4 + 64


class HeadMeter:
    """Counts the bytes of one head until it is over: RFC 9112, section 2.1."""

    __slots__ = ("_limit", "_size", "_tail", "is_over")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.begin()

    def begin(self) -> None:
        """A head begins with what comes next."""
        self.is_over = False
        self._size = 0
        self._tail = b""

    def takes(self, data: bytes) -> bool:
        """Count the next piece; False if the head has more than its limit by now, and is still not over."""
        if not self._size:
            data = data.lstrip(b"\r\n")  # empty lines before a request are skipped: section 2.2
        if END in data or END in self._tail + data[:3]:
            self.is_over = True
            return True
        self._size += len(data)
        self._tail = (self._tail + data[-3:])[-3:]
        return self._size <= self._limit


class BoundedHead(asyncio.Protocol):
    """The protocol of one connection: hands everything on to `inner`, but no head without an end."""

    __slots__ = ("_answered", "_connections", "_inner", "_is_deaf", "_max_head_bytes", "_meter", "_transport")

    def __init__(self, inner: web.RequestHandler, connections: Connections, max_head_bytes: int) -> None:
        self._inner = inner
        self._connections = connections
        self._max_head_bytes = max_head_bytes
        self._meter = HeadMeter(max_head_bytes + PUNCTUATION_BYTES)
        self._answered = 0
        self._is_deaf = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand data on. By what makes a head too large the connection ends: it is answered, and no more is heard."""
        if self._is_deaf:
            return
        if self._meter.is_over:
            answered = self._connections.between(self._inner)
            if answered > self._answered:
                self._answered = answered
                self._meter.begin()
        if self._meter.is_over or self._meter.takes(data):
            self._inner.data_received(data)
        else:
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

    def _refuse(self) -> None:
        self._is_deaf = True
        answer = head_too_large(self._max_head_bytes)
        body = cast(bytes, answer.body)
        fields = {**answer.headers, **SECURITY, "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in fields.items())]
        self._connections.note_answer(answer.status)
        self._transport.write("\r\n".join(lines).encode() + END + body)
        self._transport.close()
