"""Upstream's stream of all events, as frames.

Owns how it is read: for how long it may be silent, and that a flood is taken in few large pieces. Nothing is held but
the frame that has not ended. Errors of aiohttp and of the system are translated here.
"""

import asyncio

import aiohttp

from opencode_events import sse
from opencode_events.errors import UpstreamAway, UpstreamSlow

# Seconds between two reads in a flood: what comes meanwhile shares a commit, and a write to each subscriber.
PACE_S = 0.005


class EventStream:
    """The frames of one answer. `silence_s` is how long it may be without one; over `max_event_bytes` one is cut."""

    def __init__(self, response: aiohttp.ClientResponse, *, max_event_bytes: int, silence_s: float) -> None:
        self._response = response
        self._parser = sse.Parser(max_bytes=max_event_bytes)
        self._silence_s = silence_s
        self._now = asyncio.get_running_loop().time
        self._read_at = self._now()

    @property
    def is_over(self) -> bool:
        """Whether upstream has ended it, or it has broken, even if not all that came before was read."""
        content = self._response.content
        return content.is_eof() or content.exception() is not None

    async def read(self) -> list[sse.ServerSentEvent]:
        """Return the next frames, none at the end. Raises UpstreamSlow after a silence, UpstreamAway when it breaks."""
        try:
            async with asyncio.timeout(self._silence_s):
                while piece := await self._next_piece():
                    if found := self._parser.feed(piece):
                        return found
                return []
        except TimeoutError as error:
            raise UpstreamSlow(f"it sent no frame for {self._silence_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamAway(f"the stream broke off: {error!s:.200}") from error

    def close(self) -> None:
        """Let go of it: upstream must not keep anything for us."""
        self._response.close()

    async def _next_piece(self) -> bytes:
        await self._pause(self._read_at + PACE_S - self._now())
        self._read_at = self._now()
        return await self._response.content.readany()

    async def _pause(self, seconds: float) -> None:
        """Let the kernel gather what comes meanwhile: in a flood each wake-up costs more than what it brings.

        What comes after a quiet moment is not held up: then there is nothing to pause.
        """
        connection = self._response.connection
        transport = None if connection is None else connection.transport
        if seconds <= 0 or transport is None or transport.is_closing():
            return
        transport.pause_reading()
        try:
            await asyncio.sleep(seconds)
        finally:
            if not transport.is_closing():
                transport.resume_reading()
