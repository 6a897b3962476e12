"""Every connection that aiohttp serves, as the watchdog sees it: whether it answers a request, or waits for one.

A reference to each transport is kept here: aiohttp forgets its own when a handler ends, while the connection may still
hold a client's unread answer. A connection that became a stream is the stream's.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from aiohttp import web

from opencode_events.broker.watched import Outlook
from opencode_events.errors import ENDING, Busy
from opencode_events.sockets import reset_on_close


def peer(transport: asyncio.BaseTransport | None) -> str:
    """Return `host:port` of the other side."""
    name = transport.get_extra_info("peername") if transport is not None else None
    if not name:
        return "unknown"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def buffered(transport: asyncio.Transport) -> int:
    """Return how many bytes a transport holds; 0 for one that is over."""
    try:
        return transport.get_write_buffer_size()
    except AttributeError:  # asyncio's TLS, between its end and the word of it
        return 0


class HttpConnection:
    """One connection. `active` counts requests that are being answered, `answered` those that were.

    `token` is the name of the token that let the last one in, if one did; `reader` is the task that waits for more of a
    body.
    """

    __slots__ = (
        "_peer", "_transport", "active", "answered", "is_interrupted", "is_stream", "reader", "socket", "token",
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._peer = peer(transport)
        self.socket: socket.socket = transport.get_extra_info("socket")
        self.active = 0
        self.answered = 0
        self.is_interrupted = False
        self.reader: asyncio.Task[object] | None = None
        self.is_stream = False
        self.token = ""

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor yet."""
        try:
            return self.socket.fileno() >= 0
        except (OSError, ValueError):
            return False

    @property
    def is_quiet(self) -> bool:
        """See `Watched.is_quiet`: what the peer has sent matters, so it never is."""
        return False

    def outlook(self) -> Outlook:
        """See `Watched.outlook`."""
        return Outlook(
            buffered=buffered(self._transport),
            is_closing=self._transport.is_closing(),
            is_answering=self.active > 0,
            answered=self.answered,
        )

    def evict(self, reason: str) -> None:
        """See `Watched.evict`."""
        reset_on_close(self.socket)
        self._transport.abort()

    def finish(self) -> None:
        """See `Watched.finish`."""
        self._transport.abort()

    def name(self) -> dict[str, object]:
        """See `Watched.name`."""
        return {"peer": self._peer}


# Where a request has its connection. Newer releases of aiohttp warn of a plain name, older ones know nothing else.
KEY: Any = web.RequestKey("connection", HttpConnection) if hasattr(web, "RequestKey") else "connection"


async def read_piece(request: web.BaseRequest) -> bytes:
    """Return what has come of a body, nothing at its end. Raises Busy when the daemon ends before there is more."""
    content = request.content
    if (piece := content.read_nowait()) or content.at_eof():
        return piece
    connection: HttpConnection | None = request.get(KEY)
    task = asyncio.current_task()
    if connection is None or task is None:
        return await content.readany()
    if connection.is_interrupted:
        raise Busy(ENDING, retry_after_s=1)
    connection.reader = task
    try:
        return await content.readany()
    except asyncio.CancelledError:
        if not connection.is_interrupted:
            raise
        task.uncancel()
        raise Busy(ENDING, retry_after_s=1) from None
    finally:
        connection.reader = None


class Connections:
    """All of them. `server` is aiohttp's, None before it serves. `are_ending`: no answer is followed by another."""

    def __init__(self) -> None:
        self.server: web.Server | None = None
        self.are_ending = False
        self._refusals: Counter[int] = Counter()
        self._known: dict[web.RequestHandler, HttpConnection] = {}

    def __len__(self) -> int:
        return len(self._known)

    def began(self, request: web.BaseRequest) -> HttpConnection | None:
        """A request is being answered from now on. None if its connection is over."""
        connection = self._find(request.protocol)
        if connection is not None:
            connection.active += 1
            request[KEY] = connection
        return connection

    def note_answer(self, status: int) -> None:
        """A request has its answer, which is our own."""
        if status >= HTTPStatus.BAD_REQUEST:
            self._refusals[status] += 1

    def watched(self) -> Iterator[HttpConnection]:
        """Yield those that are open and are no streams."""
        if self.server is not None:
            for protocol in self.server.connections:
                self._find(protocol)
        for protocol, connection in list(self._known.items()):
            if not connection.is_open:
                del self._known[protocol]
            elif not connection.is_stream:
                yield connection

    def revoke(self, tokens: frozenset[str]) -> None:
        """Cut those off who are being answered and were let in by one of `tokens`: a websocket may last for days."""
        for connection in list(self.watched()):
            if connection.active and connection.token in tokens:
                connection.evict("revoked")

    def interrupt(self) -> None:
        """Have whoever waits for more of a body wait no longer, so that its client gets an answer: see `read_piece`."""
        for connection in self.watched():
            connection.is_interrupted = True
            if connection.reader is not None:
                connection.reader.cancel()

    def statistics(self) -> dict[str, object]:
        """Return how many there are that are no streams, and how many requests were refused, by status."""
        return {"connections": len(self._known), "refusals": {str(status): n for status, n in self._refusals.items()}}

    def _find(self, protocol: web.RequestHandler) -> HttpConnection | None:
        known = self._known.get(protocol)
        if known is None and protocol.transport is not None:
            if protocol.transport.get_extra_info("socket") is None:
                return None  # uvloop's TLS has none for one that is closed
            known = self._known[protocol] = HttpConnection(protocol.transport)
        return known
