"""Bounds what one connection may have aiohttp hold that is no request yet: it bounds each field of a head, 128 times.

Stands between a transport and aiohttp's own protocol, and counts what comes since the last progress: a head that is
over, more of a body, the end of one. So it bounds heads, and the trailers and the extensions of chunks as well,
whatever came before them and whether that was answered or not. A head that is over is the guard's to judge. What
follows a request for another protocol is aiohttp's to bound until that is answered: it takes 64 KiB, and stops reading.
"""

import asyncio
from typing import Any, cast

from aiohttp import StreamReader, web

from opencode_events.web.connections import Connections
from opencode_events.web.problems import SECURITY, head_too_large

# What a head may have beside what the guard counts: a colon, a space and a line end for each of 128 fields, and what
# its first line has around the target.
PUNCTUATION_BYTES = 128 * 4 + 64
# What goes on in one piece: of a head that begins in one that ends a body, that piece is not counted.
PIECE_BYTES = 64 * 1024
# Seconds for whoever was refused to hear of it: closing at once what it still writes into would take that back.
GOODBYE_S = 1.0


class BoundedHead(asyncio.Protocol):
    """The protocol of one connection: hands everything on to `inner`, but no head without an end.

    `limit` is what the guard allows a head to have, in bytes.
    """

    __slots__ = ("_body", "_connections", "_inner", "_is_deaf", "_is_upgrade", "_limit", "_most", "_size", "_transport")

    def __init__(self, inner: web.RequestHandler, connections: Connections, limit: int) -> None:
        # As anything: how far it has read it tells nobody. A test would notice if it had other names for that.
        self._inner: Any = inner
        self._connections = connections
        self._limit = limit
        self._most = limit + PUNCTUATION_BYTES
        self._body: StreamReader | None = None  # of the last request whose head was read
        self._is_upgrade = False  # that request is one for another protocol
        self._is_deaf = False
        self._size = 0  # bytes since the last progress

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Hand data on. Where no progress is made by more than the limit, the connection ends, and no more is heard."""
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
        return self._body is None or (self._body.is_eof() and not self._is_elsewhere)

    @property
    def _is_elsewhere(self) -> bool:
        """Whether another protocol is spoken by now, or was asked for and that is not answered yet."""
        return self._is_upgrade and bool(self._inner._messages or self._connections.is_answering(self._inner))

    def _goes_on_by(self, piece: bytes) -> bool:
        """Hand a piece on; tell whether aiohttp has come further by it, or takes no more for now."""
        inner, body = self._inner, self._body
        read, is_open = inner._request_count, body is not None and not body.is_eof()
        taken = body.total_bytes if body is not None and is_open else 0
        inner.data_received(piece)
        if inner._request_count > read:
            if inner._messages:
                message, self._body = inner._messages[-1]
                self._is_upgrade = getattr(message, "upgrade", False)  # one that could not be read has no such word
            return True
        if body is not None and is_open and (body.is_eof() or body.total_bytes > taken):
            return True
        return not self._transport.is_reading() or self._is_elsewhere or not (self._size or piece.strip(b"\r\n"))

    # --- the end

    def _refuse(self) -> None:
        """Answer, if aiohttp waits for a request and for nothing else, and end the connection."""
        self._is_deaf = True
        waiter = self._inner._waiter
        if self._inner._request_count and (waiter is None or waiter.done()):
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
