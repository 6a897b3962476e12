"""Bounds what one connection may send of a request's head that is not over: aiohttp bounds each of its 128 fields.

Stands between transports and aiohttp's own protocol. aiohttp alone knows where a head ends and a body begins, so it is
asked: how many heads it has read, which of them it has begun to answer, and whether the last one's body is over. If so,
what comes belongs to the next head, be the last request answered or not. A head that is whole is the guard's to judge.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from opencode_events.web.connections import Connections
from opencode_events.web.problems import SECURITY, head_too_large

END = b"\r\n\r\n"
# What a head may have beside what the guard counts: a colon, a space and a line end for each of 128 fields, and what
# its first line has around the target.
PUNCTUATION_BYTES = 128 * 4 + 64
# Seconds for whoever was refused to hear of it: closing at once what it still writes into would take that back.
GOODBYE_S = 1.0


class Heads:
    """Makes the protocols of a server's connections: aiohttp's, each behind one that counts.

    `limit` is what the guard allows a head to have, in bytes.
    """

    def __init__(self, server: web.Server, connections: Connections, limit: int) -> None:
        self.connections = connections
        self.limit = limit
        self.known: dict[web.RequestHandler, BoundedHead] = {}
        self._server = server
        self._make_request = cast(Callable[..., web.BaseRequest], server.request_factory)
        server.request_factory = self._begin

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one connection."""
        return BoundedHead(self._server(), self)

    def _begin(
        self, message: RawRequestMessage, body: StreamReader, protocol: web.RequestHandler, *rest: Any
    ) -> web.BaseRequest:
        """Note that a request is being answered, and make it as ever."""
        if (bounded := self.known.get(protocol)) is not None:
            bounded.begins(body, is_upgrade=message.upgrade)
        return self._make_request(message, body, protocol, *rest)


class BoundedHead(asyncio.Protocol):
    """The protocol of one connection: hands everything on to aiohttp's, but no head without an end."""

    __slots__ = ("_begun", "_body", "_heads", "_inner", "_is_deaf", "_is_upgrade", "_size", "_tail", "_transport")

    def __init__(self, inner: web.RequestHandler, heads: Heads) -> None:
        self._inner = inner
        self._heads = heads
        self._begun = 0
        self._body: StreamReader | None = None
        self._is_upgrade = False
        self._is_deaf = False
        self._size = 0  # of the head that is due, so far
        self._tail = b""

    def begins(self, body: StreamReader, *, is_upgrade: bool) -> None:
        """A request whose head was read is answered from now on."""
        self._begun += 1
        self._body, self._is_upgrade = body, is_upgrade

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._heads.known[self._inner] = self
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand data on, but not what makes a head too large: by that the connection ends, and no more is heard.

        Of a head that begins within a piece that ends another, that piece is not counted.
        """
        if self._is_deaf:
            return
        if not self._is_head_due:
            self._inner.data_received(data)
            return
        # RFC 9112, section 2.2: there may be empty lines before it.
        counted = data if self._size else data.lstrip(b"\r\n")
        self._size += len(counted)
        if self._size > self._heads.limit + PUNCTUATION_BYTES and END not in self._tail + counted:
            self._refuse()
            return
        self._tail = counted[-3:]
        before = self._read
        self._inner.data_received(data)
        if self._read > before:
            self._size, self._tail = 0, b""

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        self._inner.eof_received()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._heads.known.pop(self._inner, None)
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.resume_writing()

    @property
    def _read(self) -> int:
        """How many heads aiohttp has read, whole or bad."""
        count: int = self._inner._request_count  # nothing else tells; a test would notice another name
        return count

    @property
    def _is_head_due(self) -> bool:
        """Whether what comes now belongs to a head: to no body, and to no websocket."""
        if self._read > self._begun or not (self._body is None or self._body.is_eof()):
            return False
        return not (self._is_upgrade and self._heads.connections.is_answering(self._inner))

    def _refuse(self) -> None:
        """Answer, unless another answer is under way, and end the connection."""
        self._is_deaf = True
        connections = self._heads.connections
        if connections.is_answering(self._inner):
            self._transport.abort()
            return
        answer = head_too_large(self._heads.limit)
        body = cast(bytes, answer.body)
        fields = {**answer.headers, **SECURITY, "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in fields.items())]
        connections.note_answer(answer.status)
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        asyncio.get_running_loop().call_later(GOODBYE_S, self._transport.close)
