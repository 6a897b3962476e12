"""The log's own work between commits, and what one publisher's mistake is to the others."""

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.committer import UPKEEP_EVENTS
from opencode_events.errors import LogUnavailable, OutOfSequence
from opencode_events.eventlog.base import Aggregate
from tests.broker.brokers import turns
from tests.broker.desk import Desk
from tests.broker.stepped import SteppedLoop


def steps(desk: Desk) -> list[str]:
    """Return what the log was asked, in order, by its first word."""
    return [line.split()[0] for line in desk.trace if line.startswith(("append", "maintain", "learn"))]


# --- the log's own work


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A desk on a loop turned by hand; a step of its log's own work takes as long as `upkeep_gate` is shut."""
    loop = SteppedLoop()
    desk = Desk(loop=loop)
    desk.log.gate.set()
    running = loop.create_task(desk.committer.run())
    loop.turn()
    yield desk
    assert not running.done()
    loop.end()


def turn(desk: Desk, count: int = 10) -> None:
    assert isinstance(desk.loop, SteppedLoop)
    desk.loop.turns(count)


def advance(desk: Desk, seconds: float) -> None:
    assert isinstance(desk.loop, SteppedLoop)
    desk.loop.advance(seconds)
    turn(desk)


def step(desk: Desk, took_s: float) -> None:
    """Have the log do a step that takes some time and is the last but one."""
    desk.log.upkeep = [True, False]
    desk.log.upkeep_gate.clear()
    desk.committer.look_after_log()
    turn(desk)
    advance(desk, took_s)
    desk.log.upkeep_gate.set()
    turn(desk)
    assert steps(desk) == ["maintain"]


def test_a_log_that_nobody_writes_to_is_looked_after_until_it_has_nothing_to_do(desk: Desk) -> None:
    desk.log.upkeep = [True, True, False]
    desk.committer.look_after_log()
    for _ in range(5):
        advance(desk, 0.001)
    assert desk.trace == ["maintain"] * 3

    desk.committer.look_after_log()
    turn(desk)
    assert desk.trace == ["maintain"] * 4


def test_looking_after_it_twice_in_a_turn_is_one_step(desk: Desk) -> None:
    desk.committer.look_after_log()
    desk.committer.look_after_log()
    turn(desk)

    assert desk.trace == ["maintain"]


def test_after_a_step_publishers_have_the_log_for_twice_as_long_and_on_the_loop(desk: Desk) -> None:
    step(desk, 0.010)
    for number in range(5):
        publishing = desk.publishing(number)
        turn(desk)
        assert publishing.done()
    advance(desk, 0.019)
    assert steps(desk) == ["maintain"] + ["append_nowait"] * 5

    advance(desk, 0.001)
    assert steps(desk)[6:] == ["maintain"]


def test_who_publishes_without_end_does_not_put_the_next_step_off_for_ever(desk: Desk) -> None:
    step(desk, 10.0)
    for number in range(UPKEEP_EVENTS - 1):
        _ = desk.publishing(number)
        turn(desk, 3)
    assert steps(desk).count("maintain") == 1

    _ = desk.publishing(UPKEEP_EVENTS)
    turn(desk)
    assert steps(desk).count("maintain") == 2


def test_who_publishes_during_a_step_waits_for_its_end_and_comes_before_the_next(desk: Desk) -> None:
    desk.log.upkeep = [True, True, False]
    desk.log.upkeep_gate.clear()
    desk.committer.look_after_log()
    turn(desk)
    publishing = [desk.publishing(number) for number in (1, 2)]
    turn(desk)
    assert desk.trace == ["maintain"]

    desk.log.upkeep_gate.set()
    turn(desk)
    advance(desk, 0.001)
    assert [one.result().first for one in publishing] == [1, 2]
    assert steps(desk)[:3] == ["maintain", "append", "maintain"]


def test_work_that_comes_up_during_a_commit_waits_for_its_end(desk: Desk) -> None:
    """There is one writer: a step may begin only when the commit before it is over."""
    desk.log.is_slow = True
    desk.log.gate.clear()
    publishing = desk.publishing(1)
    turn(desk)
    desk.committer.look_after_log()
    turn(desk)
    assert desk.trace == []

    desk.log.gate.set()
    turn(desk)
    assert publishing.done()
    assert steps(desk) == ["append", "maintain"]


def test_steps_and_large_commits_take_turns(desk: Desk) -> None:
    desk.log.is_slow = True
    desk.log.upkeep = [True] * 1_000
    desk.committer.look_after_log()
    turn(desk)
    publishing = [desk.publishing(*range(UPKEEP_EVENTS * each, UPKEEP_EVENTS * (each + 1))) for each in range(4)]
    for number in range(10_000, 10_004):
        turn(desk, 200)
        _ = desk.publishing(number)
    assert all(one.done() for one in publishing)

    found = steps(desk)
    assert [pair for pair in itertools.pairwise(found) if pair == ("append", "append")] == []


# --- what the log learns


PLACES = {"ses_1": Aggregate(5)}


def learning(desk: Desk) -> "asyncio.Task[None]":
    return desk.loop.create_task(desk.committer.learn(PLACES))


def test_what_is_learned_is_told_when_it_is_in_the_log(desk: Desk) -> None:
    desk.log.learn_gate.clear()
    one = learning(desk)
    turn(desk)
    assert not one.done()

    desk.log.learn_gate.set()
    turn(desk)
    assert one.done()
    assert desk.log.places == PLACES
    publishing = desk.publishing(1)
    turn(desk)
    assert publishing.done()
    assert steps(desk) == ["learn", "append_nowait"]


def test_it_is_learned_between_two_commits(desk: Desk) -> None:
    """There is one writer: who publishes meanwhile waits, and who began before is done first."""
    desk.log.is_slow = True
    desk.log.gate.clear()
    first = desk.publishing(1)
    turn(desk)
    one = learning(desk)
    turn(desk)
    assert steps(desk) == []

    desk.log.learn_gate.clear()
    desk.log.gate.set()
    turn(desk)
    assert first.done()
    second = desk.publishing(2)
    desk.committer.look_after_log()
    turn(desk)
    assert steps(desk) == ["append", "learn"]
    assert not one.done()
    assert not second.done()

    desk.log.learn_gate.set()
    turn(desk)
    assert one.done()
    assert second.done()
    assert sorted(steps(desk)[2:]) == ["append", "maintain"]


def test_in_the_turn_of_a_commit_it_waits_for_the_next(desk: Desk) -> None:
    publishing, one = desk.publishing(1), learning(desk)
    turn(desk)

    assert publishing.done()
    assert one.done()
    assert steps(desk) == ["append_nowait", "learn"]


def test_two_who_teach_are_told_each_for_himself(desk: Desk) -> None:
    ones = [learning(desk), learning(desk)]
    ones[0].cancel()
    turn(desk)
    assert [one.done() for one in ones] == [True, True]
    assert ones[1].exception() is None

    desk.log.learn_gate.clear()
    late = learning(desk)
    turn(desk)
    late.cancel()
    turn(desk)
    desk.log.learn_gate.set()
    turn(desk)
    publishing = desk.publishing(1)
    turn(desk)
    assert publishing.done()


def test_a_log_that_cannot_learn_is_in_trouble_until_something_works(desk: Desk) -> None:
    desk.log.error = LogUnavailable("no room")
    with capture_logs() as logs:
        one, another = learning(desk), learning(desk)
        turn(desk, 1)
        another.cancel()
        turn(desk)
    assert isinstance(one.exception(), LogUnavailable)
    assert desk.committer.trouble == "no room"
    assert logs == [{"event": "eventlog.failed", "log_level": "error", "reason": "no room"}]

    desk.log.error = None
    one = learning(desk)
    turn(desk)
    assert one.exception() is None
    assert desk.committer.trouble is None


# --- trouble


async def test_a_step_that_fails_is_trouble_and_one_that_works_ends_it() -> None:
    desk = Desk()
    desk.log.error = LogUnavailable("disk full")
    with capture_logs() as lines:
        async with desk.running():
            for trouble in ("disk full", "disk full"):
                desk.committer.look_after_log()
                await turns()
                assert desk.committer.trouble == trouble
            desk.log.error = None
            desk.committer.look_after_log()
            await turns()
            assert desk.committer.trouble is None

    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("eventlog.upkeep_failed", "disk full"), ("eventlog.recovered", None),
    ]  # fmt: skip


async def test_a_step_that_fails_is_not_tried_again_at_once_and_keeps_nobody_waiting() -> None:
    desk = Desk()
    desk.log.gate.set()
    desk.log.error = LogUnavailable("disk full")
    desk.log.upkeep_gate.clear()
    with capture_logs():
        async with desk.running():
            desk.committer.look_after_log()
            await turns()
            publishing = desk.publishing(1)
            await turns()
            desk.log.upkeep_gate.set()
            with pytest.raises(LogUnavailable):
                await publishing
            desk.log.error = None
            await turns()
            await desk.publish(2)
            assert steps(desk) == ["maintain", "append", "append_nowait"]
            assert desk.committer.trouble == "disk full"  # a commit tells nothing of the log's own work
            desk.committer.look_after_log()
            await turns()

    assert desk.committer.trouble is None


async def test_a_publisher_s_failure_is_trouble_until_a_step_works() -> None:
    desk = Desk()
    desk.log.error = LogUnavailable("locked")
    with capture_logs():
        async with desk.running():
            with pytest.raises(LogUnavailable):
                await desk.publish(1)
            assert desk.committer.trouble == "locked"
            desk.log.error = None
            desk.committer.look_after_log()
            await turns()

    assert desk.committer.trouble is None


# --- out of sequence


async def test_a_lone_publisher_out_of_sequence_hears_it_and_nothing_is_handed_on() -> None:
    desk = Desk()
    desk.log.breaks = {"evt_1"}
    with pytest.raises(OutOfSequence):
        await desk.publish(1)
    await turns()

    assert desk.stored == []
    assert desk.committer.trouble is None
    assert (await desk.publish(2)).first == 1


@pytest.mark.parametrize("is_slow", [False, True], ids=["on the loop", "beside it"])
async def test_one_that_is_out_of_sequence_is_the_only_one_of_its_commit_that_hears_it(is_slow: bool) -> None:
    desk = Desk(then_is_slow=is_slow)
    desk.log.gate.set()
    desk.log.breaks = {"evt_3"}
    async with desk.running():
        first, second, third, fourth = await asyncio.gather(
            *[desk.publish(number) for number in (1, 2, 3, 4)], return_exceptions=True
        )

    assert isinstance(third, OutOfSequence)
    assert [one if isinstance(one, BaseException) else one.first for one in (first, second, fourth)] == [1, 2, 3]
    assert [one.first for one in desk.stored] == [1, 2, 3]
    assert desk.committer.trouble is None


@pytest.mark.parametrize("is_slow", [False, True], ids=["on the loop", "beside it"])
async def test_one_that_is_out_of_sequence_and_gone_is_no_trouble(is_slow: bool) -> None:
    desk = Desk(then_is_slow=is_slow)
    desk.log.breaks = {"evt_2"}
    async with desk.running():
        first, gone, stays = (desk.publishing(number) for number in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        await turns()
        desk.log.gate.set()
        assert (await stays).first == 2
        assert (await first).first == 1

    assert gone.cancelled()
