"""All handles as one JSON text, made in slices: for ten thousand it takes a quarter of a second of the processor.

Between two slices the loop turns, so whoever is live is served meanwhile. The text is therefore no picture of one
moment: each handle is as it was in its turn, and one that has gone by then is left out.
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from opencode_events.broker.broker import Broker
from opencode_events.broker.report import report
from opencode_events.broker.subscriber import Subscriber

Look = Callable[[Subscriber], Mapping[str, object]]

# Handles that are looked at in one turn of the loop: some 2 ms.
A_TURN = 100


async def encoded(broker: Broker, look: Look) -> bytes:
    """Return the answer's body, with one object for each handle, in order of arrival."""
    waiting = list(broker.subscribers.values())
    slices = []
    for start in range(0, len(waiting), A_TURN):
        if start:
            await asyncio.sleep(0)
        reports = [
            report(subscriber, broker) | dict(look(subscriber))
            for subscriber in waiting[start : start + A_TURN]
            if subscriber.id in broker.subscribers
        ]
        if reports:
            slices.append(msgspec.json.encode(reports)[1:-1])
    return b'{"subscribers":[' + b",".join(slices) + b"]}"
