"""How a connection breaks, what is told of it, and what else upstream may say."""

import asyncio

import pytest

from opencode_events.events import GAP
from opencode_events.relay import relay
from opencode_events.relay.upstream import FINDS_AT_ONCE
from tests.clients import dumps
from tests.relay.fake_upstream import EVENTS, PATH, FakeUpstream
from tests.relay.stage import MAX_EVENT_BYTES, Lines, Stage, gaps, id_of, kind_of, named, until

# --- trouble


@pytest.mark.parametrize("mood", ["500", "html", "mute", "hang", "ends", "cut", "401"])
async def test_an_episode_is_told_once_whatever_was_tried(fake: FakeUpstream, lines: Lines, mood: str) -> None:
    async with Stage(fake, upstream_silence_s=0.3 if mood in ("mute", "hang") else 30.0) as stage:
        await stage.live()
        before = fake.count(EVENTS)
        fake.moods[EVENTS] = mood
        fake.lose()
        await until(lambda: fake.count(EVENTS) >= before + 4)
        assert stage.relay.trouble is not None
        assert stage.relay.trouble.startswith("upstream is away: ")
        assert stage.relay.is_locked_out == (mood == "401")
        assert stage.statistic("live") is False
        fake.moods.clear()
        await stage.live()
        fake.durable()
        await stage.settled(fake.memory)

        assert stage.relay.is_locked_out is False
        kinds = 2 if mood == "401" else 1  # that it wants a password is another trouble than that it went
        assert len(named(lines, "relay.lost")) == kinds
        assert len(named(lines, "relay.live")) == 2
        assert len(gaps(await stage.logged())) >= 1
        assert fake.most_listeners == 1


async def test_an_upstream_that_comes_late_is_no_loss(lines: Lines) -> None:
    fake = FakeUpstream()
    async with Stage(fake) as stage:
        assert stage.relay.trouble == "upstream has not been reached yet"
        await until(lambda: named(lines, "relay.lost"))
        async with fake:
            await stage.live()
            fake.durable()
            await stage.settled(fake.memory)

            assert gaps(await stage.logged()) == []
            assert [line["event"] for line in lines if line["event"].startswith("relay.")] == [
                "relay.lost",
                "relay.live",
            ]


async def test_there_are_never_two_connections(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        for number in range(20):
            await stage.live()
            (fake.lose, fake.end)[number % 2]()
            await stage.away()
        await stage.live()

        assert stage.statistic("connections") == 21
        assert fake.most_listeners == 1


async def test_silence_is_an_end_and_a_heartbeat_is_none(fake: FakeUpstream, lines: Lines) -> None:
    async with Stage(fake, upstream_silence_s=0.5) as stage:
        await stage.live()
        for _ in range(8):
            await asyncio.sleep(0.1)
            fake.beat()
        assert fake.count(EVENTS) == 1
        await until(lambda: fake.count(EVENTS) == 2)

        (lost,) = named(lines, "relay.lost")
        assert "no frame for 0.5 s" in lost["reason"]


async def test_tries_are_counted_from_the_last_time_that_it_was_heard(
    fake: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def pause_s(tries: int, least_s: float, most_s: float) -> float:
        counts.append(tries)
        return 0.001

    monkeypatch.setattr(relay, "pause_s", pause_s)
    async with Stage(fake) as stage:
        await stage.live()
        fake.moods[EVENTS] = "500"
        fake.lose()
        await until(lambda: len(counts) >= 4)
        fake.moods.clear()
        await stage.live()
        tried = len(counts)
        fake.lose()
        await until(lambda: len(counts) > tried)

        assert counts[:4] == [0, 1, 2, 3]
        assert counts[tried] == 0


async def test_newcomers_who_wait_for_upstream_do_not_stand_in_the_relay_s_way(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.moods[PATH] = "hang"
        waiting = [asyncio.create_task(stage.relay.directories.find(f"/srv/{number}")) for number in range(200)]
        await until(lambda: fake.count(PATH) >= FINDS_AT_ONCE)
        fake.lose()
        await stage.away()
        await until(lambda: stage.relay.trouble is None, 5.0)

        assert fake.count(PATH) == FINDS_AT_ONCE
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


# --- what upstream says


async def test_an_event_over_the_limit_is_marked_and_the_connection_stays(fake: FakeUpstream) -> None:
    fake.pieces = lambda data: (data[at : at + 8000] for at in range(0, len(data), 8000))
    async with Stage(fake) as stage:
        await stage.live()
        first = fake.transient()
        fake.transient(pad="x" * (10 * MAX_EVENT_BYTES))
        last = fake.transient()
        await until(lambda: stage.statistic("relayed_events") == 3)

        found = await stage.logged()
        assert [id_of(one) for one in (found[0], found[2])] == [first, last]
        assert kind_of(found[1]) == GAP
        assert stage.statistic("unreadable_events") == 1
        assert fake.count(EVENTS) == 1


@pytest.mark.parametrize("data", [b"{", b"[]", b"7", b'{"payload":{}}', b"\xff", b"x" * 50, b"[" * 30_000])
async def test_garbage_is_marked_and_the_connection_stays(fake: FakeUpstream, data: bytes) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        fake.say(data)
        last = fake.transient()
        await until(lambda: stage.statistic("relayed_events") == 2)

        found = await stage.logged()
        assert [kind_of(one) for one in found] == [GAP, "session.idle"]
        assert id_of(found[1]) == last
        assert stage.statistic("unreadable_events") == 1
        assert fake.count(EVENTS) == 1


async def test_what_upstream_says_of_its_own_connection_is_not_passed_on(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        listener = stage.listen()
        fake.beat()
        fake.say(dumps({"payload": {"id": "evt_c", "type": "server.connected", "properties": {}}}))
        last = fake.transient()
        await until(lambda: listener.envelopes)

        assert [id_of(one) for one in listener.envelopes] == [last]


async def test_a_burst_is_taken_whole_and_in_order_whoever_does_not_read(fake: FakeUpstream) -> None:
    async with Stage(fake) as stage:
        await stage.live()
        reader = stage.listen()
        stuck = [stage.listen(room=1000) for _ in range(10)]
        sent = []
        for _ in range(100):
            sent += [fake.transient(pad="x" * 200) for _ in range(100)]
            await asyncio.sleep(0)
        await until(lambda: stage.statistic("relayed_events") == 10_000)

        assert [id_of(one) for one in await stage.logged()] == sent
        await until(lambda: len(reader.connection.received) > 10_000 * 200)
        await until(lambda: id_of(reader.envelopes[-1]) == sent[-1])
        assert [id_of(one) for one in reader.envelopes] == sent
        assert fake.most_listeners == fake.count(EVENTS) == 1
        assert all(one.handle.state.value != "closed" for one in stuck)
