"""How a subscriber's handle gets its connection from aiohttp once the response head is out.

Plain TCP: the descriptor is duplicated, a transport of our own is opened on the duplicate, and aiohttp's is aborted,
which for aiohttp is "the client went away". No task, parser or request stays behind, and pause, resume and loss
are callbacks. Where that gains nothing (TLS) or cannot be done (no descriptor left, by setting), the plain path keeps
aiohttp's handler waiting and writes to aiohttp's transport.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import Subscriber

HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024
# What a client may send after its request, such as another one that it pipelined.
HEARD_BYTES = 64 * 1024
# Seconds between two looks at a stalled connection on the plain path: its end is told to aiohttp, which waits for it
# to drain.
LOOK_S = 1.0
# SO_LINGER with a timeout of nothing: closing sends RST, and the kernel gives the send queue back at once.
LINGER_NONE = struct.pack("ii", 1, 0)


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
    await _Plain(subscriber, request.protocol, transport, head).serve()


async def _take(subscriber: Subscriber, transport: asyncio.Transport, descriptor: int) -> None:
    """Open a transport of our own on the descriptor; aiohttp's goes, whatever happens."""
    transport.pause_reading()
    own = socket.socket(fileno=descriptor)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: TakenOver(subscriber), own)
    except BaseException:
        own.close()
        subscriber.lost(Reason.CLIENT_LOST)
        raise
    finally:
        transport.abort()


class TakenOver(asyncio.Protocol):
    """A connection of our own, as the handle's `Connection`: tells the handle what becomes of its transport."""

    __slots__ = ("_heard", "_subscriber", "_transport", "buffered", "write")

    _transport: asyncio.Transport
    write: Callable[[bytes | memoryview], None]
    buffered: Callable[[], int]

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._heard = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there: let the handle have it."""
        self._transport = taken = cast(asyncio.Transport, transport)  # uvloop's is none by name
        taken.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self.write = taken.write
        self.buffered = taken.get_write_buffer_size
        self._subscriber.attach(self)

    def data_received(self, data: bytes) -> None:
        """Swallow what a subscriber says after its request; one that does not stop is not a subscriber."""
        self._heard += len(data)
        if self._heard > HEARD_BYTES:
            self.reset()

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._subscriber.pause()

    def resume_writing(self) -> None:
        """The transport has room again."""
        self._subscriber.resume()

    def eof_received(self) -> None:
        """The client has said goodbye. If it has not read what was sent before, it will not: end it there and then.

        Closing instead would wait in CLOSE_WAIT for a buffer to drain that nobody reads.
        """
        if self.buffered():
            self.reset()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is over."""
        self._subscriber.lost(_reason(error))

    def close(self) -> None:
        """See `Connection.close`."""
        self._transport.close()

    def reset(self) -> None:
        """See `Connection.reset`."""
        _reset(self._transport)


class _Plain:
    """A connection that stays aiohttp's, as the handle's `Connection`, served by the handler's own task."""

    def __init__(
        self,
        subscriber: Subscriber,
        protocol: web.RequestHandler,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
    ) -> None:
        self._subscriber = subscriber
        self._protocol = protocol
        self._transport = transport
        self._writer = writer
        self._over = asyncio.Event()
        self._stalled = asyncio.Event()
        self._is_ended = False  # by us
        self._next_look: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Attach, and wait until the connection is lost, which cancels the caller.

        One that we have closed is not lost before all is read: until then the handle stays, with its deadline. A drain
        is only ever left by the connection's end: aiohttp shares its future between all who drain.
        """
        self._subscriber.attach(self)
        try:
            while True:
                await self._stalled.wait()
                self._stalled.clear()
                await self._writer.drain()
                self._subscriber.resume()
        except ConnectionError as error:
            self._subscriber.lost(_reason(error))
        finally:
            self._subscriber.lost(Reason.CLIENT_CLOSED)

    def write(self, data: bytes | memoryview) -> None:
        """See `Connection.write`."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._protocol.writing_paused:
            self._subscriber.pause()
            self._stalled.set()
            if self._next_look is None:
                self._look()

    def _look(self) -> None:
        """End a stalled connection whose client has said goodbye; come back as long as it is stalled."""
        self._next_look = None
        if self._transport.is_closing():
            if not self._is_ended:
                self.reset()
        elif self._protocol.writing_paused:
            self._next_look = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def buffered(self) -> int:
        """See `Connection.buffered`."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """See `Connection.close`."""
        self._is_ended = True
        self._transport.close()

    def reset(self) -> None:
        """See `Connection.reset`."""
        self._is_ended = True
        _reset(self._transport)


def _reset(transport: asyncio.Transport) -> None:
    """End a connection with RST. A plain abort would leave the kernel's send queue in LAST-ACK for minutes."""
    try:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    except (OSError, ValueError):  # closed already: asyncio says the one, uvloop the other
        pass
    transport.abort()


def _reason(error: Exception | None) -> Reason:
    """Return what the end of a connection means."""
    if error is None:
        return Reason.CLIENT_CLOSED
    return Reason.CLIENT_RESET if isinstance(error, ConnectionError) else Reason.CLIENT_LOST
