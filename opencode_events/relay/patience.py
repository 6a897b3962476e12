"""Asking the log for as long as it takes: whoever relays has nobody to give an error to, and waits instead."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from opencode_events.errors import LogUnavailable

# Seconds until the log is asked again that could not answer.
RETRY_S = 0.5

Answer = TypeVar("Answer")


async def patiently(ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    """Return the log's answer, whenever it comes to give one."""
    while True:
        try:
            return await ask()
        except LogUnavailable:
            await asyncio.sleep(RETRY_S)
