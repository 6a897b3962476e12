"""How all subscriptions end when the daemon does: politely, some at a time, for some time, and then at once.

Slices, so that who comes back to another daemon does not come with everybody else; a time to wait for each client of
its own, so that the same is true of the next one here.
"""

import asyncio
import contextlib
import random
from collections.abc import Mapping

from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import Subscriber
from opencode_events.settings import BrokerSettings

# Seconds that a connection may take to report its own reset: the loop tells it in the next turn.
RESET_S = 1.0
# What clients wait until they come again, in milliseconds: a second at least, for the next daemon has to start, and
# then spread over two, or over as long as it takes to let so many in at 1 000 a second.
RETRY_MIN_MS = 1_000
RETRY_SPREAD_MS = 2_000
RETRY_MS_EACH = 1


async def drain(
    subscribers: Mapping[int, Subscriber], emptied: asyncio.Event, *, wait_s: float, settings: BrokerSettings
) -> None:
    """End all of `subscribers`: what is buffered has `wait_s` seconds to be read, then connections are reset.

    The last slice is told when half of that time is over, or sooner. `emptied` is set whenever the last one is gone.
    Returns when all are, or have been reset.
    """
    everybody, slice_ = list(subscribers.values()), settings.drain_slice
    pauses = max(0, len(everybody) - 1) // slice_
    pause_s = min(settings.drain_pause_s, wait_s / 2 / max(1, pauses))
    began = asyncio.get_running_loop().time()
    for start in range(0, len(everybody), slice_):
        await asyncio.sleep(pause_s if start else 0)
        for subscriber in everybody[start : start + slice_]:
            subscriber.close(Reason.SHUTDOWN, retry_ms=come_again_ms(len(everybody)))
    left_s = began + wait_s - asyncio.get_running_loop().time()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_wait_empty(subscribers, emptied), left_s)
    for subscriber in list(subscribers.values()):
        subscriber.reset()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_wait_empty(subscribers, emptied), RESET_S)


def come_again_ms(count: int) -> int:
    """Return what one of `count` clients waits until it comes again, in milliseconds."""
    return RETRY_MIN_MS + random.randint(0, max(RETRY_SPREAD_MS, count * RETRY_MS_EACH))


async def _wait_empty(subscribers: Mapping[int, Subscriber], emptied: asyncio.Event) -> None:
    while subscribers:
        emptied.clear()
        await emptied.wait()
