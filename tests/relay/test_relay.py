"""The shield's one connection: held, lost and taken up again, while those who listen to the shield notice nothing."""

import asyncio
import itertools
import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from opencode_events.broker.selection import Selection
from opencode_events.events import DISPOSED, GAP
from tests.relay.fake_upstream import HISTORY, PATH, FakeUpstream
from tests.relay.stage import Listener, Stage, audit, gaps, id_of, kind_of, until

# --- the first connect


async def test_the_first_connect_ever_learns_and_logs_nothing_of_the_past(fake: FakeUpstream) -> None:
    fake.many(5)
    fake.open("ses_old", "/srv/b")
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable()
        fake.durable("ses_old")
        await stage.settled(fake.memory, 6)

        found = await stage.logged()
        audit(found, fake.memory, 6)
        assert len(found) == 4


async def test_what_happens_while_the_first_history_is_gathered_is_there_once(fake: FakeUpstream) -> None:
    fake.many(5)

    def happen() -> None:
        fake.durable()
        fake.open("ses_new", "/srv/b", "prj_b")
        fake.durable("ses_new")

    fake.before_history = happen
    fake.history_gate.clear()
    async with Stage(fake) as stage:
        await until(lambda: fake.count(HISTORY))
        fake.durable()
        await until(lambda: stage.statistic("frames") >= 9)
        fake.history_gate.set()
        await stage.settled(fake.memory, 5)

        audit(await stage.logged(), fake.memory, 5)


async def test_what_the_first_history_has_and_the_stream_brings_later_is_there_once(fake: FakeUpstream) -> None:
    fake.many(5)
    async with Stage(fake) as stage:
        late = [fake.memory.note("ses_1", "message.updated", {}), fake.memory.note("ses_2", "session.created", {})]
        await stage.live()
        for frame in itertools.chain.from_iterable(map(fake.memory.frames, late)):
            fake.say(frame)
        fake.durable("ses_2")
        fake.durable()
        await stage.settled(fake.memory, 7)

        audit(await stage.logged(), fake.memory, 5)


@pytest.mark.parametrize("mood", ["500", "html", "cut"])
async def test_a_first_history_that_cannot_be_had_is_learned_later_and_never_logged(
    fake: FakeUpstream, mood: str
) -> None:
    fake.many(50)
    fake.open("ses_old")
    fake.moods[HISTORY] = mood
    async with Stage(fake) as stage:
        await stage.live()
        fake.durable("ses_1")
        fake.transient()
        await stage.settled(fake.memory, 51)
        fake.moods.clear()
        for _ in range(2):
            fake.lose()
            await stage.away()
            await stage.live()
            fake.durable("ses_1")
            fake.durable("ses_old")
            await stage.settled(fake.memory, 52)

        found = await stage.logged()
        audit(found, fake.memory, 51)
        assert len(gaps(found)) == 2


# --- a gap


async def test_what_was_missed_stands_before_the_mark_and_what_was_held_behind_it(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        stayed = stage.listen()
        fake.durable()
        await stage.settled(fake.memory)
        await fake.stop()
        await stage.away()
        fake.many(3)
        fake.open("ses_new", "/srv/b", "prj_b")
        fake.durable("ses_new")
        fake.history_gate.clear()
        await fake.start()
        await until(lambda: fake.count(HISTORY) == 2)
        held = [fake.durable(), fake.transient()]
        await until(lambda: stage.statistic("held_bytes") > 0)
        fake.history_gate.set()
        await stage.settled(fake.memory)
        await stage.live()
        await until(lambda: id_of(stayed.envelopes[-1]) == held[1])

        found = await stage.logged()
        audit(found, fake.memory)
        at = [kind_of(one) for one in found].index(GAP)
        assert [id_of(one) for one in found[at + 1 :]] == [held[0], held[0], held[1]]
        (mark,) = gaps(found)
        assert mark["refilled"] == 10
        assert mark["from"] <= mark["to"]
        audit(stayed.envelopes, fake.memory)


async def test_a_gap_in_the_stream_itself_begins_when_nothing_was_missing_yet(fake: FakeUpstream) -> None:
    now_s = 100.0
    async with Stage(fake, clock=lambda: now_s) as stage:
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)
        now_s = 200.0
        fake.memory.note("ses_1", "message.updated", {})
        fake.durable()
        await stage.settled(fake.memory)

        audit(await stage.logged(), fake.memory)
        assert gaps(await stage.logged()) == [{"from": 100_000, "to": 200_000, "refilled": 4}]


async def test_behind_a_gap_global_streams_are_told_to_look_anew_and_none_ends(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        everything, few = stage.listen(), stage.listen(Selection(stream="global", types=frozenset({"tui.*"})))
        instance = stage.listen(Selection(stream="instance", directory="/srv/b"))
        for directory in ("/srv/a", "/srv/b", "global"):
            fake.transient(directory=directory)
        await until(lambda: len(everything.types) == 3)
        fake.lose()
        await until(lambda: GAP in few.types)
        await stage.live()
        last = fake.transient("tui.toast.show", directory="/srv/b")
        await until(lambda: all(id_of(one.envelopes[-1]) == last for one in (everything, few, instance)))

        news = [GAP, "server.connected", DISPOSED, DISPOSED]
        assert everything.types[3:] == [*few.types[:-1], "tui.toast.show"] == [*news, "tui.toast.show"]
        assert [bool(frame_id) for frame_id, _ in everything.frames[3:]] == [True, False, False, False, True]
        disposals = [one for one in few.envelopes if kind_of(one) == DISPOSED]
        assert [(one["directory"], one["payload"]["properties"]) for one in disposals] == [
            ("/srv/a", {"directory": "/srv/a"}),
            ("/srv/b", {"directory": "/srv/b"}),
        ]
        assert instance.types == ["session.idle", GAP, "tui.toast.show"]
        assert instance.frames[1][0]
        resumed = stage.listen(after=0)
        await until(lambda: last in map(id_of, resumed.envelopes))
        assert [kind for kind in resumed.types if kind == GAP] == [GAP]
        assert "server.connected" in resumed.types


async def test_instances_that_somebody_listens_to_are_booted_again(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        assert await stage.relay.directories.find("/srv/b") == "/srv/b"
        stage.listen(Selection(stream="instance", directory="/srv/b"))
        fake.asked.clear()
        fake.lose()
        await until(lambda: ("GET", "/path?directory=/srv/b") in fake.asked)


async def test_an_instance_that_was_disposed_of_is_booted_for_the_next_who_comes(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        await stage.relay.directories.find("/srv/a")
        await stage.relay.directories.find("/srv/b")
        fake.transient(DISPOSED, directory="/srv/a")
        await until(lambda: stage.statistic("relayed_events") == 1)
        await asyncio.sleep(0)
        before = fake.count(PATH)
        await stage.relay.directories.find("/srv/b")
        assert fake.count(PATH) == before
        await stage.relay.directories.find("/srv/a")
        assert fake.count(PATH) == before + 1


# --- many cuts


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_breaks_each_durable_event_comes_once_and_in_order(tmp_path: Path, seed: int) -> None:
    """Of four shields on one log, each killed, with an upstream that is lost, ends and is killed between two events."""
    chance = random.Random(seed)
    async with FakeUpstream() as fake:
        fake.pieces = lambda data: cut(chance, data)
        fake.many(7, "ses_0")
        since, places = len(fake.memory.rows), [0]
        for _ in range(4):
            async with Stage(fake, tmp_path / "events.sqlite3") as stage:
                listeners = {place: stage.listen(after=place) for place in places}
                await stage.live()
                for _ in range(12):
                    await happen(chance, fake, stage)
                await stage.live()
                await stage.settled(fake.memory, since)
                head = stage.broker.head_position
                await caught_up(listeners.values(), head)

                found = await stage.logged()
                audit(found, fake.memory, since)
                for place, listener in listeners.items():  # those who stayed, and those who were cut and come back
                    assert [one for cursor, one in listener.frames if cursor] == found[place:]
                places = [0, chance.randrange(head + 1), head]
            if chance.random() < 0.7:
                await fake.stop()
                fake.many(chance.randrange(4), "ses_0")
                fake.open(f"ses_{len(fake.memory.rows)}", "/srv/b", "prj_b")
                await fake.start()
        assert fake.most_listeners == 1


async def caught_up(listeners: Iterable[Listener], head: int) -> None:
    """Wait until all have what was logged."""
    await until(lambda: all(one.handle.position == head for one in listeners))


def cut(chance: random.Random, data: bytes) -> list[bytes]:
    """Cut some octets anywhere."""
    ends = sorted(chance.sample(range(1, len(data)), min(2, len(data) - 1))) if len(data) > 1 else []
    return [data[start:end] for start, end in itertools.pairwise([0, *ends, len(data)])]


async def happen(chance: random.Random, fake: FakeUpstream, stage: Stage) -> None:
    """Have one thing happen."""
    sessions = [*fake.memory.homes]
    match chance.randrange(8):
        case 0 | 1 | 2:
            for _ in range(chance.randrange(10)):
                fake.durable(chance.choice(sessions), number=chance.random())
        case 3:
            fake.transient()
        case 4:
            number = len(fake.memory.rows)
            fake.open(f"ses_{number}", f"/srv/{number % 3}", f"prj_{number % 3}")
        case 5:
            chance.choice((fake.lose, fake.end))()
        case 6:
            await fake.stop()
            fake.many(chance.randrange(5), chance.choice(sessions))
            await fake.start()
        case 7:
            await stage.live()
