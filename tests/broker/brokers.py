"""A real broker on the running loop, between a fake log and fake connections."""

import asyncio
import json
from typing import Any

from opencode_events.broker.broker import Broker
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import GLOBAL, FakeConnection, FakeLog, PromptConnection, terms
from tests.samples import Message, read_event_stream


def make_broker(log: FakeLog | None = None, **changes: Any) -> Broker:
    """Return a broker that flushes at the end of each turn."""
    settings = BrokerSettings(**{"flush_min_s": 0.0, "flush_max_s": 0.0} | changes)
    return Broker(settings, log or FakeLog(), asyncio.get_running_loop())


def join(
    broker: Broker, selection: Selection = GLOBAL, connection: FakeConnection | None = None
) -> tuple[Subscriber, FakeConnection]:
    handle, connection = broker.subscribe(selection, terms()), connection or PromptConnection()
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
