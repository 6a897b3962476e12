"""Coming back: where a subscriber starts that was there before, what of it counts, and that nobody is forgotten."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.report import report
from opencode_events.broker.selection import Selection
from opencode_events.errors import Busy, LogUnavailable
from opencode_events.eventlog.base import SyncRow
from tests.broker.brokers import live, log_of, positions, told, types
from tests.broker.fakes import EPOCH, GLOBAL, INSTANCE, FakeLog, terms
from tests.broker.stepped import Run
from tests.samples import event, twin

# --- where


@pytest.mark.parametrize(
    ("after", "follow"),
    [(9, []), (8, [9]), (4, [5, 6, 7, 8, 9]), (3, [4, 5, 6, 7, 8, 9])],
    ids=["the head", "one before", "in between", "the oldest"],
)
def test_one_that_resumes_gets_all_that_follows_and_then_what_is_live(
    start: Callable[..., Run], after: int, follow: list[int]
) -> None:
    log = log_of(9)
    log.trim(4)
    run = start(log)
    handle, connection = run.join(after=after)
    assert handle.state is State.REPLAYING
    run.publish(event(10))

    assert positions(connection) == [*follow, 10]
    assert (handle.state, told(connection, "server.stream.expired")) == (State.LIVE, [])


def test_one_before_the_oldest_is_told_that_it_missed_something(start: Callable[..., Run]) -> None:
    log = log_of(9)
    log.trim(4)
    run = start(log)
    _, connection = run.join(after=2)
    run.loop.turns(20)

    assert positions(connection) == [4, 5, 6, 7, 8, 9]
    (expired,) = told(connection, "server.stream.expired")
    assert (expired["requested"], expired["oldest"]) == (f"{EPOCH}-2", f"{EPOCH}-4")


def test_one_before_the_oldest_goes_on_at_the_head_where_that_is_wanted(start: Callable[..., Run]) -> None:
    log = log_of(9)
    log.trim(4)
    run = start(log, on_expired="head")
    handle, connection = run.join(after=2)
    run.publish(event(10))

    assert positions(connection) == [10]
    assert handle.state is State.LIVE
    (expired,) = told(connection, "server.stream.expired")
    assert (expired["requested"], expired["oldest"], expired["newest"]) == (f"{EPOCH}-2", f"{EPOCH}-4", f"{EPOCH}-9")


def test_a_fresh_one_is_never_told_that_it_is_live(start: Callable[..., Run]) -> None:
    run = start(log_of(9))
    handle, connection = run.join()
    run.publish(event(10))

    assert (handle.position, types(connection)) == (10, ["session.idle"])


def test_every_filter_holds_for_what_is_replayed_as_for_what_is_live(start: Callable[..., Run]) -> None:
    log = FakeLog()
    found = [event(1), twin(1), event(2, directory="/srv/b"), event(3, session="ses_2"), event(4, "message.updated")]
    log.append_nowait([found])
    run = start(log)
    selections = [
        GLOBAL,
        Selection(stream="global", sync="none"),
        Selection(stream="global", sync="only"),
        Selection(stream="global", sessions=frozenset(["ses_2"])),
        Selection(stream="global", types=frozenset(["message.*"])),
        INSTANCE,
        Selection(stream="instance", directory="/srv/a", types=frozenset(["session.*"])),
        Selection(stream="instance", directory="global"),
    ]
    joined = [run.join(selection, after=0)[1] for selection in selections]
    run.loop.turns(100)
    replayed = [positions(connection) for connection in joined]
    run.publish(*[one._replace(id=f"{one.id}_again") for one in found])

    assert replayed == [[1, 2, 3, 4, 5], [1, 3, 4, 5], [2], [4], [5], [1, 4, 5], [1, 4], []]
    for connection, before in zip(joined, replayed, strict=True):
        assert positions(connection) == [*before, *[position + 5 for position in before]]


def test_two_of_one_client_that_overlap_have_each_its_own_place(start: Callable[..., Run]) -> None:
    run = start(log_of(9), replay_events=2)
    (_, first), (_, second) = run.join(after=2), run.join(after=6)
    run.publish(event(10))

    assert (positions(first), positions(second)) == ([3, 4, 5, 6, 7, 8, 9, 10], [7, 8, 9, 10])


def test_one_that_leaves_its_head_waiting_is_replayed_to_when_it_comes(start: Callable[..., Run]) -> None:
    run = start(log := log_of(9))
    handle = run.broker.subscribe(GLOBAL, terms(), 4)
    run.publish(event(10))
    assert (handle.queued_events, run.broker.budget.held) == (0, 0)
    assert "read 4-9" not in log.trace

    _, connection = run.join(after=4)
    connection.attach_to(handle)
    run.loop.turns(20)
    assert handle.state is State.LIVE


# --- what counts


def test_the_line_at_its_beginning_tells_how_much_there_is_to_replay(start: Callable[..., Run]) -> None:
    run = start(log_of(9))
    with capture_logs() as lines:
        run.join(after=2)
        run.join(after=9)
        run.join()

    assert [(line["event"], line["replays"]) for line in lines] == [
        ("subscriber.opened", 7), ("subscriber.opened", 0), ("subscriber.opened", 0),
    ]  # fmt: skip


def test_statistics_count_who_is_behind_and_what_was_read(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log, replay_events=4)
    log.read_gate.clear()
    run.join(after=0)
    run.join(after=0)
    run.join()
    run.loop.turns(5)
    assert run.broker.statistics()["subscribers_by_state"] == {"replaying": 2, "live": 1}

    log.read_gate.set()
    run.loop.turns(50)
    found = run.broker.statistics()
    assert (found["subscribers_by_state"], found["caught_up"], found["fell_behind"]) == ({"live": 3}, 2, 0)
    assert (found["replay_pages"], found["replayed_events"]) == (3, 18)


def test_reports_tell_how_far_behind_each_is(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    log.read_gate.clear()
    run.join(after=2)
    run.join()
    run.loop.turns(5)

    reports = [report(one, run.broker) for one in run.broker.subscribers.values()]
    assert [(one["state"], one["cursor"], one["lag_events"]) for one in reports] == [
        ("replaying", f"{EPOCH}-2", 7), ("live", f"{EPOCH}-9", 0),
    ]  # fmt: skip


def test_those_who_replay_count_among_subscribers_and_selections(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log, max_selections=2, max_subscribers=3)
    log.read_gate.clear()
    (first, _), (second, _) = run.join(after=0), run.join(INSTANCE, after=0)
    run.loop.turns(5)
    with pytest.raises(Busy, match="max_selections"):
        run.join(Selection(stream="global", form="ndjson"))
    run.join(INSTANCE)
    with pytest.raises(Busy, match="max_subscribers"):
        run.join(after=3)

    first.lost(Reason.CLIENT_RESET)
    run.join(Selection(stream="global", form="ndjson"), after=1)
    second.lost(Reason.CLIENT_RESET)
    assert run.broker.statistics()["selections"] == 2


def test_a_thousand_that_die_while_they_replay_leave_nothing(start: Callable[..., Run]) -> None:
    run = start(log_of(9), replay_events=2)
    with capture_logs() as lines:
        for number in range(1_000):
            handle, _ = run.join(INSTANCE if number % 2 else GLOBAL, after=number % 9, room=1 if number % 3 else None)
            run.loop.turns(number % 5)
            handle.lost(Reason.CLIENT_RESET)
        run.loop.turns(100)

    assert run.broker.subscribers == {}
    assert run.broker.statistics()["selections"] == 0
    assert run.broker.budget.held == 0
    assert {line["event"] for line in lines} == {"subscriber.opened", "subscriber.closed"}


# --- sending everybody home


def test_a_drain_tells_those_who_replay_where_to_resume(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log, replay_events=3)
    _, stalled = run.join(after=0, room=1)
    run.loop.turns(5)
    log.read_gate.clear()
    _, waits = run.join(after=4)
    unattached = run.broker.subscribe(GLOBAL, terms(), 7)
    run.loop.turns(5)
    draining = run.loop.create_task(run.broker.drain(1.0))
    run.loop.turns(10)
    assert [frame["cursor"] for frame in told(waits, "server.stream.closing")] == [f"{EPOCH}-4"]
    assert waits.is_complete

    log.read_gate.set()
    stalled.make_room(None)
    run.loop.turns(10)
    assert positions(stalled) == [1, 2, 3]
    assert [frame["cursor"] for frame in told(stalled, "server.stream.closing")] == [f"{EPOCH}-3"]
    run.loop.advance(1.0)
    run.loop.turns(10)
    assert draining.done()
    assert (unattached.state, unattached.reason, run.broker.subscribers) == (State.CLOSED, Reason.SHUTDOWN, {})


def test_an_operator_may_end_one_that_replays(start: Callable[..., Run]) -> None:
    run = start(log_of(9), replay_events=3)
    handle, connection = run.join(after=0, room=1)
    run.loop.turns(5)
    handle.close(Reason.OPERATOR)
    connection.make_room(None)
    run.loop.turns(5)

    assert positions(connection) == [1, 2, 3]
    assert types(connection)[-1] == "server.stream.closing"
    assert (handle.state, handle.reason, live(connection)) == (State.CLOSED, Reason.OPERATOR, [])


# --- what can be asked


def test_the_oldest_is_the_log_s_and_behind_the_head_where_there_is_none(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    assert run.broker.oldest_position == 1
    log.trim(4)
    assert run.broker.oldest_position == 4
    log.trim(10)
    assert (run.broker.oldest_position, run.broker.head_position) == (10, 9)


def test_the_oldest_is_never_beyond_what_was_fanned_out(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    log.trim(20)

    assert run.broker.oldest_position == 10


def test_trouble_is_the_log_s_until_a_commit_or_its_upkeep_says_otherwise(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    assert run.broker.trouble is None
    log.error = LogUnavailable("disk full")
    with capture_logs() as lines:
        run.loop.advance(1.0)
        run.loop.turns(5)
        assert run.broker.trouble == "disk full"
        log.error = None
        run.loop.advance(1.0)
        run.loop.turns(5)

    assert run.broker.trouble is None
    assert [line["event"] for line in lines] == ["eventlog.upkeep_failed", "eventlog.recovered"]


def test_live_streams_and_replays_go_on_while_nothing_can_be_stored(start: Callable[..., Run]) -> None:
    log = log_of(9)
    run = start(log)
    _, current = run.join()
    log.error = LogUnavailable("disk full")
    with capture_logs(), pytest.raises(LogUnavailable):
        run.publish(event(10))
    _, connection = run.join(after=5)
    run.loop.advance(10.0)
    run.loop.turns(20)

    assert types(current) == ["server.heartbeat"]
    assert positions(connection) == [6, 7, 8, 9]


def test_a_broker_that_drains_is_in_trouble_by_its_own_will(start: Callable[..., Run]) -> None:
    run = start()
    _ = run.loop.create_task(run.broker.drain(0))
    run.loop.turns(5)

    assert run.broker.trouble == "the daemon is shutting down"


class Historian(FakeLog):
    """Has one row behind what is known."""

    async def history(self, known: Mapping[str, int]) -> AsyncIterator[Sequence[SyncRow]]:
        yield [SyncRow("evt_1", aggregate, seq + 1, "a.1", b"{}") for aggregate, seq in known.items()]


def test_the_history_is_the_log_s(start: Callable[..., Run]) -> None:
    run = start(Historian())

    async def pages() -> list[Sequence[SyncRow]]:
        return [page async for page in run.broker.history({"ses_1": 4})]

    assert run.loop.run_until_complete(pages()) == [[SyncRow("evt_1", "ses_1", 5, "a.1", b"{}")]]
