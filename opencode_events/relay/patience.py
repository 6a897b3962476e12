"""How long to wait before what failed is tried again: whoever relays has nobody to give an error to, and waits instead.

The log is asked at short regular pauses, for it is ours; upstream at growing ones, for it may be busy coming up.
"""

import asyncio
import random
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


def pause_s(tries: int, least_s: float, most_s: float) -> float:
    """Return how long to leave upstream alone: twice as long each time, up to a limit, never in step with others."""
    longest_s = min(1.5 * least_s * 2.0 ** min(tries, 30), most_s)
    return random.uniform(max(longest_s / 1.5, min(least_s, most_s)), longest_s)
