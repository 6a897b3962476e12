"""Who asked for `catchup` falls behind at a cap, reads on from the log at its own pace, and is live again."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.outbox import WRITE_BYTES
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from tests.broker.brokers import live, positions, told, types
from tests.broker.fakes import GLOBAL, INSTANCE, FakeConnection, FakeLog
from tests.broker.stepped import Run
from tests.samples import disposal, event

NDJSON = Selection(stream="global", form="ndjson")


def count(run: Run, name: str) -> object:
    return run.broker.statistics()[name]


# --- there and back


def test_one_that_overflows_reads_on_and_is_live_again(start: Callable[..., Run]) -> None:
    run = start(backlog_events=5, segment_events=2, replay_events=3)
    handle, connection = run.join(room=1)
    for number in range(1, 21):
        run.publish(event(number), turns=10)
    assert (handle.state, handle.queued_events, handle.position) == (State.CATCHING_UP, 0, 1)
    assert count(run, "fell_behind") == 1
    assert count(run, "subscribers_by_state") == {"catching_up": 1}

    connection.make_room(None)
    run.loop.turns(50)
    assert positions(connection) == list(range(1, 21))
    assert (handle.state, live(connection), handle.reason) == (State.LIVE, [19], None)
    assert count(run, "caught_up") == 1
    run.publish(event(21))
    assert positions(connection) == list(range(1, 22))


def test_it_may_fall_behind_as_often_as_it_likes(start: Callable[..., Run]) -> None:
    run = start(backlog_events=3)
    handle, connection = run.join()
    for episode in range(4):
        connection.room = 1
        for number in range(10):
            run.publish(event(10 * episode + number), turns=10)
        assert handle.is_behind
        connection.make_room(None)
        run.loop.turns(50)
        assert handle.state is State.LIVE

    assert positions(connection) == list(range(1, 41))
    assert len(live(connection)) == 4
    assert (count(run, "fell_behind"), count(run, "caught_up")) == (4, 4)


def test_a_slow_client_is_never_cut_and_never_holds_more_than_a_page(start: Callable[..., Run]) -> None:
    run = start(backlog_events=8, segment_events=4, replay_events=4, replay_bytes=1_000_000, recent_events=10)
    handle, connection = run.join(room=1)
    held = set()
    for number in range(1, 41):
        run.publish(event(number, pad=20_000), turns=5)
        if number % 5 == 0:
            connection.make_room(1)
            run.loop.turns(5)
        if handle.is_behind:
            held.add(handle.queued_events)
    assert max(held) == 4  # of 80 KiB, which it takes in two pieces
    assert handle.is_behind

    connection.make_room(None)
    run.loop.turns(200)
    assert positions(connection) == list(range(1, 41))
    assert handle.state is State.LIVE


def test_while_one_is_behind_its_neighbours_are_live_and_others_may_come(start: Callable[..., Run]) -> None:
    run = start(backlog_events=3)
    handle, _ = run.join(room=1)
    for number in range(1, 11):
        run.publish(event(number), turns=10)
    assert handle.state is State.CATCHING_UP
    _, came = run.join()
    run.publish(event(11))

    assert (positions(came), live(came)) == ([11], [])
    assert count(run, "selections") == 1
    handle.lost(Reason.CLIENT_RESET)
    assert count(run, "selections") == 1
    run.publish(event(12))
    assert positions(came) == [11, 12]


def test_nothing_is_gathered_for_a_feed_that_nobody_hears(start: Callable[..., Run]) -> None:
    run = start(backlog_events=2)
    handle, connection = run.join(INSTANCE, room=1)
    for number in range(1, 11):
        run.publish(event(number), turns=10)
    flushes = count(run, "flushes")
    run.publish(event(11), event(12))
    assert (handle.feed.events, count(run, "flushes"), count(run, "selections")) == (0, flushes, 1)

    connection.make_room(None)
    run.loop.turns(50)
    run.publish(event(13))
    assert positions(connection) == list(range(1, 14))


def test_who_did_not_ask_for_it_is_ended(start: Callable[..., Run]) -> None:
    run = start(backlog_events=3)
    handle, connection = run.join(room=1, on_overflow="end")
    for number in range(1, 11):
        run.publish(event(number), turns=10)
    connection.make_room(None)
    run.loop.turns(10)

    assert (handle.state, handle.reason) == (State.CLOSED, Reason.OVERFLOW_EVENTS)
    assert positions(connection) == [1, 2, 3, 4]
    assert count(run, "fell_behind") == 0


def test_only_retention_overtakes_it_and_it_is_told(start: Callable[..., Run]) -> None:
    log = FakeLog()
    run = start(log, backlog_events=3, recent_events=2)
    _, connection = run.join(room=1)
    for number in range(1, 11):
        run.publish(event(number), turns=10)
    log.trim(7)
    connection.make_room(None)
    run.loop.turns(50)

    assert positions(connection) == [1, 7, 8, 9, 10]
    assert [found["reason"] for found in told(connection, "server.stream.expired")] == ["trimmed"]
    assert live(connection) == [4]


# --- what was sealed with it


def burst(run: Run, *, first: int = 1) -> None:
    """Publish three events of which each is a segment of its own: a flush takes one of them."""
    run.begin(*[event(number) for number in range(first, first + 3)])


@pytest.mark.parametrize("written", [0, 1, 2])
def test_what_was_sealed_before_it_fell_behind_does_not_come_a_second_time(
    start: Callable[..., Run], written: int
) -> None:
    """It reads faster than the flusher gets through a crowd: the log has given it what is still on its way."""
    run = start(segment_events=1, flush_slice=1)
    crowd = [run.join() for _ in range(4)]
    handle, connection = run.join()
    crowd += [run.join() for _ in range(4)]
    burst(run)
    while handle.sent_events < written or not any(one.sent_events for one, _ in crowd):
        run.loop.turn()
    handle.give_up(Reason.OVERFLOW_MEMORY)
    assert handle.is_stale
    run.loop.turns(10)
    assert positions(connection) == [1, 2, 3]
    while handle.is_behind:
        run.loop.advance(0.001)
    assert all(one.sent_events == 3 for one, _ in crowd)

    run.publish(event(4))
    assert positions(connection) == [1, 2, 3, 4]
    assert live(connection) == [3 - written]
    assert all(positions(one) == [1, 2, 3, 4] for _, one in crowd)


def test_it_waits_for_that_and_not_for_what_is_sealed_since(start: Callable[..., Run]) -> None:
    """With a publisher that never stops something is always on its way to those who are live."""
    run = start(segment_events=1, flush_slice=1)
    crowd = [run.join() for _ in range(6)]
    handle, connection = run.join()
    burst(run)
    run.loop.turns(2)
    handle.give_up(Reason.OVERFLOW_MEMORY)
    for round_ in range(1, 40):
        burst(run, first=10 * round_)
        run.loop.advance(0.01)
        run.loop.turns(10)
    state = handle.state
    run.loop.turns(2_000)

    assert state is State.LIVE
    assert positions(connection) == list(range(1, 121))
    assert all(positions(one) == list(range(1, 121)) for _, one in crowd)


# --- the budget


def hold(run: Run, selection: Selection, size: int, **changes: object) -> tuple[Subscriber, FakeConnection]:
    """Return a handle whose connection is full, with events of about `size` bytes waiting."""
    handle, connection = run.join(selection, **changes)  # type: ignore[arg-type]  # the keywords of `join`
    handle.pause()
    connection.room = 0
    run.publish(event(run.broker.head_position + 1, pad=size))
    return handle, connection


def test_over_the_budget_it_gives_its_backlog_back_and_misses_nothing(start: Callable[..., Run]) -> None:
    run = start(budget_bytes=50_000)
    most, connection = hold(run, GLOBAL, 30_000)
    less, _ = hold(run, NDJSON, 30_000, on_overflow="end")

    assert (most.state, most.queued_events, most.reason) == (State.CATCHING_UP, 0, None)
    assert (less.state, less.queued_events) == (State.LIVE, 1)
    assert run.broker.budget.held == less.queued_bytes
    connection.make_room(None)
    run.loop.turns(50)
    assert (positions(connection), most.state) == ([1, 2], State.LIVE)


def test_what_its_transport_holds_cannot_be_given_back(start: Callable[..., Run]) -> None:
    run = start(budget_bytes=50_000)
    handle, connection = run.join(room=1)
    run.publish(event(1, pad=WRITE_BYTES))

    assert (connection.ended, handle.reason) == ("reset", Reason.OVERFLOW_MEMORY)
    assert run.broker.budget.held == 0


def test_a_crowd_that_is_behind_gives_back_until_all_fits(start: Callable[..., Run]) -> None:
    run = start(budget_bytes=100_000)
    joined = [run.join(Selection(stream="global", types=frozenset(["*", f"{n}"]))) for n in range(20)]
    for handle, _ in joined:
        handle.pause()
    for number in range(1, 11):
        run.publish(event(number, pad=2_000))
    assert run.broker.budget.held <= 100_000
    assert {handle.state for handle, _ in joined} == {State.LIVE, State.CATCHING_UP}

    for handle, connection in joined:
        connection.make_room(None)
        run.loop.turns(20)
        assert (positions(connection), handle.state) == (list(range(1, 11)), State.LIVE)
    assert run.broker.budget.held == 0


# --- the end of an instance


def test_a_disposal_in_what_is_replayed_ends_the_stream_there(start: Callable[..., Run]) -> None:
    log = FakeLog()
    log.append_nowait([[event(1), disposal(2, "/srv/b"), event(3), disposal(4), event(5)]])
    run = start(log)
    (handle, connection), (_, other) = run.join(INSTANCE, after=0), run.join(after=0)
    run.loop.turns(20)

    assert positions(connection) == [1, 3, 4]
    assert (handle.state, handle.reason) == (State.CLOSED, Reason.DISPOSED)
    assert (connection.ended, connection.is_complete, live(connection)) == ("closed", True, [])
    assert positions(other) == [1, 2, 3, 4, 5]


def test_who_is_behind_when_its_instance_ends_reads_to_that_end(start: Callable[..., Run]) -> None:
    run = start(backlog_events=2)
    (handle, connection), (_, reads) = run.join(INSTANCE, room=1), run.join(INSTANCE)
    for number in range(1, 6):
        run.publish(event(number), turns=10)
    run.publish(disposal(6), event(7))
    assert (positions(reads), reads.ended) == ([1, 2, 3, 4, 5, 6], "closed")
    assert handle.state is State.CATCHING_UP

    connection.make_room(None)
    run.loop.turns(50)
    assert positions(connection) == [1, 2, 3, 4, 5, 6]
    assert (handle.state, handle.reason, connection.is_complete) == (State.CLOSED, Reason.DISPOSED, True)
    assert count(run, "selections") == 0


def test_who_missed_that_end_for_retention_comes_to_what_follows(start: Callable[..., Run]) -> None:
    log = FakeLog()
    run = start(log, backlog_events=2, recent_events=1)
    (handle, connection), (_, reads) = run.join(INSTANCE, room=1), run.join(INSTANCE)
    for number in range(1, 6):
        run.publish(event(number), turns=10)
    run.publish(disposal(6), event(7), event(8))
    log.trim(8)
    connection.make_room(None)
    run.loop.turns(50)
    assert (positions(connection), handle.state, reads.ended) == ([1, 8], State.LIVE, "closed")
    assert count(run, "selections") == 1
    run.loop.advance(10.0)
    run.loop.turns(5)
    assert types(connection)[-1] == "server.heartbeat"

    _, came = run.join(INSTANCE)
    run.publish(event(9))
    assert (positions(connection), positions(came)) == ([1, 8, 9], [9])
    assert count(run, "selections") == 1


@pytest.mark.parametrize("backlog_events", [1, 2, 3, 4])
def test_who_overflows_with_the_last_segments_of_its_instance_reads_to_that_end_too(
    start: Callable[..., Run], backlog_events: int
) -> None:
    run = start(backlog_events=backlog_events)
    (handle, connection), (_, reads) = run.join(INSTANCE, room=1), run.join(INSTANCE)
    run.publish(event(1))
    with capture_logs() as lines:
        run.publish(event(2), event(3), event(4), disposal(5), event(6))
        connection.make_room(None)
        run.loop.turns(50)

    assert positions(connection) == positions(reads) == [1, 2, 3, 4, 5]
    assert (handle.state, handle.reason, connection.is_complete) == (State.CLOSED, Reason.DISPOSED, True)
    assert {line["event"] for line in lines} == {"subscriber.closed"}
    assert count(run, "selections") == 0


def test_who_falls_behind_before_the_end_is_written_reads_to_it(start: Callable[..., Run]) -> None:
    run = start(flush_slice=1)
    (_, first), (handle, connection) = run.join(INSTANCE), run.join(INSTANCE)
    run.begin(event(1), disposal(2), event(3))
    while not first.writes:
        run.loop.turn()
    assert not connection.writes
    with capture_logs() as lines:
        handle.give_up(Reason.OVERFLOW_MEMORY)
        run.loop.turns(50)

    assert (positions(connection), handle.reason, connection.is_complete) == ([1, 2], Reason.DISPOSED, True)
    assert {line["event"] for line in lines} == {"subscriber.closed"}
    assert count(run, "selections") == 0


def test_who_fell_behind_before_the_end_and_missed_it_is_live_with_those_who_came_since(
    start: Callable[..., Run],
) -> None:
    """And not before what was sealed with it is out, the end among it."""
    log = FakeLog()
    run = start(log, flush_slice=1, recent_events=1)
    (_, first), *crowd, (handle, connection) = (run.join(INSTANCE) for _ in range(40))
    run.begin(event(1), disposal(2), event(3), event(4))
    while not first.writes:
        run.loop.turn()
    handle.pause()
    handle.give_up(Reason.OVERFLOW_MEMORY)
    _, came = run.join(INSTANCE)
    log.trim(4)
    connection.make_room(None)
    run.loop.turns(20)
    assert (positions(connection), handle.state) == ([4], State.CATCHING_UP)
    run.loop.turns(50)
    assert all(one.ended == "closed" for _, one in crowd)
    run.loop.advance(0.01)
    run.publish(event(5))

    assert (positions(connection), positions(came)) == ([4, 5], [5])
    assert types(connection) == ["server.stream.expired", "session.idle", "server.stream.live", "session.idle"]
    assert count(run, "selections") == 1
    assert run.broker.statistics()["subscribers_by_state"] == {"live": 2}
