"""A log that takes nothing for a while, and an end at any moment: frames are held, and nothing is lost."""

import asyncio
import itertools
from typing import Any

import pytest

from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.relay.fake_upstream import EVENTS, HISTORY, FakeUpstream
from tests.relay.stage import Lines, Stage, audit, gaps, id_of, named, until

# --- the log


class StubbornLog(SqliteLog):
    """A log that can be told to take nothing."""

    def __init__(self) -> None:
        super().__init__(None, EventLogSettings())
        self.refuses = False

    def _check(self) -> None:
        if self.refuses:
            raise LogUnavailable("the disk is full", retry_after_s=1)

    def append_nowait(self, batches: Any) -> Any:
        self._check()
        return super().append_nowait(batches)

    async def append(self, batches: Any) -> Any:
        self._check()
        return await super().append(batches)

    async def learn(self, places: Any) -> None:
        self._check()
        await super().learn(places)

    async def aggregates(self) -> Any:
        self._check()
        return await super().aggregates()


@pytest.fixture
def stubborn() -> StubbornLog:
    return StubbornLog()


async def test_frames_are_held_while_the_log_takes_nothing(fake: FakeUpstream, stubborn: StubbornLog) -> None:
    async with Stage(fake, eventlog=stubborn) as stage:
        await stage.live()
        stubborn.refuses = True
        fake.many(1000)
        last = fake.transient()
        await until(lambda: stage.statistic("frames") == 2002)
        assert stage.statistic("held_bytes") > 0
        assert stage.statistic("live") is True
        stubborn.refuses = False
        await stage.settled(fake.memory)
        await until(lambda: stage.statistic("held_bytes") == 0)

        found = await stage.logged()
        audit(found, fake.memory)
        assert id_of(found[-1]) == last
        assert fake.count(EVENTS) == 1


async def test_upstream_is_let_go_when_more_would_have_to_be_held(
    fake: FakeUpstream, stubborn: StubbornLog, lines: Lines
) -> None:
    async with Stage(fake, eventlog=stubborn, held_memory_bytes=20_000, held_disk_bytes=200_000) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        stubborn.refuses = True
        for _ in range(50):
            fake.many(50)
            await asyncio.sleep(0)
        await until(lambda: fake.listeners == 0)
        assert stubborn.refuses
        assert stage.statistic("held_bytes") < 220_000
        stubborn.refuses = False
        await stage.settled(fake.memory)
        await stage.live()

        audit(await stage.logged(), fake.memory)
        (lost,) = named(lines, "relay.lost")
        assert "more is held" in lost["reason"]


async def test_an_upstream_that_goes_while_the_log_takes_nothing_is_away_at_once(
    fake: FakeUpstream, stubborn: StubbornLog, lines: Lines
) -> None:
    async with Stage(fake, eventlog=stubborn) as stage:
        await stage.live()
        stubborn.refuses = True
        fake.durable()
        await until(lambda: stage.statistic("held_bytes") or stage.statistic("frames") == 3)
        fake.end()
        await until(lambda: stage.relay.trouble is not None, 2.0)
        assert stage.relay.trouble == "upstream is away: it ended the stream"
        assert stage.statistic("live") is False
        assert fake.count(EVENTS) == 1
        stubborn.refuses = False
        await stage.settled(fake.memory)
        await stage.live()

        audit(await stage.logged(), fake.memory)
        assert [line["reason"] for line in named(lines, "relay.lost")] == ["it ended the stream"]


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "again"])
async def test_a_log_that_takes_nothing_keeps_the_relay_from_nothing(
    fake: FakeUpstream, stubborn: StubbornLog, is_first: bool
) -> None:
    stubborn.refuses = is_first
    async with Stage(fake, eventlog=stubborn) as stage:
        if not is_first:
            await stage.live()
            fake.durable()
            await stage.settled(fake.memory)
            stubborn.refuses = True
            fake.lose()
            fake.durable()
        await until(lambda: fake.count(EVENTS) == 1 + (not is_first) and fake.listeners)
        before = stage.statistic("frames")
        fake.transient()
        await until(lambda: stage.statistic("frames") > before)
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert stage.relay.trouble is not None
        stubborn.refuses = False
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)
        assert fake.most_listeners == 1


async def test_a_sequence_that_breaks_while_the_log_takes_nothing_is_put_right_afterwards(
    fake: FakeUpstream, stubborn: StubbornLog
) -> None:
    async with Stage(fake, eventlog=stubborn) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        aggregates, calls = stubborn.aggregates, itertools.count()

        async def refusing() -> Any:
            if next(calls) < 2:
                raise LogUnavailable("the disk is full", retry_after_s=1)
            return await aggregates()

        stubborn.aggregates = refusing  # type: ignore[method-assign]
        fake.memory.note("ses_1", "message.updated", {})
        fake.durable()
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)


async def test_a_gap_begins_when_upstream_was_heard_last_not_when_the_log_took_it(
    fake: FakeUpstream, stubborn: StubbornLog
) -> None:
    now_s = 100.0
    async with Stage(fake, eventlog=stubborn, clock=lambda: now_s) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        stubborn.refuses = True
        fake.lose()
        await until(lambda: stage.statistic("connections") == 2 and stage.statistic("frames") == 4)
        now_s = 200.0
        fake.durable()
        await until(lambda: stage.statistic("frames") == 6)
        fake.lose()
        await until(lambda: not fake.listeners)
        now_s = 300.0
        stubborn.refuses = False
        await until(lambda: stage.statistic("gaps") == 2)
        await stage.live()

        marks = gaps(await stage.logged())
        assert [(mark["from"], mark["to"]) for mark in marks] == [(100_000, 300_000), (200_000, 300_000)]


# --- the end


@pytest.mark.parametrize("mood", ["hang", "stalls"])
async def test_a_relay_that_waits_for_a_history_ends_at_once(fake: FakeUpstream, mood: str) -> None:
    fake.many(5)
    fake.moods[HISTORY] = mood
    async with asyncio.timeout(5):
        async with Stage(fake) as stage:
            await until(lambda: fake.count(HISTORY) == 1)
            assert stage.relay.trouble is not None


async def hang_behind_a_loss(stage: Stage, fake: FakeUpstream) -> None:
    """Lose a connection, and have the history that is asked for on the next one hang."""
    await stage.live()
    fake.durable()
    await stage.settled(fake.memory)
    fake.moods[HISTORY] = "hang"
    fake.lose()
    await until(lambda: fake.count(HISTORY) == 2)


async def test_a_history_that_hangs_does_not_keep_a_lost_connection_from_being_taken_up(fake: FakeUpstream) -> None:
    async with Stage(fake, upstream_silence_s=0.3) as stage:
        await hang_behind_a_loss(stage, fake)
        fake.lose()
        fake.moods.clear()
        fake.many(3)
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)


async def test_nothing_is_held_for_a_connection_that_is_over(fake: FakeUpstream) -> None:
    async with Stage(fake, upstream_silence_s=0.3) as stage:
        await hang_behind_a_loss(stage, fake)
        fake.transient()
        await until(lambda: stage.statistic("held_bytes") > 0)
        await fake.stop()
        await until(lambda: stage.statistic("held_bytes") == 0, 3.0)
