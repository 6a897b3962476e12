"""The body of a request, on its way from the client to upstream."""

import asyncio
import contextlib

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from multidict import CIMultiDict

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Upload(Payload):
    """The body of a request, on its way. It can be sent once: what has gone out is held nowhere.

    `failure` is why the client's side broke, None if it did not.
    """

    _consumed = False

    def __init__(self, request: web.Request) -> None:
        super().__init__(request.content, headers=CIMultiDict())
        self._request = request
        self._size = request.content_length
        self._is_begun = False
        self._writer: AbstractStreamWriter | None = None
        self.failure: Exception | None = None
        self._patience: asyncio.Timeout | None = None
        self._patience_s = 0.0

    def waits(self, patience: asyncio.Timeout, seconds: float) -> None:
        """Wind `patience` up again with each piece that goes out: the time for an answer counts from the last one."""
        self._patience, self._patience_s = patience, seconds

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Nobody may: the body is a stream."""
        raise TypeError("the body is passed through")

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """See `Payload.write_with_length`. The length has been checked by aiohttp's parser."""
        await self.write(writer)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send what comes, as it comes; the client is asked for it first, if it waits to be asked."""
        if self._is_begun:
            raise ConnectionResetError("upstream closed the connection, and a body cannot be sent twice")
        self._is_begun = self._consumed = True
        self._writer = writer
        await self._ask_for_it()
        if not self._request.content.total_bytes and hasattr(writer, "send_headers"):  # aiohttp 3.11 has sent them
            writer.send_headers()  # else the head would wait for the body's first piece
        while chunk := await self._read():
            await writer.write(chunk)
            self._wind_up()
        self._writer = None

    async def _read(self) -> bytes:
        try:
            return await self._request.content.readany()
        except Exception as error:
            self.failure = error
            raise

    def _wind_up(self) -> None:
        if self._patience is not None:
            with contextlib.suppress(RuntimeError):  # it is over: the answer was here before the whole body was
                self._patience.reschedule(asyncio.get_running_loop().time() + self._patience_s)

    async def _ask_for_it(self) -> None:
        """Say 100 where it is expected (RFC 9110, section 10.1.1), now that upstream is there."""
        request = self._request
        if request.version >= (1, 1) and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(CONTINUE)
            request.writer.output_size = 0  # it is none of the answer's

    def abort(self) -> None:
        """Let go of a body that is not all out: upstream may not be reading it."""
        if self._writer is not None and self._writer.transport is not None:
            self._writer.transport.abort()
