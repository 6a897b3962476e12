"""A stream is followed across its ends: resumed where it was cut, after a pause that grows, until it is refused."""

import aiohttp
import pytest

from opencode_events.cli import client
from opencode_events.cli.follow import delay_s, follow
from opencode_events.errors import DaemonError
from tests.cli.fakedaemon import Answer, Asked, FakeDaemon, problem, sse


class Story:
    """What following a stream gave: data, pauses, what was said, and what was asked."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.pauses: list[float] = []
        self.said: list[str] = []
        self.asked: list[Asked] = []
        self.error: Exception | None = None

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def story(*answers: Answer, params: tuple[tuple[str, str], ...] = ()) -> Story:
    """Follow a server that gives `answers` and then 404."""
    told = Story()
    with FakeDaemon(*answers) as daemon:
        async with client.session() as session:
            url = f"{daemon.url}/global/event"
            try:
                async for events in follow(
                    session, lambda: url, params, notify=told.said.append, sleep=told.sleep, chance=lambda: 0.0
                ):
                    told.data += [event.data for event in events]
            except (client.Refused, DaemonError) as error:
                told.error = error
        told.asked = daemon.asked
    return told


def numbers(told: Story) -> list[int]:
    return [int(data.rpartition(b":")[2].rstrip(b"}")) for data in told.data]


@pytest.mark.parametrize("is_cut", [False, True], ids=["ended", "cut"])
async def test_a_stream_is_resumed_after_the_last_event(is_cut: bool) -> None:
    told = await story(
        Answer(pieces=(b"retry: 1000\n" + sse(1), sse(2), b"id: 1-3\ndata: {half"), is_cut=is_cut),
        Answer(pieces=(sse(3),)),
        params=(("types", "a,b"), ("types", "c"), ("after", "earliest")),
    )

    assert numbers(told) == [1, 2, 3]
    assert [asked.headers.get("Last-Event-ID") for asked in told.asked] == [None, "1-2", "1-3"]
    assert told.asked[1].query == [("types", "a,b"), ("types", "c"), ("after", "earliest")]
    assert told.asked[0].headers["Accept"] == "text/event-stream"


async def test_the_servers_time_is_kept_and_stays() -> None:
    told = await story(Answer(pieces=(b"retry: 1500\n" + sse(1),)), Answer(pieces=(sse(2),)))

    assert told.pauses == [1.5, 1.5]
    assert told.said == ["the stream ended; again in 1.5 s"] * 2


async def test_the_pause_grows_while_nothing_comes_and_shrinks_when_something_does() -> None:
    told = await story(
        Answer(pieces=(b"retry: 1000\n" + sse(1),)),
        Answer(is_cut=True),
        Answer(is_cut=True),
        Answer(pieces=(sse(2),)),
    )

    assert told.pauses == [1.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize("status", [503, 429], ids=["for all", "for this address"])
async def test_a_busy_server_is_asked_again_when_it_says(status: int) -> None:
    busy = Answer(
        status=status,
        kind="application/problem+json",
        pieces=(b'{"detail":"10000 subscribers"}',),
        headers=(("Retry-After", "7"),),
    )
    told = await story(busy, Answer(pieces=(sse(1),)))

    assert numbers(told) == [1]
    assert told.pauses[0] == 7.0
    assert told.said[0] == "10000 subscribers; again in 7.0 s"


async def test_a_refusal_ends_it_with_the_problems_detail() -> None:
    told = await story(problem(400, detail="no such stream", field="sync"))

    assert str(told.error) == "sync: no such stream"
    assert told.pauses == []


async def test_a_later_refusal_ends_it_too() -> None:
    told = await story(Answer(pieces=(sse(1),)), problem(403, detail="no more"))

    assert numbers(told) == [1]
    assert str(told.error) == "no more"


async def test_204_ends_it_quietly() -> None:
    told = await story(Answer(status=204))

    assert told.error is None
    assert len(told.asked) == 1


async def test_a_page_that_is_no_stream_is_refused() -> None:
    told = await story(Answer(kind="text/html", pieces=(b"<html>",)))

    assert str(told.error).endswith("answers with text/html, not with an event stream")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "cannot be reached: Connection refused"),
        ("nonsense", "not a URL"),
        ("ftp://127.0.0.1", "cannot be reached"),
    ],
    ids=["nobody listens", "no URL", "not HTTP"],
)
async def test_a_server_that_never_answered_is_not_waited_for(url: str, says: str) -> None:
    async with client.session() as session:
        with pytest.raises(DaemonError, match=says) as failed:
            await anext(follow(session, lambda: url, (), notify=lambda _: None))

    assert failed.value.exit_code == 4


async def test_a_server_that_goes_away_is_waited_for() -> None:
    said: list[str] = []

    async def give_up(seconds: float) -> None:
        if len(said) == 3:
            raise KeyboardInterrupt

    with FakeDaemon(Answer(pieces=(sse(1),))) as daemon:
        url = daemon.url
        session = aiohttp.ClientSession()
        stream = follow(session, lambda: url, (), notify=said.append, sleep=give_up)
        assert len(await anext(stream)) == 1
    async with session:
        with pytest.raises(KeyboardInterrupt):
            await anext(stream)

    assert said[-1].startswith("Connection refused; again in ")


async def test_a_server_that_has_moved_is_found() -> None:
    async def at_once(seconds: float) -> None:
        pass

    with FakeDaemon(Answer(pieces=(sse(1),))) as before, FakeDaemon(Answer(pieces=(sse(2),))) as after:
        urls = iter([before.url, after.url])
        async with client.session() as session:
            stream = follow(session, lambda: next(urls), (), notify=lambda _: None, sleep=at_once)
            found = [await anext(stream), await anext(stream)]
            await stream.aclose()

        assert [event.last_id for events in found for event in events] == ["1-1", "1-2"]
        assert after.asked[0].headers["Last-Event-ID"] == "1-1"


@pytest.mark.parametrize(
    ("retry_s", "failures", "chance", "expected"),
    [
        (1.0, 0, 0.0, 1.0),
        (1.0, 0, 1.0, 1.5),
        (1.0, 3, 0.0, 8.0),
        (1.0, 10, 0.0, 30.0),
        (1.0, 100_000, 0.0, 30.0),
        (60.0, 3, 0.0, 60.0),
        (0.0, 0, 0.0, 0.1),
    ],
    ids=["at first", "spread", "doubled", "at most 30", "no overflow", "the server's more counts", "never at once"],
)
def test_the_delay(retry_s: float, failures: int, chance: float, expected: float) -> None:
    assert delay_s(retry_s, failures, chance) == expected
