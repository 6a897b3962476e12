"""A real broker on the running loop, between a fake log and fake connections."""

import asyncio
import json
from typing import Any

from opencode_events import wire
from opencode_events.broker.broker import Broker
from opencode_events.broker.connection import OnOverflow
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import EPOCH, GLOBAL, FakeConnection, FakeLog, PromptConnection, terms
from tests.samples import Message, event, read_event_stream


def make_broker(log: FakeLog | None = None, **changes: Any) -> Broker:
    """Return a broker that flushes at the end of each turn."""
    settings = BrokerSettings(**{"flush_min_s": 0.0, "flush_max_s": 0.0} | changes)
    return Broker(settings, log or FakeLog(), asyncio.get_running_loop())


def join(
    broker: Broker,
    selection: Selection = GLOBAL,
    connection: FakeConnection | None = None,
    *,
    after: int | None = None,
    on_overflow: OnOverflow = "end",
) -> tuple[Subscriber, FakeConnection]:
    handle = broker.subscribe(selection, terms(on_overflow=on_overflow), after)
    connection = connection or PromptConnection()
    connection.attach_to(handle)
    return handle, connection


async def turns(count: int = 20) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


def messages(connection: FakeConnection) -> list[Message]:
    return read_event_stream(connection.body)


def types(connection: FakeConnection) -> list[str]:
    found = [json.loads(message.data) for message in messages(connection)]
    return [value.get("payload", value)["type"] for value in found]


def positions(connection: FakeConnection) -> list[int]:
    """Return the positions of the events that were received, in order."""
    return [
        int(message.last_event_id.removeprefix(f"{EPOCH}-"))
        for message, kind in zip(messages(connection), types(connection), strict=True)
        if kind != wire.HEARTBEAT and not kind.startswith("server.stream.")
    ]


def told(connection: FakeConnection, kind: str) -> list[dict[str, Any]]:
    """Return the properties of the control frames of a type."""
    found = [json.loads(message.data) for message in messages(connection)]
    payloads = [value.get("payload", value) for value in found]
    return [payload["properties"] for payload in payloads if payload["type"] == kind]


def live(connection: FakeConnection) -> list[int]:
    """Return how many events each news that what follows is live says to have come from the log."""
    return [properties["replayed"] for properties in told(connection, wire.LIVE)]


def log_of(count: int) -> FakeLog:
    """Return a log that has events already: a broker that starts with it has none of them in memory."""
    log = FakeLog()
    log.append_nowait([[event(number) for number in range(1, count + 1)]])
    log.trace.clear()
    return log
