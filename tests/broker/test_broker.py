"""The order of things: stored, then sent, then answered; and that nobody misses, repeats or sees anything early."""

import asyncio
import random
from typing import Any

import pytest

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.selection import Selection
from opencode_events.cursor import Cursor
from opencode_events.errors import LogUnavailable
from tests.broker.brokers import join, make_broker, messages, turns, types
from tests.broker.fakes import EPOCH, GLOBAL, INSTANCE, FakeConnection, FakeLog, PromptConnection, terms
from tests.samples import disposal, event


class TracingConnection(PromptConnection):
    """Notes in the log's trace when something is written."""

    def __init__(self, trace: list[str]) -> None:
        super().__init__()
        self._trace = trace

    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        self._trace.append("written")


class NoticingConnection(PromptConnection):
    def __init__(self) -> None:
        super().__init__()
        self.was_written_to = asyncio.Event()

    def write(self, data: bytes | memoryview) -> None:
        super().write(data)
        self.was_written_to.set()


# --- publishing


async def test_an_event_is_in_the_log_before_anybody_sees_it() -> None:
    log = FakeLog(head=41)
    broker = make_broker(log)
    _, connection = join(broker, connection=TracingConnection(log.trace))
    answer = await broker.publish([event(1), event(2)])
    await turns()

    assert (answer.first, len(answer.events)) == (42, 2)
    assert log.trace == ["append_nowait [['evt_1', 'evt_2']]", "written"]
    assert [message.last_event_id for message in messages(connection)] == [f"{EPOCH}-42", f"{EPOCH}-43"]
    assert broker.head == f"{EPOCH}-43"


async def test_what_is_not_in_the_log_is_seen_by_nobody() -> None:
    log = FakeLog(head=7)
    broker = make_broker(log)
    _, connection = join(broker)
    log.error = LogUnavailable("disk full")
    with pytest.raises(LogUnavailable):
        await broker.publish([event(1)])
    await turns()

    assert connection.received == b""
    assert broker.head == f"{EPOCH}-7"
    log.error = None
    await broker.publish([event(2)])
    await turns()
    assert [message.last_event_id for message in messages(connection)] == [f"{EPOCH}-8"]


async def test_a_stalled_subscriber_keeps_neither_the_publisher_nor_its_neighbour_waiting() -> None:
    broker = make_broker(backlog_events=50)
    (stalled, _), (reads, connection) = join(broker, connection=FakeConnection(room=1)), join(broker)
    async with asyncio.timeout(5):
        for number in range(100):
            await broker.publish([event(number)])
        await turns()

    assert (stalled.state, stalled.reason) == (State.CLOSING, Reason.OVERFLOW_EVENTS)
    assert (reads.state, len(messages(connection))) == (State.LIVE, 100)


async def test_a_publisher_waits_while_the_loop_is_behind_with_writing() -> None:
    broker = make_broker(segment_bytes=100_000, flush_slice=1)
    connections = [join(broker)[1] for _ in range(10)]
    publishing = asyncio.create_task(broker.publish([event(number, pad=150_000) for number in range(10)]))
    await turns(12)
    assert not publishing.done()

    await publishing
    assert all(len(messages(connection)) >= 3 for connection in connections)
    await turns(100)
    assert all(len(messages(connection)) == 10 for connection in connections)


async def test_whoever_comes_gets_what_is_published_from_then_on() -> None:
    """Each at a moment of its own, while others publish in the same turn: no gap, nothing twice, nothing early."""
    dice = random.Random(7)
    log = FakeLog()
    broker = make_broker(log, segment_events=3)
    running = asyncio.create_task(broker.run())
    joined: list[tuple[int, FakeConnection]] = []
    publishing: list[asyncio.Task[Any]] = []

    async def publish(count: int) -> None:
        number = len(publishing) * 10
        await broker.publish([event(number + each) for each in range(count)])

    for _ in range(300):
        step = dice.choice(["publish", "publish", "join", "turn", "slow"])
        if step == "publish":
            publishing.append(asyncio.create_task(publish(dice.randint(1, 7))))
        elif step == "join":
            handle, connection = join(broker)
            joined.append((handle.position, connection))
        elif step == "turn":
            await turns(dice.randint(1, 4))
        else:
            log.is_slow = not log.is_slow
            log.gate.set()
    await asyncio.gather(*publishing)
    await turns(1000)
    running.cancel()

    assert len(joined) > 30
    for start, connection in joined:
        assert [message.last_event_id for message in messages(connection)] == (
            [f"{EPOCH}-{position}" for position in range(start + 1, log.head + 1)]
        )


async def test_after_a_disposal_events_go_only_to_who_subscribes_anew() -> None:
    broker = make_broker()
    before, ended = join(broker, INSTANCE)
    await broker.publish([disposal(1), event(2)])
    behind, connection = join(broker, INSTANCE)
    await broker.publish([event(3)])
    await turns()

    assert (types(ended), ended.ended) == (["server.instance.disposed"], "closed")
    assert (before.state, before.reason, behind.state) == (State.CLOSED, Reason.DISPOSED, State.LIVE)
    assert [message.last_event_id for message in messages(connection)] == [f"{EPOCH}-3"]


# --- cursors


async def test_the_head_is_the_last_event_that_was_fanned_out() -> None:
    log = FakeLog(head=3)
    broker = make_broker(log)
    assert broker.head == f"{EPOCH}-3"
    assert broker.is_known(Cursor(EPOCH, 3))
    assert not broker.is_known(Cursor(EPOCH, 4))
    assert not broker.is_known(Cursor("a" * 10, 3))

    handle = broker.subscribe(GLOBAL, terms())
    assert handle.position == 3


async def test_a_heartbeat_s_id_is_the_last_position_looked_at_though_nothing_matched() -> None:
    broker = make_broker(heartbeat_s=0.01)
    selection = Selection(stream="global", types=frozenset(["nothing"]))
    handle = broker.subscribe(selection, terms())
    connection = NoticingConnection()
    connection.attach_to(handle)
    await broker.publish([event(number) for number in range(5)])
    running = asyncio.create_task(broker.run())
    async with asyncio.timeout(5):
        await connection.was_written_to.wait()
    running.cancel()

    assert types(connection) == ["server.heartbeat"]
    assert messages(connection)[0].last_event_id == f"{EPOCH}-5"
    assert handle.position == 5


# --- statistics


async def test_statistics_count_what_was_and_what_is() -> None:
    broker = make_broker(budget_bytes=5000)
    join(broker)
    gone, connection = join(broker, INSTANCE)
    parked, _ = join(broker, connection=FakeConnection(room=1))
    await broker.publish([event(1), event(2)])
    await turns()
    await broker.publish([event(3)])
    await turns()
    gone.lost(Reason.CLIENT_RESET)
    parked.close(Reason.OPERATOR)
    found = broker.statistics()

    assert {key: found[key] for key in ("published_events", "duplicate_events", "head", "held_bytes_limit")} == {
        "published_events": 3, "duplicate_events": 0, "head": f"{EPOCH}-3", "held_bytes_limit": 5000,
    }  # fmt: skip
    assert (found["subscribers"], found["subscribers_opened"], found["selections"]) == (2, 3, 1)
    assert found["subscribers_by_state"] == {"live": 1, "closing": 1}
    assert found["subscribers_closed"] == {"client_reset": 1}
    assert found["held_bytes"] == parked.queued_bytes + parked.outbox.parked_bytes
    assert found["held_bytes_peak"] == found["held_bytes"]
    assert connection.ended is None
