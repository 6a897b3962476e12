"""How a subscriber's handle gets its connection from aiohttp once the response head is out.

Plain TCP: the descriptor is duplicated, a transport of our own is opened on the duplicate, and aiohttp's is aborted,
which for aiohttp is "the client went away". No task, parser or request stays behind, and pause, resume and loss
are callbacks. Where that gains nothing (TLS) or cannot be done (no descriptor left, by setting), the plain path keeps
aiohttp's handler waiting and writes to aiohttp's transport.
"""

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.subscriber import Subscriber
from opencode_events.broker.watched import Outlook
from opencode_events.sockets import close_politely, reset_on_close, unacknowledged
from opencode_events.web.connections import KEY, buffered

HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024
# What a client may send after its request, such as another one that it pipelined.
HEARD_BYTES = 64 * 1024
# Seconds between two looks at a stalled connection on the plain path: its end is told to aiohttp, which waits for it
# to drain.
LOOK_S = 0.1


async def hand_over(
    subscriber: Subscriber, request: web.BaseRequest, head: AbstractStreamWriter, *, may_take: bool
) -> None:
    """Attach `subscriber` to the connection of `request`, whose head and first frame are written.

    Returns at once when the connection could be taken over; else when the subscriber is over. The caller then
    returns its response. If the caller is cancelled, the subscriber is lost.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        subscriber.lost(Reason.CLIENT_CLOSED)
        return
    if may_take and transport.get_extra_info("sslcontext") is None and not transport.get_write_buffer_size():
        try:
            descriptor = os.dup(transport.get_extra_info("socket").fileno())
        except OSError:
            pass  # no descriptor left: this one is served the plain way
        else:
            await _take(subscriber, transport, descriptor)
            return
    if (http := request.get(KEY)) is not None:
        http.is_stream = True
    try:
        await _Plain(subscriber, request.protocol, transport, head).serve()
    finally:
        if http is not None:
            http.is_stream = False  # what is left of it, if anything is, is watched again


async def _take(subscriber: Subscriber, transport: asyncio.Transport, descriptor: int) -> None:
    """Open a transport of our own on the descriptor; aiohttp's goes, whatever happens."""
    transport.pause_reading()
    own = socket.socket(fileno=descriptor)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: TakenOver(subscriber, own), own)
    except BaseException:
        own.close()
        subscriber.lost(Reason.CLIENT_LOST)
        raise
    finally:
        transport.abort()


class _Stream:
    """What both kinds of connection have in common: a subscriber, a transport, and what the watchdog asks.

    `socket` is the transport's own. Asked through the transport, uvloop would make one for each question.
    """

    __slots__ = ("_transport", "buffered", "socket", "subscriber")

    subscriber: Subscriber
    socket: socket.socket
    buffered: Callable[[], int]
    _transport: asyncio.Transport

    def reset(self) -> None:
        """See `Connection.reset`. A plain abort would leave what the kernel holds in an orphan for minutes."""
        reset_on_close(self.socket)
        self._transport.abort()

    @property
    def is_quiet(self) -> bool:
        """See `Watched.is_quiet`: its handle writes past an empty backlog, and has not been told to stop."""
        return self.subscriber.direct is not None

    def outlook(self) -> Outlook:
        """See `Watched.outlook`."""
        subscriber = self.subscriber
        return Outlook(
            buffered=self.buffered(),
            queued=subscriber.queued_bytes,
            written=subscriber.sent_bytes,
            is_closing=self._transport.is_closing(),
            is_ending=subscriber.state is State.CLOSING,
        )

    def evict(self, reason: str) -> None:
        """See `Watched.evict`."""
        self.subscriber.reset(Reason(reason))

    def finish(self) -> None:
        """See `Watched.finish`."""
        self._transport.abort()

    def name(self) -> dict[str, object]:
        """See `Watched.name`."""
        return {"subscriber": self.subscriber.id, "peer": self.subscriber.terms.peer}


class TakenOver(_Stream, asyncio.Protocol):
    """A connection of our own, as the handle's `Connection`: tells the handle what becomes of its transport."""

    __slots__ = ("_heard", "write")

    write: Callable[[bytes | memoryview], None]

    def __init__(self, subscriber: Subscriber, own: socket.socket) -> None:
        self.subscriber = subscriber
        self.socket = own
        self._heard = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there: let the handle have it."""
        self._transport = taken = cast(asyncio.Transport, transport)  # uvloop's is none by name
        taken.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self.write = taken.write
        self.buffered = taken.get_write_buffer_size
        self.subscriber.attach(self)

    def data_received(self, data: bytes) -> None:
        """Swallow what a subscriber says after its request; one that does not stop is not a subscriber."""
        self._heard += len(data)
        if self._heard > HEARD_BYTES:
            self.reset()

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self.subscriber.pause()

    def resume_writing(self) -> None:
        """The transport has room again."""
        self.subscriber.resume()

    def eof_received(self) -> None:
        """The client has said goodbye. If it has not read what was sent before, it will not: end it there and then.

        Closing instead would wait in CLOSE_WAIT for a buffer to drain that nobody reads, or leave what the kernel holds
        in an orphan.
        """
        if self.buffered() or unacknowledged(self.socket):
            self.reset()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is over."""
        self.subscriber.lost(_reason(error))

    def close(self) -> None:
        """See `Connection.close`. Only our half is closed; the rest follows when the client has all of it, or says so.

        Closing the whole would leave what the kernel holds in an orphan, which no deadline of ours reaches.
        """
        with contextlib.suppress(OSError):  # reset meanwhile, and the loop has not been told yet
            self._transport.write_eof()


class _Plain(_Stream):
    """A connection that stays aiohttp's, as the handle's `Connection`, served by the handler's own task."""

    __slots__ = ("_is_ended", "_next_look", "_protocol", "_stalled", "_writer")

    def __init__(
        self,
        subscriber: Subscriber,
        protocol: web.RequestHandler,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
    ) -> None:
        self.subscriber = subscriber
        self.socket = transport.get_extra_info("socket")
        self.buffered = functools.partial(buffered, transport)
        self._transport = transport
        self._protocol = protocol
        self._writer = writer
        self._stalled = asyncio.Event()
        self._is_ended = False  # by us
        self._next_look: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Attach, and wait until the connection is lost, which cancels the caller.

        One that we have closed is not lost before all is read: until then the handle stays, with its deadline. A drain
        is only ever left by the connection's end: aiohttp shares its future between all who drain.
        """
        # aiohttp closes the transport when the client says goodbye; what the kernel holds then must go with it.
        reset_on_close(self.socket)
        self.subscriber.attach(self)
        try:
            while True:
                await self._stalled.wait()
                self._stalled.clear()
                await self._writer.drain()
                self.subscriber.resume()
        except ConnectionError as error:
            self.subscriber.lost(_reason(error))
        finally:
            if self._next_look is not None:
                self._next_look.cancel()
            self.subscriber.lost(Reason.CLIENT_CLOSED)

    def write(self, data: bytes | memoryview) -> None:
        """See `Connection.write`."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._protocol.writing_paused:
            self.subscriber.pause()
            self._stalled.set()
            if self._next_look is None:
                self._look()

    def _look(self) -> None:
        """Come back as long as there is something to look for.

        A stalled connection whose client has said goodbye is ended; one that we end is closed when all is taken.
        """
        self._next_look = None
        if self._is_ended:
            if not self.buffered() and not unacknowledged(self.socket):
                close_politely(self.socket)
                self._transport.close()
                return
        elif self._transport.is_closing():
            self.reset()
            return
        elif not self._protocol.writing_paused:
            return
        self._next_look = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def close(self) -> None:
        """See `Connection.close`. Not before the client has all of it: then no deadline of ours would reach it."""
        self._is_ended = True
        if self._next_look is not None:
            self._next_look.cancel()
        self._look()

    def reset(self) -> None:
        """See `Connection.reset`."""
        self._is_ended = True
        if self._next_look is not None:
            self._next_look.cancel()  # there is nothing to look at: TLS on asyncio would say so with an AttributeError
        super().reset()


def _reason(error: Exception | None) -> Reason:
    """Return what the end of a connection means."""
    if error is None:
        return Reason.CLIENT_CLOSED
    return Reason.CLIENT_RESET if isinstance(error, ConnectionError) else Reason.CLIENT_LOST
