"""Counting all handles at once, without holding up the loop."""

import asyncio

from opencode_events.broker import census
from opencode_events.broker.lifecycle import Reason, State
from tests.broker.fakes import INSTANCE, FakeConnection, FakeOwner, segment


async def test_nobody_is_counted_as_nothing() -> None:
    found = await census.take([], 0.0)

    assert (dict(found.states), found.lagging, found.queued_events.count) == ({}, 0, 0)


async def test_handles_are_counted_by_stream_and_state() -> None:
    owner = FakeOwner()
    handles = [
        owner.subscriber(FakeConnection()),
        owner.subscriber(FakeConnection()),
        owner.subscriber(FakeConnection(), selection=INSTANCE, state=State.REPLAYING),
    ]

    found = await census.take(handles, owner.clock())

    assert found.states == {("global", "live"): 2, ("instance", "replaying"): 1}


async def test_each_handle_is_one_value_of_what_waits() -> None:
    owner = FakeOwner()
    quick, slow = owner.subscriber(FakeConnection()), owner.subscriber(FakeConnection(room=0))
    owner.advance(1.0)
    for number in (1, 2):
        for handle in (quick, slow):
            handle.deliver(segment(number, events=3, size=100))
    owner.advance(2.5)

    found = await census.take([quick, slow], owner.clock())

    assert (found.queued_events.count, found.queued_events.sum) == (2, slow.queued_events)
    assert slow.queued_events > 0
    assert found.queued_bytes.sum == slow.queued_bytes
    assert (found.queued_s.sum, slow.queued_s, quick.queued_s) == (2.5, 2.5, 0.0)
    assert dict(found.queued_events.buckets())[0] == 1


async def test_what_waits_is_as_old_as_its_oldest_part() -> None:
    owner = FakeOwner()
    handle = owner.subscriber()
    handle.deliver(segment(1))
    owner.advance(1.0)
    handle.deliver(segment(2))
    owner.advance(1.0)
    assert handle.queued_s == 2.0

    handle.outbox.opened().popleft()

    assert handle.queued_s == 1.0


async def test_a_segment_that_two_hold_waits_since_the_first_took_it() -> None:
    owner = FakeOwner()
    first, second = owner.subscriber(), owner.subscriber()
    shared = segment(1)
    owner.advance(1.0)
    first.deliver(shared)
    owner.advance(1.0)
    second.deliver(shared)

    assert (first.queued_s, second.queued_s) == (1.0, 1.0)


async def test_whoever_is_over_is_not_counted() -> None:
    owner = FakeOwner()
    handle = owner.subscriber(FakeConnection())
    handle.lost(Reason.CLIENT_CLOSED)

    found = await census.take([handle], owner.clock())

    assert found.queued_events.count == 0


async def test_a_crowd_is_counted_some_in_each_turn_of_the_loop() -> None:
    owner = FakeOwner()
    handles = [owner.subscriber(FakeConnection()) for _ in range(2 * census.SLICE + 1)]
    turns = 0
    task = asyncio.ensure_future(census.take(handles, 0.0))
    while not task.done():
        await asyncio.sleep(0)
        turns += 1

    assert (await task).queued_events.count == len(handles)
    assert turns >= 3
