"""Who shares a commit, in which order things happen, and what publishers hear when the log cannot be written."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.committer import GROUP_EVENTS, Committer
from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.base import Appended, Outcome
from opencode_events.events import Event
from tests.broker.brokers import turns
from tests.broker.desk import Desk
from tests.broker.fakes import EPOCH, FakeLog
from tests.samples import event

# --- quick commits


async def test_a_lone_publisher_waits_for_nobody() -> None:
    desk = Desk()
    answer = desk.committer.commit([event(1)])

    with pytest.raises(StopIteration) as over:  # it has its answer before the loop turns
        answer.send(None)
    assert over.value.value == Appended(1, [event(1)], 0, EPOCH)
    assert desk.trace == ["append_nowait [['evt_1']]", "stored ['evt_1']"]
    await turns()


async def test_an_event_is_appended_before_it_is_handed_on_and_that_before_the_answer() -> None:
    desk = Desk()
    await desk.publish(1, 2)

    assert desk.trace == ["append_nowait [['evt_1', 'evt_2']]", "stored ['evt_1', 'evt_2']", "answered [1, 2]"]


async def test_publishers_of_one_turn_share_a_commit_behind_the_first() -> None:
    desk = Desk()
    answers = await asyncio.gather(desk.publish(1), desk.publish(2, 3), desk.publish(4))

    assert [answer.first for answer in answers] == [1, 2, 4]
    assert desk.trace == [
        "append_nowait [['evt_1']]", "stored ['evt_1']", "answered [1]",
        "append_nowait [['evt_2', 'evt_3'], ['evt_4']]", "stored ['evt_2', 'evt_3']", "stored ['evt_4']",
        "answered [2, 3]", "answered [4]",
    ]  # fmt: skip


async def test_the_next_turn_s_publisher_is_the_first_again() -> None:
    desk = Desk()
    await desk.publish(1)
    await turns()
    await desk.publish(2)

    assert desk.trace[3:] == ["append_nowait [['evt_2']]", "stored ['evt_2']", "answered [2]"]


async def test_who_publishes_while_those_of_the_turn_before_commit_waits_its_turn() -> None:
    """Nobody overtakes: positions grow in the order in which publishers came."""
    desk = Desk()
    tasks = [desk.publishing(number) for number in range(1, 4)]
    for number in range(4, 9):
        await asyncio.sleep(0)
        tasks.append(desk.publishing(number))
    answers = await asyncio.gather(*tasks)

    assert [answer.first for answer in answers] == list(range(1, 9))
    assert [appended.first for appended in desk.stored] == list(range(1, 9))


# --- slow commits


async def test_what_could_hold_the_loop_is_appended_beside_it_and_others_share_the_next() -> None:
    desk = Desk(then_is_slow=True)
    desk.log.is_slow = True
    async with desk.running():
        first = desk.publishing(1)
        await turns()
        others = [desk.publishing(2), desk.publishing(3)]
        await turns()
        assert desk.trace == []  # the log has not said anything yet
        desk.log.gate.set()
        await asyncio.gather(first, *others)

    assert [line for line in desk.trace if line.startswith(("append", "stored"))] == [
        "append [['evt_1']]", "stored ['evt_1']",
        "append [['evt_2'], ['evt_3']]", "stored ['evt_2']", "stored ['evt_3']",
    ]  # fmt: skip
    for number in (1, 2, 3):
        assert desk.trace.index(f"stored ['evt_{number}']") < desk.trace.index(f"answered [{number}]")


async def test_a_log_that_is_quick_again_is_asked_on_the_loop() -> None:
    desk = Desk()
    desk.log.is_slow = True
    async with desk.running():
        first = desk.publishing(1)
        await turns()
        desk.log.is_slow = False
        waiting = desk.publishing(2)
        await turns()
        desk.log.gate.set()
        await asyncio.gather(first, waiting)
        await turns()
        await desk.publish(3)

    assert [line for line in desk.trace if line.startswith("append")] == [
        "append [['evt_1']]", "append_nowait [['evt_2']]", "append_nowait [['evt_3']]",
    ]  # fmt: skip


async def test_a_large_batch_is_handed_on_in_groups_and_answered_as_one() -> None:
    desk = Desk()
    desk.log.is_slow = True
    desk.log.gate.set()
    events = [event(number) for number in range(2 * GROUP_EVENTS + 1)]
    async with desk.running():
        answer = await desk.committer.commit(events)

    assert answer == Appended(1, events, 0, EPOCH)
    assert [(one.first, len(one.events)) for one in desk.stored] == [(1, 500), (501, 500), (1001, 1)]
    assert [each for one in desk.stored for each in one.events] == events
    assert [line[:6] for line in desk.trace] == ["append", *["stored", "kept p"] * 3]


async def test_nobody_overtakes_a_batch_that_is_being_handed_on() -> None:
    desk = Desk()
    desk.log.is_slow = True
    desk.log.gate.set()
    async with desk.running():
        large = asyncio.create_task(desk.committer.commit([event(number) for number in range(10 * GROUP_EVENTS)]))
        await turns(4)
        assert 1 <= len(desk.stored) < 10
        desk.log.is_slow = False
        await asyncio.gather(large, desk.publish(9999))

    assert [one.first for one in desk.stored] == list(range(1, 5002, 500))


# --- a log that cannot be written


async def test_the_first_publisher_hears_it_and_the_next_one_is_not_kept_waiting() -> None:
    desk = Desk()
    desk.log.error = LogUnavailable("disk full", retry_after_s=7)
    with pytest.raises(LogUnavailable, match="disk full") as refused:
        await desk.publish(1)
    assert refused.value.retry_after_s == 7
    assert desk.stored == []

    desk.log.error = None
    assert (await desk.publish(2)).first == 1


@pytest.mark.parametrize("is_slow", [False, True], ids=["on the loop", "beside it"])
async def test_everybody_who_waits_hears_it_and_nothing_is_handed_on(is_slow: bool) -> None:
    desk = Desk(then_is_slow=is_slow, then_fails=LogUnavailable("locked", retry_after_s=3))
    desk.log.gate.set()
    async with desk.running():
        first, *errors = await asyncio.gather(
            *[desk.publish(number) for number in (1, 2, 3, 4)], return_exceptions=True
        )

        assert first == Appended(1, [event(1)], 0, EPOCH)
        assert [(type(error), str(error)) for error in errors] == (
            [(LogUnavailable, "the event log cannot be written: locked")] * 3
        )
        assert len({id(error) for error in errors}) == 3  # each has its own traceback
        assert [one.first for one in desk.stored] == [1]
        desk.log.error, desk.log.is_slow = None, False
        await turns()
        assert (await desk.publish(5)).first == 2


async def test_failing_is_told_once_an_episode_and_so_is_its_end() -> None:
    desk = Desk()
    with capture_logs() as lines:
        for error in (LogUnavailable("disk full"), LogUnavailable("disk full"), None, None, LogUnavailable("locked")):
            desk.log.error = error
            with contextlib.suppress(LogUnavailable):
                await desk.publish(1)
            await turns()

    assert [(line["event"], line["log_level"], line.get("reason")) for line in lines] == [
        ("eventlog.failed", "error", "disk full"),
        ("eventlog.recovered", "info", None),
        ("eventlog.failed", "error", "locked"),
    ]


# --- publishers that go


@pytest.mark.parametrize("is_slow", [False, True], ids=["on the loop", "beside it"])
async def test_a_publisher_that_is_cancelled_has_published_all_the_same(is_slow: bool) -> None:
    desk = Desk(then_is_slow=is_slow)
    async with desk.running():
        first, gone, stays = (desk.publishing(number) for number in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        await turns()
        desk.log.gate.set()
        assert (await stays).first == 3
        assert (await first).first == 1

    assert gone.cancelled()
    assert [one.first for one in desk.stored] == [1, 2, 3]


async def test_a_publisher_that_is_gone_is_no_trouble_when_the_log_fails() -> None:
    desk = Desk()
    desk.log.is_slow = True
    desk.log.error = LogUnavailable("locked")
    async with desk.running():
        gone, stays = desk.publishing(1), desk.publishing(2)
        await turns()
        gone.cancel()
        desk.log.gate.set()
        with pytest.raises(LogUnavailable):
            await stays

    assert desk.stored == []


class Forgetful(FakeLog):
    """Finds every second event a duplicate."""

    def _append(self, how: str, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        return [Appended(1 if batch[1:] else 0, batch[1::2], (len(batch) + 1) // 2, EPOCH) for batch in batches]


@pytest.mark.parametrize("is_slow", [False, True], ids=["on the loop", "beside it"])
@pytest.mark.parametrize("count", [1, 2, 3 * GROUP_EVENTS])
async def test_duplicates_are_handed_on_once_to_be_counted(is_slow: bool, count: int) -> None:
    desk = Desk()
    desk.committer = Committer(log := Forgetful(), asyncio.get_running_loop(), desk._store, desk._keep_pace)
    log.is_slow = is_slow
    log.gate.set()
    async with desk.running():
        answer = await desk.committer.commit([event(number) for number in range(count)])

    assert sum(one.duplicates for one in desk.stored) == answer.duplicates == (count + 1) // 2
    assert sum(len(one.events) for one in desk.stored) == len(answer.events) == count // 2
