"""`GET /event` and `GET /global/event`: register, send the head and `server.connected`, hand the connection over."""

import random

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from opencode_events import wire
from opencode_events.broker.broker import Broker
from opencode_events.broker.connection import Terms
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import Subscriber
from opencode_events.cursor import parse
from opencode_events.events import Stream
from opencode_events.settings import ServerSettings
from opencode_events.web.cors import Cors
from opencode_events.web.query import Wish, read_wish
from opencode_events.web.takeover import hand_over

# What clients wait before they come again: spread out, so that a restart makes no herd.
RETRY_MS = (1_000, 3_000)


class StreamHead(EventSourceResponse):
    """An `EventSourceResponse` for its head alone: no ping task beyond it, and no send timeout of its own.

    One part decides when a client is stalled; aiohttp-sse's default of 120 s would stay on the socket for ever.
    """

    def __init__(self, wish: Wish) -> None:
        super().__init__(send_timeout=None)
        self.headers["Content-Type"] = wire.CONTENT_TYPES[wish.selection.form]
        self.headers["Cache-Control"] = "no-cache, no-transform"
        self.headers["X-Content-Type-Options"] = "nosniff"
        if wish.end == "clean":
            self.headers["Connection"] = "close"
        else:
            # Beside `Connection: close`, fetch takes a cut for a clean end, and opencode's client does not come again.
            del self.headers["Connection"]

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head."""
        writer = await super().prepare(request)
        self.stop_streaming()
        return writer


class Subscribe:
    """The handler of one stream."""

    def __init__(self, stream: Stream, broker: Broker, settings: ServerSettings, cors: Cors) -> None:
        self._stream = stream
        self._broker = broker
        self._settings = settings
        self._cors = cors

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Serve one subscriber. Returns when the connection is taken over, or over."""
        wish = read_wish(request, self._stream)
        is_chunked = request.version >= (1, 1)
        terms = Terms(peer=_peer(request), end=wish.end, is_chunked=is_chunked)
        subscriber = self._broker.subscribe(wish.selection, terms)
        try:
            response = StreamHead(wish)
            self._cors.allow(request, response.headers)
            writer = await response.prepare(request)
            assert writer is not None
            if request.transport is None:
                raise ConnectionResetError
            first = self._greeting(wish, subscriber)
            request.transport.write(wire.chunk(first) if is_chunked else first)
            await hand_over(subscriber, request, writer, may_take=self._settings.takeover)
        except ConnectionError:
            subscriber.lost(Reason.CLIENT_RESET)
        except BaseException:
            subscriber.lost(Reason.CLIENT_LOST)
            raise
        return response

    def _greeting(self, wish: Wish, subscriber: Subscriber) -> bytes:
        """Return `server.connected`, and `server.stream.expired` behind it where a cursor cannot be served."""
        form, position = wish.selection.form, subscriber.position
        head = self._broker.cursor(position)
        missed = None if wish.after is None else self._missed(wish.after, position)
        connected = wire.control(
            self._stream,
            form,
            wire.CONNECTED,
            {"cursor": head, "head": head, "resumed": missed == "nothing"},
            cursor=head if missed in (None, "nothing") else None,
            retry_ms=random.randint(*RETRY_MS),
        )
        if missed in (None, "nothing"):
            return connected
        properties = {"requested": wish.after, "oldest": head, "newest": head, "reason": missed}
        return connected + wire.control(self._stream, form, wire.EXPIRED, properties)

    def _missed(self, after: str, position: int) -> str:
        """Return what a client that resumes after `after` has missed: "nothing", or the reason why it is not told.

        This version serves no history, so whatever lies between the cursor and the head is trimmed.
        """
        cursor = parse(after)
        if cursor is None:
            return "malformed"
        if not self._broker.is_known(cursor):
            return "epoch"
        return "nothing" if cursor.position == position else "trimmed"


def _peer(request: web.BaseRequest) -> str:
    """Return `host:port` of the other side."""
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not name:
        return "unknown"
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
