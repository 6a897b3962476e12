"""A connection may be lost, or reset, whatever its handle is doing; it is over once, and nothing is left of it."""

from collections.abc import Callable

import pytest

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.outbox import WRITE_BYTES
from opencode_events.broker.subscriber import Subscriber
from tests.broker.fakes import FakeConnection, FakeOwner, segment


def parked(owner: FakeOwner, connection: FakeConnection) -> Subscriber:
    connection.room = 1
    handle = owner.subscriber(connection)
    handle.deliver(segment(1, size=WRITE_BYTES * 2))
    handle.deliver(segment(2))
    return handle


def closed(handle: Subscriber) -> Subscriber:
    handle.close(Reason.OPERATOR)
    return handle


def replaying(owner: FakeOwner, connection: FakeConnection) -> Subscriber:
    """Return a handle that has read half of a page."""
    connection.room = 1
    handle = owner.subscriber(connection, state=State.REPLAYING)
    handle.take_page(segment(1, size=WRITE_BYTES * 2), 1)
    owner.told.clear()
    return handle


def catching_up(owner: FakeOwner, connection: FakeConnection) -> Subscriber:
    """Return a handle that fell behind with half of a segment written."""
    connection.room = 1
    handle = owner.subscriber(connection, on_overflow="catchup")
    handle.deliver(segment(1, size=WRITE_BYTES * 2))
    handle.give_up(Reason.OVERFLOW_MEMORY)
    assert handle.queued_events == 1
    owner.told.clear()
    return handle


def awaiting_page(owner: FakeOwner, connection: FakeConnection) -> Subscriber:
    handle = owner.subscriber(connection, state=State.REPLAYING)
    assert owner.told.pop() == "wants_page 0"
    return handle


STATES: dict[str, Callable[[FakeOwner, FakeConnection], Subscriber]] = {
    "waiting for its head": lambda owner, _: owner.subscriber(),
    "resuming before its head": lambda owner, _: owner.subscriber(state=State.REPLAYING),
    "replaying": replaying,
    "waiting for a page": awaiting_page,
    "catching up": catching_up,
    "live": lambda owner, connection: owner.subscriber(connection),
    "parked": parked,
    "closing": lambda owner, connection: closed(parked(owner, connection)),
    "closing before its head": lambda owner, _: closed(owner.subscriber()),
    "closing in a page": lambda owner, connection: closed(replaying(owner, connection)),
    "closing behind": lambda owner, connection: closed(catching_up(owner, connection)),
    "said goodbye": lambda owner, connection: closed(owner.subscriber(connection)),
}


@pytest.mark.parametrize("name", STATES)
def test_a_lost_connection_ends_it_whatever_it_was_doing_and_only_once(name: str) -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = STATES[name](owner, connection)
    for _ in range(2):
        handle.lost(Reason.CLIENT_RESET)

    assert handle.state is State.CLOSED
    assert handle.reason is (Reason.OPERATOR if "closing" in owner.told else Reason.CLIENT_RESET)
    assert owner.told.count("closed") == 1
    assert owner.told[-1] == "closed"
    assert (owner.budget.held, handle.queued_events, handle.queued_bytes) == (0, 0, 0)
    assert owner.pending == []


@pytest.mark.parametrize("name", STATES)
def test_after_it_is_lost_nothing_reaches_its_connection(name: str) -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = STATES[name](owner, connection)
    handle.lost(Reason.CLIENT_CLOSED)
    connection.ended = "closed"  # from now on a write fails the test

    handle.deliver(segment(9))
    handle.close(Reason.SHUTDOWN)
    handle.resume()
    handle.pause()
    assert handle.direct is None
    assert handle.state is State.CLOSED
    assert owner.budget.held == 0


@pytest.mark.parametrize("name", STATES)
def test_a_reset_drops_what_waits_and_is_over_with_the_connection(name: str) -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = STATES[name](owner, connection)
    handle.reset()
    handle.reset()

    assert (handle.queued_events, handle.queued_bytes, owner.budget.segments) == (0, 0, 0)
    if connection.handle is None:
        assert handle.state is State.CLOSED
        return
    assert (connection.ended, handle.state) == ("reset", State.CLOSING)
    handle.deliver(segment(9))
    handle.lost(Reason.CLIENT_RESET)
    assert (handle.state, owner.told, owner.budget.held) == (State.CLOSED, ["closing", "closed"], 0)


def test_a_connection_that_comes_after_the_end_is_reset() -> None:
    connection = FakeConnection()
    handle = FakeOwner().subscriber()
    handle.lost(Reason.CLIENT_LOST)

    connection.attach_to(handle)
    assert connection.ended == "reset"
    assert connection.writes == []
