"""What was missed comes from upstream's history: all of it, where it belongs, however the history is told."""

import asyncio
from pathlib import Path

import pytest

from opencode_events.broker.selection import Selection
from opencode_events.events import GAP
from opencode_events.relay import refill
from tests.relay.fake_upstream import EVENTS, HISTORY, FakeUpstream
from tests.relay.stage import MAX_EVENT_BYTES, Stage, audit, gaps, id_of, kind_of, until


async def gap(fake: FakeUpstream, stage: Stage) -> None:
    """Lose the connection, and have it again."""
    fake.lose()
    await stage.away()
    await stage.live()


# --- where it belongs


async def test_a_session_of_the_gap_comes_under_the_envelope_that_its_first_event_tells(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        await fake.stop()
        fake.open("ses_new", "/srv/new", "prj_new")
        fake.many(3, "ses_new")
        await fake.start()
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)
        assert not any(target.startswith("/session/") for _, target in fake.asked)
        instance = stage.listen(Selection(stream="instance", directory="/srv/new"), after=0)
        await until(lambda: GAP in instance.types)
        assert [id_of(one) for one in instance.envelopes][:4] == [row["id"] for row in fake.memory.rows]


async def test_a_session_that_moved_in_the_gap_comes_under_the_envelope_that_it_moved_to(fake: FakeUpstream) -> None:
    fake.open("ses_1", "/srv/a", "prj_a")
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory, 1)
        await fake.stop()
        fake.durable()
        fake.move("ses_1", "/srv/b", "prj_b")
        fake.durable()
        fake.move("ses_1", "/srv/c", "prj_c")
        fake.durable()
        await fake.start()
        await stage.settled(fake.memory, 1)
        fake.durable()
        await gap(fake, stage)
        await fake.stop()
        fake.durable()
        await fake.start()
        await stage.settled(fake.memory, 1)

        audit(await stage.logged(), fake.memory, 1)


async def test_a_session_that_moved_while_it_was_listened_to_is_remembered_there(fake: FakeUpstream) -> None:
    fake.open("ses_1", "/srv/a", "prj_a")
    async with Stage(fake) as stage:
        await stage.live()
        fake.move("ses_1", "/srv/b", "prj_b")
        await stage.settled(fake.memory, 1)
        await fake.stop()
        fake.durable()
        await fake.start()
        await stage.settled(fake.memory, 1)

        audit(await stage.logged(), fake.memory, 1)


async def test_a_session_that_never_told_its_home_is_asked_for_once(fake: FakeUpstream) -> None:
    fake.memory.places_told = False
    fake.open("ses_old", "/srv/old", "prj_old")
    async with Stage(fake) as stage:
        await stage.live()
        await fake.stop()
        fake.many(3, "ses_old")
        fake.open("ses_new", "/srv/new", "prj_new")
        fake.many(3, "ses_new")
        await fake.start()
        await stage.settled(fake.memory, 1)

        audit(await stage.logged(), fake.memory, 1)
        asked = [target for _, target in fake.asked if target.startswith("/session/")]
        assert sorted(asked) == ["/session/ses_new", "/session/ses_old"]


async def test_a_session_that_nobody_knows_any_more_comes_without_a_directory(fake: FakeUpstream) -> None:
    fake.memory.places_told = False
    async with Stage(fake) as stage:
        await stage.live()
        await fake.stop()
        fake.open("ses_gone")
        del fake.memory.homes["ses_gone"]
        await fake.start()
        await stage.settled(fake.memory)

        found = [one for one in await stage.logged() if kind_of(one) != GAP]
        assert [list(one) for one in found] == [["payload"], ["payload"]]


# --- trouble with the history


@pytest.mark.parametrize("mood", ["500", "html", "cut", "hang", "stalls", "404"])
async def test_without_a_history_the_shield_is_live_all_the_same_and_fetches_it_the_next_time(
    fake: FakeUpstream, mood: str
) -> None:
    hangs = mood in ("hang", "stalls")
    async with Stage(fake, upstream_silence_s=0.3 if hangs else 30.0) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        fake.moods[HISTORY] = mood
        await fake.stop()
        fake.many(3)
        fake.open("ses_new", "/srv/b", "prj_b")
        await fake.start()
        await until(lambda: fake.count(HISTORY) >= 1 + (1 if hangs else refill.TRIES))
        if not hangs:
            await stage.live()
            assert [mark["refilled"] for mark in gaps(await stage.logged())] == [0]
        fake.moods.clear()
        fake.lose()
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)


async def test_a_history_that_never_ends_is_given_up(fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refill, "HISTORY_S", 0.05)
    async with Stage(fake) as stage:
        await stage.live()
        fake.moods[HISTORY] = "trickles"
        await fake.stop()
        fake.many(3)
        await fake.start()
        await stage.away()
        await stage.live()
        assert fake.count(HISTORY) == 1 + refill.TRIES
        fake.moods.clear()
        await gap(fake, stage)

        found = await stage.logged()
        audit(found, fake.memory)
        assert [mark["refilled"] for mark in gaps(found)] == [0, 6]


async def test_a_history_that_breaks_off_is_asked_for_again_at_once(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.moods[HISTORY] = "cut"

        def heal() -> None:
            if len(fake.known) == 3:
                fake.moods.clear()

        fake.before_history = heal
        await fake.stop()
        fake.many(100)
        await fake.start()
        await stage.settled(fake.memory)
        await stage.live()

        found = await stage.logged()
        audit(found, fake.memory)
        assert [mark["refilled"] for mark in gaps(found)] == [200]


async def test_rows_that_are_none_are_passed_over(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.moods[HISTORY] = "garbage"
        await fake.stop()
        fake.many(3)
        await fake.start()
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)
        assert stage.statistic("unreadable_events") == 2
        assert len(fake.known) == 2


async def test_a_row_that_is_no_event_keeps_none_behind_it_from_coming(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        await fake.stop()
        fake.durable()
        bad = fake.memory.note("ses_1", "x" * 300, {})
        fake.many(3)
        fake.many(3, "ses_2")
        await fake.start()
        await until(lambda: stage.statistic("gaps") == 1)

        found = await stage.logged()
        fake.memory.rows.remove(bad)
        audit(found, fake.memory)
        assert stage.statistic("unreadable_events") == 1
        assert stage.statistic("gaps") == 1
        assert len(fake.known) == 2


async def test_a_row_over_the_limit_is_passed_over_and_no_other(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        await fake.stop()
        fake.durable()
        large = fake.memory.note("ses_1", "message.updated", {"pad": "x" * (3 * MAX_EVENT_BYTES)})
        fake.many(3)
        fake.many(3, "ses_2")
        await fake.start()
        await until(lambda: stage.statistic("gaps") == 1)
        fake.memory.rows.remove(large)

        audit(await stage.logged(), fake.memory)
        assert stage.statistic("unreadable_events") == 1
        assert len(fake.known) == 2


async def test_a_history_longer_than_what_may_be_held_comes_whole(fake: FakeUpstream) -> None:
    async with Stage(fake, held_memory_bytes=2000, held_disk_bytes=0) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        await fake.stop()
        fake.many(200)
        fake.many(200, "ses_2")
        fake.durable("ses_2", pad="x" * 3000)
        await fake.start()
        await stage.settled(fake.memory)
        await stage.live()

        found = await stage.logged()
        audit(found, fake.memory)
        assert [mark["refilled"] for mark in gaps(found)] == [802]


async def test_the_history_and_the_stream_share_what_may_be_held(fake: FakeUpstream) -> None:
    async with Stage(fake, held_memory_bytes=0, held_disk_bytes=200_000) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        await fake.stop()
        for _ in range(300):
            fake.durable(pad="x" * 500)
        fake.moods[HISTORY] = "stalls"
        await fake.start()
        await until(lambda: stage.statistic("held_bytes") > 80_000)  # of the history
        for _ in range(200):
            fake.transient(pad="x" * 1000)
            await asyncio.sleep(0)
        await until(lambda: not fake.listeners)

        assert 150_000 < stage.statistic("held_bytes") < 200_000
        assert stage.statistic("frames") < 200
        fake.moods.clear()
        await fake.stop()
        await fake.start()
        await stage.settled(fake.memory)
        await stage.live()
        assert stage.statistic("held_bytes") == 0
        audit(await stage.logged(), fake.memory)


# --- upstreams that are not what they were


async def test_an_upstream_with_an_older_history_counts_anew(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.many(10)
        await stage.settled(fake.memory)
        kept = list(fake.memory.rows)
        await fake.stop()
        fake.memory = fake.memory.forget(4)
        await fake.start()
        await stage.away()
        await stage.live()
        fake.many(6)
        await stage.settled(fake.memory, 6)

        came = [id_of(one) for one in await stage.logged() if kind_of(one) == "sync"]
        assert came == [row["id"] for row in kept + fake.memory.rows[6:]]
        await fake.stop()
        fake.many(3)
        await fake.start()
        await stage.settled(fake.memory, 6)
        came = [id_of(one) for one in await stage.logged() if kind_of(one) == "sync"]
        assert came == [row["id"] for row in kept + fake.memory.rows[6:]]


async def test_an_upstream_with_no_history_at_all_begins_anew(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.many(10)
        await stage.settled(fake.memory)
        await fake.stop()
        fake.memory = fake.memory.forget(10)
        await fake.start()
        await stage.away()
        await stage.live()
        fake.open("ses_1")
        fake.open("ses_2")
        fake.many(3)
        await stage.settled(fake.memory)

        found = [one for one in await stage.logged() if kind_of(one) == "sync"]
        assert len(found) == 10 + 5
        assert [id_of(one) for one in found[10:]] == [row["id"] for row in fake.memory.rows]


# --- holes


@pytest.mark.parametrize("missing", [1, 5])
async def test_what_an_event_shows_to_be_missing_is_fetched_before_it(fake: FakeUpstream, missing: int) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        for _ in range(missing):
            fake.memory.note("ses_1", "message.updated", {})
        fake.transient()
        fake.many(3)
        last = fake.transient()
        await stage.settled(fake.memory)
        await until(lambda: stage.statistic("held_bytes") == 0)

        found = await stage.logged()
        audit(found, fake.memory)
        assert id_of(found[-1]) == last
        assert len(gaps(found)) == 1
        assert fake.count(EVENTS) == 1


async def test_what_cannot_be_fetched_is_passed_over_once(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        fake.moods[HISTORY] = "500"
        lost = [fake.memory.note("ses_1", "message.updated", {}) for _ in range(3)]
        fake.many(3)
        await until(lambda: stage.statistic("relayed_events") == 2 + 1 + 6)

        for row in lost:
            fake.memory.rows.remove(row)
        found = await stage.logged()
        audit(found, fake.memory)
        assert [mark["refilled"] for mark in gaps(found)] == [0]
        assert stage.statistic("broken_sequences") == 1
        assert fake.count(HISTORY) == 1 + refill.TRIES


async def test_a_hole_before_anything_was_learned_has_everything_learned(fake: FakeUpstream) -> None:
    fake.many(20, "ses_old")
    fake.moods[HISTORY] = "500"
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory, 20)
        asked = fake.count(HISTORY)
        fake.memory.note("ses_1", "message.updated", {})
        fake.durable()
        await until(lambda: stage.statistic("broken_sequences") == 1)
        assert fake.count(HISTORY) == asked + refill.TRIES
        fake.durable()
        await until(lambda: stage.statistic("broken_sequences") == 2)
        assert fake.count(HISTORY) == asked + refill.TRIES
        fake.moods.clear()
        await gap(fake, stage)
        fake.durable()
        fake.durable("ses_old")
        await stage.settled(fake.memory, 24)
        await gap(fake, stage)
        fake.durable()
        await stage.settled(fake.memory, 26)

        old = {row["id"] for row in fake.memory.rows[:20]}
        assert not old & {id_of(one) for one in await stage.logged()}


# --- shields that are killed


async def test_a_shield_that_was_killed_fetches_what_it_missed(fake: FakeUpstream, tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    fake.many(3)
    async with Stage(fake, path) as stage:
        await stage.live()
        fake.many(3)
        await stage.settled(fake.memory, 3)
    fake.many(3)
    fake.open("ses_new", "/srv/b", "prj_b")
    async with Stage(fake, path) as stage:
        await stage.settled(fake.memory, 3)
        await stage.live()
        fake.many(2, "ses_new")
        await stage.settled(fake.memory, 3)

        found = await stage.logged()
        audit(found, fake.memory, 3)
        (mark,) = gaps(found)
        assert isinstance(mark["from"], int)
        assert mark["from"] <= mark["to"]
        assert mark["refilled"] == 8


async def test_a_shield_that_was_killed_between_two_twins_has_both_afterwards(
    fake: FakeUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "events.sqlite3"
    async with Stage(fake, path) as stage:
        await stage.live()
        row = fake.memory.note("ses_1", "message.updated", {})
        fake.say(fake.memory.frames(row)[0])
        await until(lambda: stage.statistic("relayed_events") == 1)
    async with Stage(fake, path) as stage:
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)


async def test_a_killed_shield_tells_of_the_instances_that_its_log_knows(fake: FakeUpstream, tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    async with Stage(fake, path) as stage:
        await stage.live()
        fake.open("ses_1", "/srv/a")
        fake.open("ses_2", "/srv/b")
        await stage.settled(fake.memory)
    async with Stage(fake, path) as stage:
        listener = stage.listen()
        await until(lambda: GAP in listener.types)

        assert listener.types == [GAP, "server.connected", "server.instance.disposed", "server.instance.disposed"]


async def test_instances_that_are_first_heard_of_in_a_gap_are_told_of_behind_it(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        listener = stage.listen()
        await fake.stop()
        fake.open("ses_new", "/srv/new")
        await fake.start()
        await until(lambda: GAP in listener.types)

        assert [one.get("directory") for one in listener.envelopes[-2:]] == [None, "/srv/new"]
