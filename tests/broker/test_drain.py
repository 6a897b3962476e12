"""How everybody is sent home: some at a time, and each with a time of its own to come back."""

import re
from collections.abc import Callable

import pytest

from opencode_events.broker.selection import Selection
from tests.broker.fakes import FakeConnection, segment
from tests.broker.stepped import Run
from tests.samples import event


def join(run: Run, count: int) -> list[FakeConnection]:
    found = [run.join()[1] for _ in range(count)]
    run.loop.turns(5)
    return found


def told(connections: list[FakeConnection]) -> int:
    return sum("server.stream.closing" in connection.body.decode() for connection in connections)


def retries(connections: list[FakeConnection]) -> list[int]:
    """Return the milliseconds that each goodbye has, in the block that has the goodbye itself."""
    blocks = [re.findall(rb"retry: ([0-9]+)\ndata: [^\n]*closing", connection.body) for connection in connections]
    return [int(milliseconds) for (milliseconds,) in blocks]


def test_slices_are_told_a_pause_apart(start: Callable[..., Run]) -> None:
    run = start(drain_slice=2, drain_pause_s=0.1)
    connections = join(run, 5)

    draining = run.loop.create_task(run.broker.drain(30))
    run.loop.turns(10)
    counts = [told(connections)]
    for _ in range(2):
        run.loop.advance(0.1)
        run.loop.turns(10)
        counts.append(told(connections))

    assert counts == [2, 4, 5]
    assert draining.done()


def test_the_last_slice_is_told_when_half_of_the_time_is_over(start: Callable[..., Run]) -> None:
    run = start(drain_slice=1, drain_pause_s=60)
    connections = join(run, 5)

    draining = run.loop.create_task(run.broker.drain(8))
    run.loop.turns(10)
    counts = [told(connections)]
    for _ in range(4):
        run.loop.advance(1.0)
        run.loop.turns(10)
        counts.append(told(connections))

    assert counts == [1, 2, 3, 4, 5]
    assert draining.done()


def test_the_time_counts_from_the_beginning_and_not_from_the_last_slice(start: Callable[..., Run]) -> None:
    run = start(drain_slice=1, drain_pause_s=60)
    stuck = []
    for _ in range(2):
        handle, connection = run.join(room=1)
        handle.deliver(segment(1, size=100_000))
        stuck.append(connection)
    run.loop.turns(5)

    draining = run.loop.create_task(run.broker.drain(8))
    run.loop.turns(10)
    run.loop.advance(4.0)
    run.loop.turns(10)
    run.loop.advance(3.9)
    run.loop.turns(10)
    assert not draining.done()
    run.loop.advance(0.1)
    run.loop.turns(10)

    assert draining.done()
    assert [connection.ended for connection in stuck] == ["reset", "reset"]


@pytest.mark.parametrize("after", [None, 0], ids=["fresh", "resuming"])
def test_who_comes_between_two_slices_is_told_to_come_again(start: Callable[..., Run], after: int | None) -> None:
    run = start(drain_slice=1, drain_pause_s=1)
    run.publish(event(1))
    join(run, 2)
    draining = run.loop.create_task(run.broker.drain(30))
    run.loop.turns(10)

    assert run.broker.trouble == "the daemon is shutting down"
    handle, connection = run.join(after=after)
    run.loop.turns(5)
    (retry_ms,) = retries([connection])
    assert 1_000 <= retry_ms <= 3_000
    assert (connection.ended, handle.position) == ("closed", 1 if after is None else after)
    assert handle.sent_events == 0  # what it has missed is the next daemon's to tell
    run.loop.advance(1)
    run.loop.turns(10)
    assert draining.done()


@pytest.mark.parametrize(("count", "spread_ms"), [(50, 2_000), (4_000, 4_000)], ids=["few", "many"])
def test_each_client_has_a_time_of_its_own_to_come_back(start: Callable[..., Run], count: int, spread_ms: int) -> None:
    run = start(drain_slice=count)
    connections = join(run, count)

    draining = run.loop.create_task(run.broker.drain(30))
    run.loop.turns(10)

    found = retries(connections)
    assert draining.done()
    assert len(found) == count
    assert min(found) >= 1_000
    assert max(found) <= 1_000 + spread_ms
    assert max(found) - min(found) > spread_ms / 2
    assert len(set(found)) > count / 2


def test_lines_of_json_have_no_place_for_that_time(start: Callable[..., Run]) -> None:
    run = start()
    _, connection = run.join(Selection(stream="global", form="ndjson"))
    run.loop.turns(5)

    _ = run.loop.create_task(run.broker.drain(30))
    run.loop.turns(10)

    assert b"server.stream.closing" in connection.body
    assert b"retry" not in connection.body
