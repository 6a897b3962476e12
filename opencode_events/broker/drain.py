"""How all subscriptions end when the daemon does: politely, for some time, and then at once."""

import asyncio
import contextlib
from collections.abc import Mapping

from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.subscriber import Subscriber

# Seconds that a connection may take to report its own reset: the loop tells it in the next turn.
RESET_S = 1.0


async def drain(subscribers: Mapping[int, Subscriber], emptied: asyncio.Event, *, wait_s: float, slice_: int) -> None:
    """End all of `subscribers`: what is buffered has `wait_s` seconds to be read, then connections are reset.

    So many are closed in a turn of the loop as `slice_` says. `emptied` is set whenever the last one is gone. Returns
    when all are, or have been reset.
    """
    for number, subscriber in enumerate(list(subscribers.values())):
        subscriber.close(Reason.SHUTDOWN)
        if number % slice_ == 0:
            await asyncio.sleep(0)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_wait_empty(subscribers, emptied), wait_s)
    for subscriber in list(subscribers.values()):
        subscriber.reset()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_wait_empty(subscribers, emptied), RESET_S)


async def _wait_empty(subscribers: Mapping[int, Subscriber], emptied: asyncio.Event) -> None:
    while subscribers:
        emptied.clear()
        await emptied.wait()
