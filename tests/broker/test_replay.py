"""Pages of the log to those who are behind, and how they come to be live: no gap, nothing twice, nobody in the way."""

import itertools
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.replay import RETRY_S
from opencode_events.broker.selection import Selection
from opencode_events.errors import LogUnavailable
from tests.broker.brokers import live, log_of, messages, positions, told, types
from tests.broker.fakes import EPOCH, GLOBAL
from tests.broker.stepped import Run
from tests.samples import event

NDJSON = Selection(stream="global", form="ndjson")
QUIET = Selection(stream="global", types=frozenset(["nothing"]))


# --- to the head


def test_it_pages_from_its_place_to_the_head_and_is_live(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log, replay_events=3, recent_events=1)
    handle, connection = run.join(after=2)
    run.loop.turns(50)
    assert positions(connection) == [3, 4, 5, 6, 7, 8, 9]
    assert log.trace == ["read 2-9", "read 5-9", "read 8-9"]
    assert (handle.state, handle.position) == (State.LIVE, 9)

    run.publish(event(10))
    assert positions(connection) == list(range(3, 11))
    assert live(connection) == [7]
    assert types(connection)[7] == "server.stream.live"


def test_at_the_head_there_is_nothing_to_read(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    handle, connection = run.join(after=9)
    run.loop.turns(10)

    assert (log.trace, types(connection), live(connection)) == ([], ["server.stream.live"], [0])
    assert handle.state is State.LIVE


def test_what_memory_has_is_not_read_from_the_log(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log, recent_events=3)
    run.publish(*[event(number) for number in range(5, 9)])
    log.trace.clear()
    _, near = run.join(after=5)
    _, far = run.join(after=3)
    run.loop.turns(20)

    assert (positions(near), positions(far)) == ([6, 7, 8], [4, 5, 6, 7, 8])
    assert log.trace == ["read 3-8"]


def test_a_head_that_moves_while_a_page_is_read_is_come_to_all_the_same(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log, recent_events=1)
    log.read_gate.clear()
    _, connection = run.join(after=0)
    run.loop.turns(3)
    for number in range(5, 9):
        run.publish(event(number), turns=5)
    assert positions(connection) == []

    log.read_gate.set()
    run.loop.turns(50)
    assert positions(connection) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert log.trace[0] == "read 0-4"


def test_what_is_stored_and_not_fanned_out_yet_is_not_read(start: Callable[..., Run]) -> None:
    """It comes live: who read it too would have it twice."""
    log = log_of(4)
    run = start(log)
    log.append_nowait([[event(5), event(6)]])
    _, connection = run.join(after=2)
    run.loop.turns(20)

    assert log.trace[-1] == "read 2-4"
    assert positions(connection) == [3, 4]
    assert len(live(connection)) == 1


@pytest.mark.parametrize("selection", [GLOBAL, Selection(stream="global", types=frozenset(["session.*"]))])
@pytest.mark.parametrize("rate", [1, 3])
@pytest.mark.parametrize("recent_events", [1, 1_000])
def test_it_is_live_in_the_end_though_somebody_publishes_in_every_turn(
    start: Callable[..., Run], selection: Selection, rate: int, recent_events: int
) -> None:
    log = log_of(40)
    run = start(log, replay_events=100, recent_events=recent_events, flush_slice=2, segment_events=2)
    joined = [run.join(selection, after=place) for place in (0, 0, 0, 17, 39, 40)]
    for number in range(100):
        for each in range(rate):
            run.begin(event(1_000 + rate * number + each))
        run.loop.turn()
    states = [handle.state for handle, _ in joined]
    run.loop.turns(500)

    assert states == [State.LIVE] * 6
    head = 40 + 100 * rate
    for (_, connection), after in zip(joined, (0, 0, 0, 17, 39, 40), strict=True):
        assert positions(connection) == list(range(after + 1, head + 1))
        assert len(live(connection)) == 1


def test_a_filter_that_nothing_matches_costs_no_byte_until_it_is_live(start: Callable[..., Run]) -> None:
    run = start(log_of(2_000), replay_events=3)
    handle, connection = run.join(QUIET, after=0)
    run.loop.turns(20)

    assert (types(connection), handle.position, handle.state) == (["server.stream.live"], 2_000, State.LIVE)


# --- together


def test_who_wants_the_same_page_shares_one_read_and_one_segment(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log)
    joined = [run.join(after=1) for _ in range(5)]
    for handle, _ in joined:
        handle.pause()
    run.loop.turns(20)

    assert log.trace == ["read 1-4"]
    assert run.broker.budget.held == joined[0][0].queued_bytes > 0
    assert run.broker.statistics()["replay_pages"] == 1
    assert run.broker.statistics()["replayed_events"] == 15
    for _, connection in joined:
        connection.make_room(None)
        assert positions(connection) == [2, 3, 4]


def test_who_wants_another_format_or_begins_elsewhere_has_pages_of_its_own(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log)
    run.join(after=1)
    run.join(NDJSON, after=1)
    run.join(after=2)
    run.loop.turns(20)

    assert log.trace == ["read 1-4", "read 1-4", "read 2-4"]


def test_no_more_than_one_page_is_made_in_a_turn_whoever_waits(start: Callable[..., Run]) -> None:
    run = start(log_of(50), replay_events=1)
    for place in range(50):
        run.join(after=place)
    made = []
    for _ in range(60):
        before = run.broker.statistics()["replay_pages"]
        run.loop.turn()
        made.append(run.broker.statistics()["replay_pages"] - before)  # type: ignore[operator]

    assert max(made) == 1
    assert sum(made) >= 15


def test_a_page_goes_to_some_in_each_turn(start: Callable[..., Run]) -> None:
    # A quarter of a slice is the share of those who are behind.
    run = start(log_of(4), flush_slice=8)
    joined = [run.join(after=0) for _ in range(6)]
    given = []
    for _ in range(12):
        run.loop.turn()
        given.append(sum(bool(connection.writes) for _, connection in joined))

    assert set(given) >= {2, 4, 6}
    assert max(after - before for before, after in itertools.pairwise(given)) == 2


def test_who_is_slow_keeps_nobody_waiting_and_holds_a_page(start: Callable[..., Run]) -> None:
    run = start(log_of(100), replay_events=4)
    slow, stalled = run.join(after=0, room=1)
    reads, connection = run.join(after=0)
    run.loop.turns(200)

    assert (reads.state, len(positions(connection))) == (State.LIVE, 100)
    assert (slow.state, positions(stalled)) == (State.REPLAYING, [1, 2, 3, 4])
    most = 0
    while slow.is_behind:
        stalled.make_room(1)
        run.loop.turns(5)
        most = max(most, slow.queued_events)
    assert most <= 4
    assert positions(stalled) == list(range(1, 101))


# --- what fails


def test_a_page_that_cannot_be_read_is_tried_again_and_others_go_on(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log, recent_events=2)
    run.publish(event(5), event(6))
    log.read_error = LogUnavailable("locked")
    _, waits = run.join(after=1)
    _, near = run.join(after=4)
    with capture_logs() as lines:
        run.loop.turns(20)
        assert (positions(waits), positions(near)) == ([], [5, 6])
        run.loop.advance(RETRY_S * 0.9)
        run.loop.turns(20)
    assert [(line["event"], line["log_level"], line["reason"], line["subscribers"]) for line in lines] == [
        ("replay.delayed", "warning", "locked", 1)
    ]

    log.read_error = None
    run.loop.advance(RETRY_S * 0.1)
    run.loop.turns(20)
    assert positions(waits) == [2, 3, 4, 5, 6]
    assert len(live(waits)) == 1


@pytest.mark.parametrize("is_read", [True, False], ids=["until it is read", "until who waited has gone"])
def test_a_page_that_cannot_be_read_is_trouble_and_told_once(start: Callable[..., Run], is_read: bool) -> None:
    log = log_of(4)
    run = start(log)
    log.read_error = LogUnavailable("disk I/O error")
    handle, connection = run.join(after=1)
    with capture_logs() as lines:
        for _ in range(5):
            run.loop.advance(RETRY_S)
            run.loop.turns(10)
        assert run.broker.trouble == "the event log cannot be read: disk I/O error"
        assert [line["event"] for line in lines] == ["replay.delayed"]

        if is_read:
            log.read_error = None
        else:
            handle.lost(Reason.CLIENT_RESET)
        run.loop.advance(RETRY_S)
        run.loop.turns(10)
    assert run.broker.trouble is None
    assert positions(connection) == ([2, 3, 4] if is_read else [])


def test_who_goes_while_a_page_is_read_is_missed_by_nobody(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log)
    log.read_gate.clear()
    (gone, first), (closed, second), (_, third) = (run.join(after=0) for _ in range(3))
    run.loop.turns(3)
    gone.lost(Reason.CLIENT_RESET)
    closed.close(Reason.OPERATOR)
    log.read_gate.set()
    run.loop.turns(20)

    assert (first.received, types(second)) == (b"", ["server.stream.closing"])
    assert positions(third) == [1, 2, 3, 4]


def test_who_went_before_its_page_is_read_costs_no_read(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log)
    handle, _ = run.join(after=0)
    handle.lost(Reason.CLIENT_RESET)
    run.loop.turns(20)

    assert log.trace == []


def test_one_that_fails_ends_and_those_who_share_its_page_do_not_notice(start: Callable[..., Run]) -> None:
    run = start(log_of(4))
    joined = [run.join(after=0) for _ in range(3)]
    joined[1][1].fails = RuntimeError("broken")
    with capture_logs() as lines:
        run.loop.turns(20)

    assert [positions(connection) for _, connection in joined] == [[1, 2, 3, 4], [], [1, 2, 3, 4]]
    assert joined[1][0].state is State.CLOSED
    failures = [line for line in lines if line["event"] == "subscriber.failed"]
    assert [(line["log_level"], line["error"]) for line in failures] == [("error", "RuntimeError('broken')")]


def test_one_that_fails_when_it_is_told_that_it_is_live_is_in_no_feed(start: Callable[..., Run]) -> None:
    run = start(log_of(4))
    (bad, connection), (_, other) = run.join(after=4), run.join(after=4)
    connection.fails = RuntimeError("broken")
    with capture_logs():
        run.publish(event(5))

    assert (bad.state, connection.received) == (State.CLOSED, b"")
    assert positions(other) == [5]


def test_one_that_fails_at_its_heartbeat_is_the_only_one(start: Callable[..., Run]) -> None:
    log = log_of(4)
    run = start(log)
    log.read_gate.clear()
    joined = [run.join(after=0) for _ in range(3)]
    joined[1][1].fails = RuntimeError("broken")
    with capture_logs():
        run.loop.turns(3)
        run.loop.advance(10.0)
        run.loop.turns(3)

    assert [types(connection) for _, connection in joined] == [["server.heartbeat"], [], ["server.heartbeat"]]
    assert joined[1][0].state is State.CLOSED


def test_who_closes_while_others_are_made_live_is_left_to_close(start: Callable[..., Run]) -> None:
    """They are made live some in a turn."""
    run = start(log_of(4), flush_slice=1)
    joined = [run.join(after=4) for _ in range(4)]
    while joined[0][0].is_behind:
        run.loop.turn()
    assert joined[3][0].is_behind
    with capture_logs() as lines:
        joined[2][0].lost(Reason.CLIENT_RESET)
        joined[3][0].close(Reason.OPERATOR)
        run.loop.turns(20)

    assert [line["event"] for line in lines] == ["subscriber.closed"] * 2
    assert types(joined[3][1]) == ["server.stream.closing"]
    assert joined[3][1].is_complete
    assert [handle.state for handle, _ in joined[:2]] == [State.LIVE] * 2


# --- retention


def test_who_is_overtaken_by_retention_is_told_and_goes_on_with_the_oldest(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log, replay_events=3)
    _, connection = run.join(after=0, room=1)
    run.loop.turns(5)
    log.trim(7)
    connection.make_room(None)
    run.loop.turns(20)

    assert types(connection) == [
        *["session.idle"] * 3, "server.stream.expired", *["session.idle"] * 3, "server.stream.live",
    ]  # fmt: skip
    assert positions(connection) == [1, 2, 3, 7, 8, 9]
    assert told(connection, "server.stream.expired") == [
        {"requested": f"{EPOCH}-3", "oldest": f"{EPOCH}-7", "newest": f"{EPOCH}-9", "reason": "trimmed"}
    ]
    assert live(connection) == [6]


def test_who_has_read_up_to_the_oldest_is_not_told(start: Callable[..., Run]) -> None:
    log = log_of(9)
    log.trim(7)
    run = start(log)
    _, connection = run.join(after=6)
    run.loop.turns(20)

    assert types(connection) == [*["session.idle"] * 3, "server.stream.live"]


def test_where_nothing_is_left_it_is_live_at_the_head(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    log.trim(10)
    handle, connection = run.join(after=4)
    run.loop.turns(20)

    assert types(connection) == ["server.stream.expired", "server.stream.live"]
    assert told(connection, "server.stream.expired")[0]["oldest"] == f"{EPOCH}-9"
    assert (handle.state, handle.position) == (State.LIVE, 9)


def test_what_was_trimmed_before_it_was_fanned_out_still_comes_live(start: Callable[..., Run]) -> None:
    """Another process may trim between a commit and the end of its fan-out."""
    log = log_of(9)
    run = start(log)
    log.trim(15)
    handle, connection = run.join(after=4)
    run.loop.turns(20)
    assert (handle.state, handle.position) == (State.LIVE, 9)

    run.publish(event(10))
    assert positions(connection) == [10]


# --- heartbeats


def test_a_heartbeat_of_one_that_is_behind_carries_its_place_and_that_of_one_that_is_live_the_head(
    start: Callable[..., Run],
) -> None:
    log = log_of(9)
    run = start(log, replay_events=3, heartbeat_s=10.0)
    _, behind = run.join(after=0, room=1)
    run.loop.turns(5)
    log.read_gate.clear()
    _, waits = run.join(after=4)
    _, current = run.join()
    run.loop.advance(10.0)
    run.loop.turns(5)

    assert [(types(one), messages(one)[-1].last_event_id) for one in (waits, current)] == [
        (["server.heartbeat"], f"{EPOCH}-4"), (["server.heartbeat"], f"{EPOCH}-9"),
    ]  # fmt: skip
    assert types(behind) == ["session.idle"] * 3
    log.read_gate.set()
    run.loop.turns(20)
    assert positions(waits) == [5, 6, 7, 8, 9]
