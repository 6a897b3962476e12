"""Many handles are shown without keeping anybody waiting for it."""

import asyncio
import json

from opencode_events.broker.connection import Terms
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.web.handles import A_TURN, encoded
from tests.servers import Server

COUNT = 5 * A_TURN + 1


async def come(server: Server) -> None:
    """Have so many handles without a connection."""
    for number in range(COUNT):
        terms = Terms(peer=f"192.0.2.1:{number}", on_overflow="end", end="clean", is_chunked=True)
        server.broker.subscribe(Selection(stream="global"), terms, None)


async def go(server: Server) -> None:
    for subscriber in list(server.broker.subscribers.values()):
        subscriber.lost(Reason.CLIENT_CLOSED)


def test_the_loop_turns_while_they_are_looked_at(server: Server) -> None:
    async def look_and_count() -> tuple[bytes, int]:
        looking = asyncio.ensure_future(encoded(server.broker, lambda _: {}))
        turns = 0
        while not looking.done():
            await asyncio.sleep(0)
            turns += 1
        return looking.result(), turns

    server.run(lambda: come(server))
    body, turns = server.run(look_and_count)
    server.run(lambda: go(server))

    assert [each["id"] for each in json.loads(body)["subscribers"]] == list(range(1, COUNT + 1))
    assert turns >= COUNT // A_TURN


def test_those_who_go_meanwhile_are_left_out(server: Server) -> None:
    async def look_and_go() -> bytes:
        looking = asyncio.ensure_future(encoded(server.broker, lambda _: {"verdict": "idle"}))
        await asyncio.sleep(0)
        await go(server)
        return await looking

    server.run(lambda: come(server))
    found = json.loads(server.run(look_and_go))["subscribers"]

    assert [each["id"] for each in found] == list(range(1, A_TURN + 1))
    assert found[0]["verdict"] == "idle"


def test_nobody_is_an_empty_list(server: Server) -> None:
    assert json.loads(server.run(lambda: encoded(server.broker, lambda _: {}))) == {"subscribers": []}
    assert server.client.get("/-/subscribers").json == {"subscribers": []}
