"""The stream as frames: each comes whole, and an end, a break and silence are told apart."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvloop

from opencode_events.errors import UpstreamAway, UpstreamSlow
from opencode_events.relay.stream import EventStream
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import RelaySettings
from tests.relay.fake_upstream import FakeUpstream
from tests.relay.stage import until

LIMIT = 1000


@pytest.fixture
async def stream(fake: FakeUpstream) -> AsyncIterator[EventStream]:
    """What `fake` sends, behind the first frame."""
    settings = RelaySettings(upstream=fake.url)
    async with Upstream(settings, None, max_row_bytes=LIMIT) as upstream, upstream.events() as response:
        made = EventStream(response, max_event_bytes=LIMIT, silence_s=0.3)
        assert b"server.connected" in (await made.read())[0].data
        yield made


async def test_frames_come_whole_however_they_are_cut(fake: FakeUpstream, stream: EventStream) -> None:
    fake.pieces = lambda data: (data[at : at + 3] for at in range(0, len(data), 3))
    fake.say(b"one")
    fake.say(b"two")

    found = await stream.read()
    while len(found) < 2:
        found += await stream.read()

    assert [frame.data for frame in found] == [b"one", b"two"]


async def test_a_frame_over_the_limit_is_cut(fake: FakeUpstream, stream: EventStream) -> None:
    fake.say(b"x" * (LIMIT + 1))

    (frame,) = await stream.read()

    assert frame.is_cut
    assert frame.data == b""


async def test_a_whole_answer_has_an_end(fake: FakeUpstream, stream: EventStream) -> None:
    assert not stream.is_over
    fake.end()

    assert await stream.read() == []
    assert stream.is_over


async def test_a_stream_that_breaks_is_away(fake: FakeUpstream, stream: EventStream) -> None:
    fake.lose()

    with pytest.raises(UpstreamAway, match="broke off"):
        await stream.read()
    assert stream.is_over


async def test_what_upstream_says_beside_frames_is_silence(fake: FakeUpstream, stream: EventStream) -> None:
    fake.write(b": still here\n\n")

    with pytest.raises(UpstreamSlow, match=r"no frame for 0\.3 s"):
        await stream.read()


async def test_a_flood_is_read_in_pauses_and_all_of_it_comes(fake: FakeUpstream, stream: EventStream) -> None:
    reads, found = 0, 0
    for _ in range(20):
        for _ in range(100):
            fake.say(b"x" * 100)
    while found < 2000:
        found += len(await stream.read())
        reads += 1

    assert reads < 50


def test_a_flood_is_read_in_pauses_on_uvloop_too() -> None:
    """Its transports are none of asyncio's by name."""

    async def count_reads() -> int:
        reads, found, call_later = 0, 0, asyncio.get_running_loop().call_later
        async with (
            FakeUpstream() as fake,
            Upstream(RelaySettings(upstream=fake.url), None, max_row_bytes=LIMIT) as upstream,
            upstream.events() as response,
        ):
            stream = EventStream(response, max_event_bytes=LIMIT, silence_s=3)
            await stream.read()
            for number in range(200):
                call_later(number / 2000, fake.say, b"x" * 100)  # all of them in a tenth of a second
            while found < 200:
                found += len(await stream.read())
                reads += 1
        return reads

    assert uvloop.run(count_reads()) < 60


async def test_it_may_be_let_go_before_its_end(fake: FakeUpstream, stream: EventStream) -> None:
    stream.close()

    await until(lambda: not fake.listeners)
