"""`GET /event` and `GET /global/event`: register, send the head and `server.connected`, hand the connection over."""

import random
from dataclasses import dataclass, replace

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from opencode_events import wire
from opencode_events.broker.announcement import frames
from opencode_events.broker.broker import Broker
from opencode_events.broker.connection import Terms
from opencode_events.broker.lifecycle import Reason
from opencode_events.cursor import parse
from opencode_events.errors import Busy, Forbidden
from opencode_events.events import Stream
from opencode_events.settings import ServerSettings
from opencode_events.tokens import Token
from opencode_events.web.access import granted
from opencode_events.web.connections import peer
from opencode_events.web.cors import Cors
from opencode_events.web.query import Wish, read_wish
from opencode_events.web.shield import Shield
from opencode_events.web.takeover import hand_over
from opencode_events.web.turnstile import Turnstile

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a stream starts: after the position `after`, None for a fresh one at the head.

    `missed` is the reason why the cursor that was asked for could not be served.
    """

    after: int | None = None
    missed: str | None = None


class Subscribe:
    """The handler of one stream."""

    def __init__(
        self,
        stream: Stream,
        broker: Broker,
        settings: ServerSettings,
        cors: Cors,
        turnstile: Turnstile,
        shield: Shield | None = None,
    ) -> None:
        self._stream = stream
        self._broker = broker
        self._settings = settings
        self._cors = cors
        self._turnstile = turnstile
        self._shield = shield

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Serve one subscriber. Returns when the connection is taken over, or over."""
        await self._turnstile.enter()
        token = granted(request)
        wish = await self._read_wish(request, token)
        is_chunked = request.version >= (1, 1)
        terms = Terms(
            peer=peer(request.transport),
            on_overflow=wish.on_overflow,
            end=wish.end,
            is_chunked=is_chunked,
            token=token.name,
        )
        start = self._find(wish.after)
        subscriber = self._broker.subscribe(wish.selection, terms, start.after, has_missed=start.missed is not None)
        try:
            response = StreamHead(wish)
            self._cors.allow(request, response.headers)
            writer = await response.prepare(request)
            assert writer is not None
            if request.transport is None:
                raise ConnectionResetError
            first = self._greeting(wish, start, subscriber.position)
            request.transport.write(wire.chunk(first) if is_chunked else first)
            await hand_over(subscriber, request, writer, may_take=self._settings.takeover)
        except ConnectionError:
            subscriber.lost(Reason.CLIENT_RESET)
        except BaseException:
            subscriber.lost(Reason.CLIENT_LOST)
            raise
        return response

    async def _read_wish(self, request: web.Request, token: Token) -> Wish:
        """Return what is asked for, and what goes without saying: opencode's clients come again after a cut only.

        Raises Forbidden for a directory that is not the token's; of a global stream it gets what is.
        """
        shield, on_overflow = self._shield, self._broker.settings.on_overflow
        if shield is None:
            return _bounded(read_wish(request, self._stream, on_overflow), token)
        if shield.is_locked_out():
            raise Busy(shield.trouble() or "upstream wants a password", retry_after_s=5)
        wish = read_wish(request, self._stream, on_overflow, end="abort", needs_directory=False)
        directory = wish.selection.directory
        if directory:
            wish = _bounded(wish, token)  # asking upstream for it would start an instance there
        if directory is not None:
            found = await shield.find_directory(directory)
            wish = replace(wish, selection=replace(wish.selection, directory=found))
        return _bounded(wish, token)

    def _find(self, asked: str | None) -> Start:
        """Return where a stream starts that was asked to go on after a cursor, or with the earliest event."""
        if asked is None:
            return Start()
        earliest = self._broker.oldest_position - 1
        if asked == "earliest":
            return Start(after=earliest)
        cursor = parse(asked)
        if cursor is None:
            return Start(missed="malformed")
        if not self._broker.is_known(cursor):
            return Start(missed="epoch")
        if cursor.position < earliest:
            return Start(after=None if self._broker.settings.on_expired == "head" else earliest, missed="trimmed")
        return Start(after=cursor.position)

    def _greeting(self, wish: Wish, start: Start, position: int) -> bytes:
        """Return `server.connected`, and behind it what a newcomer has to know of a gap or of its cursor."""
        form, broker = wish.selection.form, self._broker
        cursor = broker.cursor(position)
        is_resumed = start.after is not None and start.missed is None
        if is_resumed and wish.after != "earliest":
            cursor = wish.after or cursor  # the one accepted, to the letter
        connected = wire.control(
            self._stream,
            form,
            wire.CONNECTED,
            {"cursor": cursor, "head": broker.head, "resumed": is_resumed},
            cursor=cursor if start.missed is None else None,
            retry_ms=random.randint(*RETRY_MS),
        )
        if start.after is None and self._stream == "global" and self._shield is not None:
            connected += b"".join(frames(self._shield.announcements(), form, wish.selection.within))
        if start.missed is None:
            return connected
        properties = {
            "requested": wish.after,
            "oldest": broker.cursor(min(broker.oldest_position, broker.head_position)),
            "newest": broker.head,
            "reason": start.missed,
        }
        return connected + wire.control(self._stream, form, wire.EXPIRED, properties)


def _bounded(wish: Wish, token: Token) -> Wish:
    """Return what a token gets of a wish. Raises Forbidden if that is nothing."""
    prefixes, selection = token.prefixes, wish.selection
    if prefixes is None:
        return wish
    if selection.stream == "global":
        return replace(wish, selection=replace(selection, within=prefixes))
    if not prefixes.has(selection.directory):
        raise Forbidden(f"the token {token.name} is not for this directory", field="directory")
    return wish
