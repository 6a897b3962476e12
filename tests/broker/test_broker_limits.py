"""How many there may be, what all may hold, and how everybody is sent home."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.errors import Busy
from tests.broker.brokers import join, make_broker, messages, turns, types
from tests.broker.fakes import EPOCH, GLOBAL, INSTANCE, FakeConnection, PromptConnection, segment, terms
from tests.samples import event

NDJSON = Selection(stream="global", form="ndjson")

# --- how many


async def test_the_10_001st_subscriber_is_told_to_come_again() -> None:
    broker = make_broker()
    with capture_logs():
        handles = [broker.subscribe(GLOBAL, terms()) for _ in range(10_000)]
        with pytest.raises(Busy, match=r"max_subscribers \(10000\)") as refused:
            broker.subscribe(GLOBAL, terms())
        assert (refused.value.limit, refused.value.retry_after_s) == (10_000, 5)

        handles[0].close(Reason.OPERATOR)  # still there, until its connection is lost
        with pytest.raises(Busy):
            broker.subscribe(GLOBAL, terms())
        handles[0].lost(Reason.CLIENT_CLOSED)
        broker.subscribe(GLOBAL, terms())
    assert len(broker.subscribers) == 10_000


async def test_one_selection_too_many_leaves_nothing_behind() -> None:
    broker = make_broker(max_selections=1)
    join(broker)
    with pytest.raises(Busy, match="max_selections"):
        broker.subscribe(INSTANCE, terms())

    assert len(broker.subscribers) == 1
    assert broker.statistics()["selections"] == 1
    join(broker)


async def test_a_thousand_that_die_leave_nothing() -> None:
    broker = make_broker()
    with capture_logs():
        for number in range(1000):
            handle, _ = join(broker, Selection(stream="instance", directory=f"/srv/{number % 7}"))
            if number % 3 == 0:
                await broker.publish([event(number, directory=f"/srv/{number % 7}")])
            handle.lost(Reason.CLIENT_RESET)
        await turns()

    assert broker.subscribers == {}
    assert broker.statistics()["selections"] == 0
    assert broker.budget.held == 0


# --- what all may hold


def stalled(broker: Any, selection: Selection = GLOBAL) -> tuple[Subscriber, FakeConnection]:
    """Return a handle whose connection is full, and the connection."""
    handle, connection = join(broker, selection, PromptConnection())
    handle.pause()
    connection.room = 0
    return handle, connection


async def test_what_many_share_counts_once_and_the_limit_itself_is_allowed() -> None:
    broker = make_broker(budget_bytes=1000)
    handles = [stalled(broker)[0] for _ in range(10)]
    shared = segment(1, size=1000)
    for handle in handles:
        handle.deliver(shared)

    assert broker.budget.held == 1000
    assert {handle.state for handle in handles} == {State.LIVE}


async def test_over_the_budget_who_holds_most_is_cut_and_may_resume() -> None:
    broker = make_broker(budget_bytes=1000)
    (most, connection), (less, _) = stalled(broker), stalled(broker, NDJSON)
    most.deliver(segment(1, size=600))
    less.deliver(segment(2, size=400))
    assert (most.state, less.state) == (State.LIVE, State.LIVE)

    less.deliver(segment(3, size=10))
    assert (most.state, most.reason, less.state) == (State.CLOSING, Reason.OVERFLOW_MEMORY, State.LIVE)
    assert (most.queued_events, less.queued_bytes) == (0, 410)
    assert broker.budget.held == 410 + most.queued_bytes
    connection.make_room(None)
    assert types(connection) == ["server.stream.closing"]
    assert f'"cursor":"{EPOCH}-0"' in messages(connection)[0].data


async def test_one_that_closes_already_is_reset_when_it_holds_most() -> None:
    broker = make_broker(budget_bytes=1000)
    (most, connection), (less, _) = stalled(broker), stalled(broker, NDJSON)
    most.deliver(segment(1, size=500))
    most.close(Reason.OPERATOR)
    held = most.queued_bytes

    less.deliver(segment(2, size=1000 - held))
    endings = [connection.ended]
    less.deliver(segment(3, size=10))
    assert [*endings, connection.ended] == [None, "reset"]
    assert less.state is State.LIVE
    await turns()
    assert (most.state, most.reason) == (State.CLOSED, Reason.OPERATOR)
    assert broker.budget.held == less.queued_bytes


async def test_cutting_goes_on_until_what_is_held_fits() -> None:
    """Those who share a segment have to go together: it is free with its last holder."""
    broker = make_broker(budget_bytes=1000)
    sharing = [stalled(broker)[0] for _ in range(3)]
    small, _ = stalled(broker, NDJSON)
    for one in (segment(1, size=400), segment(2, size=400)):
        for handle in sharing:
            handle.deliver(one)
    small.deliver(segment(3, size=300))

    assert [handle.state for handle in sharing] == [State.CLOSING] * 3
    assert small.state is State.LIVE
    assert broker.budget.held <= 1000


async def test_half_a_segment_that_must_be_kept_goes_with_its_connection() -> None:
    broker = make_broker(budget_bytes=220_000)
    handle, connection = join(broker, connection=PromptConnection(room=1))
    handle.deliver(segment(1, size=140_000))
    assert broker.budget.held == 140_000 + 65_535  # 64 KiB of them are in the transport too
    assert handle.state is State.LIVE

    handle.deliver(segment(2, size=20_000))
    assert (handle.state, handle.queued_events, connection.ended) == (State.CLOSING, 1, None)
    handle.resume()  # another 64 KiB: the transport takes them, and holds all it was given
    other, _ = stalled(broker, NDJSON)
    other.deliver(segment(3, size=50_000))
    assert (connection.ended, other.state) == ("reset", State.LIVE)
    await turns()
    assert (handle.state, handle.reason) == (State.CLOSED, Reason.OVERFLOW_MEMORY)
    assert broker.budget.held == 50_000


async def test_what_transports_hold_is_had_by_resetting_one_of_them_and_no_more() -> None:
    """Each of ten transports holds 200 bytes of 1990 in all: the tenth is one too many."""
    broker = make_broker(budget_bytes=1990)
    handles = []
    for _ in range(10):
        handle, _ = join(broker, connection=PromptConnection(room=1))
        handle.deliver(segment(1, size=201))
        handles.append(handle)
    await turns()

    assert [handle.state for handle in handles].count(State.LIVE) == 9
    assert [handle.reason for handle in handles].count(Reason.OVERFLOW_MEMORY) == 1
    assert broker.budget.held == 1800


async def test_an_exceeded_budget_is_brought_a_sixteenth_below_its_limit() -> None:
    broker = make_broker(budget_bytes=16_000)
    for _ in range(81):
        handle, _ = join(broker, connection=PromptConnection(room=1))
        handle.deliver(segment(1, size=201))
    await turns()

    assert broker.budget.held == 15_000
    assert len(broker.subscribers) == 75


# --- sending everybody home


async def test_a_drain_tells_everybody_and_resets_who_does_not_read() -> None:
    broker = make_broker()
    (reads, read), (late, unread) = join(broker), join(broker, INSTANCE, PromptConnection(room=1))
    waits_for_its_head = broker.subscribe(GLOBAL, terms())
    await broker.publish([event(1)])
    await turns()
    await broker.publish([event(2)])
    await broker.drain(0)

    assert types(read) == ["session.idle", "session.idle", "server.stream.closing"]
    assert f'"reason":"shutdown","cursor":"{EPOCH}-2"' in messages(read)[-1].data
    assert (read.ended, read.is_complete, unread.ended) == ("closed", True, "reset")
    assert broker.subscribers == {}
    assert {handle.reason for handle in (reads, late, waits_for_its_head)} == {Reason.SHUTDOWN}
    assert broker.budget.held == 0


async def test_what_was_gathered_is_flushed_before_anybody_is_told() -> None:
    broker = make_broker(flush_slice=1, segment_events=1)
    connections = [join(broker)[1] for _ in range(5)]
    await broker.publish([event(number) for number in range(4)])
    await broker.drain(1)

    assert [types(connection) for connection in connections] == [["session.idle"] * 4 + ["server.stream.closing"]] * 5


async def test_who_reads_within_the_time_is_waited_for() -> None:
    broker = make_broker()
    handle, connection = join(broker, connection=PromptConnection(room=1))
    handle.deliver(segment(1, size=100_000))
    draining = asyncio.create_task(broker.drain(30))
    await turns()
    assert not draining.done()

    connection.make_room(None)
    await draining
    assert (connection.ended, connection.is_complete, handle.state) == ("closed", True, State.CLOSED)


async def test_while_it_drains_nobody_publishes() -> None:
    broker = make_broker()
    join(broker, connection=FakeConnection(room=1))
    draining = asyncio.create_task(broker.drain(30))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="shutting down"):
        await broker.publish([event(1)])

    draining.cancel()
    await asyncio.wait((draining,))
    for handle in list(broker.subscribers.values()):
        handle.lost(Reason.CLIENT_CLOSED)
    await broker.drain(0)  # as after a second signal


async def test_a_drain_of_nobody_is_over_at_once() -> None:
    broker = make_broker()
    await broker.drain(30)

    assert broker.is_draining


# --- what is logged


@pytest.mark.parametrize(
    ("reason", "level"),
    [(Reason.OPERATOR, "warning"), (Reason.OVERFLOW_BYTES, "warning"), (Reason.SHUTDOWN, "info"),
     (Reason.DISPOSED, "info")],
)  # fmt: skip
async def test_one_line_tells_how_a_subscriber_ended(reason: Reason, level: str) -> None:
    broker = make_broker()
    with capture_logs() as lines:
        handle, connection = join(broker)
        broker.clock = lambda: handle.opened_at + 1.2341
        handle.deliver(segment(1, events=3, size=100))
        handle.close(reason)
        await turns()

    opened, closed = lines
    assert opened == {
        "event": "subscriber.opened", "log_level": "info", "subscriber": 1, "peer": "192.0.2.1:5", "stream": "global",
        "replays": 0,
    }  # fmt: skip
    assert closed == {
        "event": "subscriber.closed", "log_level": level, "subscriber": 1, "peer": "192.0.2.1:5",
        "reason": reason.value, "open_s": 1.234, "sent_events": 3, "sent_bytes": closed["sent_bytes"],
        "peak_queued_events": 3, "peak_queued_bytes": closed["peak_queued_bytes"],
    }  # fmt: skip
    assert 100 <= closed["sent_bytes"] <= len(connection.received)


async def test_who_holds_nothing_is_never_cut_for_the_others() -> None:
    """Stalled transports hold more than the budget, and keep it until their loss: the healthy ones cannot help."""
    broker = make_broker(budget_bytes=1000)
    healthy = [join(broker)[0] for _ in range(3)]
    for _ in range(8):
        handle, _ = join(broker, connection=PromptConnection(room=1))
        handle.deliver(segment(1, size=201))
    broker.budget.limit = 10
    broker.over_budget()
    await turns()

    assert [handle.state for handle in healthy] == [State.LIVE] * 3
