"""Lets in so many in each turn of the loop, in their order: a thousand clients at once are a queue, not a crowd.

Whoever is live is written to between two turns, so what one turn takes is what a storm costs the others.
"""

import asyncio
from collections import deque


class Turnstile:
    """`width` may pass in one turn of the loop; who finds nobody before it passes at once."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._left = width
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_turning = False

    async def enter(self) -> None:
        """Wait for one's turn. Whoever is cancelled meanwhile holds nobody up."""
        loop = asyncio.get_running_loop()
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn, loop)
        if self._left > 0:
            self._left -= 1
            return
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._width
        while self._waiting and self._left:
            first = self._waiting.popleft()
            if not first.done():
                self._left -= 1
                first.set_result(None)
        self._is_turning = bool(self._waiting) or self._left < self._width
        if self._is_turning:
            loop.call_soon(self._turn, loop)
