"""What comes from upstream waits in its order, and is appended whatever the log says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from opencode_events.broker.broker import Broker
from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.base import Aggregate
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import GAP, Event
from opencode_events.relay.intake import UNREADABLE, Intake
from opencode_events.relay.spool import Room, Spool, SpoolFull, SpoolUnreadable
from opencode_events.settings import BrokerSettings, EventLogSettings
from tests.broker.brokers import make_broker
from tests.broker.fakes import FakeLog
from tests.eventlog.steps import read_all
from tests.relay.stage import until
from tests.samples import event, twin

LIMIT = 1000


class Missed:
    """What upstream's history has, as far as the intake is concerned. `calls` counts the questions."""

    def __init__(self) -> None:
        self.calls = 0
        self.events: list[Event] = []
        self.append: Callable[..., Any] = lambda *_, **__: None

    async def __call__(self) -> None:
        self.calls += 1
        await self.append(self.events, is_past=True)


@pytest.fixture
def missed() -> Missed:
    return Missed()


class Taken:
    """An intake before a log in memory that has learned nothing yet, with its broker at work."""

    def __init__(self, missed: Missed) -> None:
        self.log = SqliteLog(None, EventLogSettings())
        self.broker = Broker(BrokerSettings(), self.log, asyncio.get_running_loop())
        self.intake = make(self.broker, missed)
        missed.append = self.intake.append

    async def learn(self, **lasts: int) -> None:
        await self.broker.learn({name: Aggregate(last) for name, last in lasts.items()})

    async def ids(self) -> list[str]:
        """Return the ids in the log, those of twins with a mark."""
        pages = await read_all(self.log)
        return [one.event.id + "+" * one.event.is_sync for page in pages for one in page.events]

    async def lasts(self) -> dict[str, int] | None:
        found = await self.broker.aggregates()
        return None if found is None else {name: place.last for name, place in found.items()}


@pytest.fixture
async def taken(missed: Missed) -> AsyncIterator[Taken]:
    made = Taken(missed)
    work = asyncio.create_task(made.broker.run())
    yield made
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    made.log.close()


def make(broker: Broker, missed: Missed | None = None, room: Room | None = None) -> Intake:
    spool = Spool(room or Room(2**20, 2**20), None)
    return Intake(broker, spool, missed or Missed(), max_event_bytes=LIMIT, clock=lambda: 7.0)


async def pump(taken: Intake) -> list[Event]:
    """Append what waits, and return what that was."""
    found: list[Event] = []
    await taken.pump(lambda: True, found.extend)
    return found


def both(number: int, seq: int, session: str = "ses_1") -> list[Event]:
    return [event(number, "session.updated", session=session), twin(number, seq=seq, session=session)]


def pairs(*places: tuple[int, int], session: str = "ses_1") -> list[Event]:
    return [one for number, seq in places for one in both(number, seq, session)]


def names(*numbers: int) -> list[str]:
    return [name for number in numbers for name in (f"evt_{number}", f"evt_{number}+")]


# --- frames


async def test_frames_come_out_in_their_order_and_are_counted() -> None:
    log = FakeLog()
    into = make(make_broker(log))
    for number in range(1200):
        into.put(event(number).envelope)
    found = await pump(into)

    assert [one.id for one in found] == [f"evt_{number}" for number in range(1200)]
    assert [stored.event for stored in log.stored] == found
    assert (into.frames, into.events) == (1200, 1200)
    assert len([line for line in log.trace if line.startswith("append")]) == 3


async def test_it_is_idle_when_all_that_was_put_is_in_the_log() -> None:
    log = FakeLog()
    into = make(make_broker(log))
    pumping = asyncio.create_task(into.pump(lambda: False, lambda _: None))
    await until(lambda: into.is_idle)

    into.put(event(1).envelope)

    assert not into.is_idle
    await until(lambda: into.is_idle)
    assert len(log.stored) == 1
    pumping.cancel()


async def test_what_comes_while_frames_are_appended_is_appended_too_until_it_is_over() -> None:
    log = FakeLog()
    into = make(make_broker(log))
    is_over = False
    work = asyncio.create_task(into.pump(lambda: is_over, lambda _: None))
    for number in range(5):
        into.put(event(number).envelope)
        await until(lambda number=number: log.head == number + 1)  # type: ignore[misc]
    assert not work.done()
    is_over = True
    into.wake()
    await work


async def test_what_may_not_be_held_is_refused_and_what_was_taken_stays() -> None:
    into = make(make_broker(), room=Room(1000, 0))
    frames = [event(number).envelope for number in range(100)]
    with pytest.raises(SpoolFull):
        list(map(into.put, frames))
    found = await pump(into)

    assert [one.id for one in found] == [f"evt_{number}" for number in range(len(found))]
    assert into.frames == len(found) > 2


async def test_another_connection_begins_with_nothing() -> None:
    into = make(make_broker())
    into.put(event().envelope)
    into.learned = {"ses_1": 3}

    into.end()
    into.begin()

    assert await pump(into) == []
    assert (into.firsts, into.learned) == ({}, {})


@pytest.mark.parametrize("frame", [UNREADABLE, b"{", b"[]", b'{"payload":{"type":"x"}}', event(pad=LIMIT).envelope])
async def test_frames_that_cannot_be_read_have_one_mark_in_their_place(frame: bytes) -> None:
    into = make(make_broker())
    for data in (event(1).envelope, frame, frame, event(2).envelope, frame):
        into.put(data)
    found = await pump(into)

    assert [one.type for one in found] == ["session.idle", GAP, "session.idle", GAP]
    assert found[1].payload.endswith(b'"properties":{"from":7000,"to":7000,"refilled":0}}')
    assert into.unreadable == 3


async def test_upstreams_own_frames_are_passed_over() -> None:
    into = make(make_broker())
    for kind in ("server.connected", "server.heartbeat", "server.stream.gap"):
        into.put(b'{"payload":{"id":"evt_1","type":"%b","properties":{}}}' % kind.encode())

    assert await pump(into) == []
    assert into.frames == 3


async def test_the_first_of_each_aggregate_is_noted_for_as_long_as_that_is_wanted() -> None:
    into = make(make_broker())
    into.put(twin(1, seq=3).envelope)
    into.begin()
    for one in (event(2), twin(2, seq=4), twin(3, seq=5), twin(4, seq=0, session="ses_2")):
        into.put(one.envelope)
    into.put(b'{"payload":{"type":"sync"}}')
    assert into.firsts == {"ses_1": 4, "ses_2": 0}
    into.firsts = None
    into.put(twin(5, session="ses_3").envelope)
    assert into.firsts is None


async def test_what_the_disk_does_not_give_back_is_dropped_and_fetched(
    taken: Taken, missed: Missed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await taken.learn()
    missed.events = pairs((1, 0), (2, 1))

    def unreadable(max_items: int, max_bytes: int) -> list[bytes]:
        monkeypatch.undo()
        raise SpoolUnreadable("the disk is gone")

    for one in missed.events:
        taken.intake.put(one.envelope)
    monkeypatch.setattr(taken.intake._spool, "take", unreadable)
    await pump(taken.intake)

    assert await taken.ids() == names(1, 2)
    assert missed.calls == 1


# --- a log that refuses


async def test_events_wait_until_the_log_takes_them() -> None:
    log = FakeLog()
    into = make(make_broker(log))
    into.put(event().envelope)
    log.error = LogUnavailable("the disk is full", retry_after_s=1)
    work = asyncio.create_task(pump(into))
    await until(lambda: len(log.trace) > 3)
    assert not work.done()
    log.error = None

    assert [one.id for one in await work] == ["evt_1"]
    assert [stored.event.id for stored in log.stored] == ["evt_1"]
    assert into.events == 1


# --- sequences


async def test_events_that_the_log_has_are_not_counted(taken: Taken) -> None:
    assert await taken.intake.append(pairs((1, 0), (2, 1))) == 4
    assert await taken.intake.append(pairs((1, 0), (2, 1), (3, 2))) == 2
    assert taken.intake.events == 6


async def test_what_is_missing_before_an_event_comes_before_both_of_its_twins(taken: Taken, missed: Missed) -> None:
    await taken.learn(ses_1=-1)
    missed.events = pairs((2, 1), (3, 2))
    await taken.intake.append([*pairs((1, 0)), event(9), *pairs((4, 3), (5, 4))])

    assert await taken.ids() == [*names(1), "evt_9", *names(2, 3, 4, 5)]
    assert missed.calls == 1
    assert taken.intake.out_of_sequence == 0


async def test_what_is_missing_everywhere_is_passed_over(taken: Taken, missed: Missed) -> None:
    await taken.learn(ses_1=-1)
    await taken.intake.append(pairs((1, 0), (4, 3), (5, 4)))

    assert await taken.ids() == names(1, 4, 5)
    assert missed.calls == 1
    assert taken.intake.out_of_sequence == 1


async def test_a_history_that_breaks_a_sequence_is_not_asked_for_again(taken: Taken, missed: Missed) -> None:
    await taken.learn(ses_1=-1)
    missed.events = pairs((2, 1), (4, 3))
    await taken.intake.append(pairs((1, 0), (6, 5)))

    assert await taken.ids() == names(1, 2, 4, 6)
    assert missed.calls == 1
    assert taken.intake.out_of_sequence == 2


async def test_an_upstream_that_counts_anew_is_followed_without_asking(taken: Taken, missed: Missed) -> None:
    await taken.learn(ses_1=-1)
    await taken.intake.append(pairs((1, 0), (2, 1), (3, 2)))
    await taken.intake.append(pairs((11, 1), (12, 2), (13, 3)))

    assert await taken.ids() == names(1, 2, 3, 11, 12, 13)
    assert missed.calls == 0
    assert await taken.lasts() == {"ses_1": 3}


async def test_what_the_history_had_before_the_stream_brings_it_is_new(taken: Taken, missed: Missed) -> None:
    await taken.learn(ses_1=5, ses_2=0, ses_3=8)
    taken.intake.learned = {"ses_1": 5, "ses_2": 0, "ses_3": 8}
    await taken.intake.append([*pairs((1, 4), (2, 5), (3, 6)), *pairs((4, 0), session="ses_2")])
    await taken.intake.append(pairs((5, 9), session="ses_3"))

    assert await taken.ids() == names(1, 2, 3, 4, 5)
    assert missed.calls == 0
    assert taken.intake.learned == {}


@pytest.mark.parametrize("learns", [True, False])
async def test_a_log_that_has_not_learned_is_never_told_of_one_sequence_alone(
    taken: Taken, missed: Missed, learns: bool
) -> None:
    async def learn() -> None:
        missed.calls += 1
        if learns:
            await taken.learn(ses_1=3)
            taken.intake.learned = {"ses_1": 3}

    taken.intake._missed = learn
    await taken.intake.append(pairs((1, 0), (4, 3), (5, 4)))
    await taken.intake.append(pairs((9, 8)))

    if learns:
        assert await taken.ids() == names(1, 4, 5, 9)
        assert await taken.lasts() == {"ses_1": 8}
        assert missed.calls == 2
    else:
        assert await taken.ids() == [*names(1), "evt_4", "evt_5", "evt_9"]
        assert await taken.lasts() is None
        assert missed.calls == 1
        assert taken.intake.out_of_sequence == 3


async def test_a_log_that_does_not_answer_is_asked_for_places_until_it_does(taken: Taken, missed: Missed) -> None:
    await taken.learn(ses_1=-1)
    calls: list[str] = []
    aggregates, learn = taken.log.aggregates, taken.log.learn

    def refuse(name: str) -> None:
        calls.append(name)
        if calls.count(name) < 3:
            raise LogUnavailable("it is busy", retry_after_s=1)

    async def ask() -> dict[str, Aggregate] | None:
        refuse("aggregates")
        return await aggregates()

    async def tell(places: Mapping[str, Aggregate]) -> None:
        refuse("learn")
        await learn(places)

    taken.log.aggregates, taken.log.learn = ask, tell  # type: ignore[method-assign]
    await taken.intake.append(pairs((1, 0), (4, 3)))

    assert await taken.ids() == names(1, 4)
    assert calls.count("learn") == 3
