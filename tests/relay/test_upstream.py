"""What the relay asks of upstream, and what it takes for an answer."""

from collections.abc import AsyncIterator, Mapping

import pytest

from opencode_events.credentials import Credentials
from opencode_events.errors import UpstreamAway, UpstreamLocked, UpstreamSlow
from opencode_events.relay import upstream as module
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import RelaySettings
from tests.clients import dumps
from tests.relay.fake_upstream import EVENTS, HEALTH, HISTORY, PATH, FakeUpstream
from tests.relay.stage import until


@pytest.fixture
async def asked(fake: FakeUpstream) -> AsyncIterator[Upstream]:
    """What asks `fake`."""
    async with make(fake) as upstream:
        yield upstream


def make(fake: FakeUpstream, *, password: str = "", max_row_bytes: int = 64 * 1024) -> Upstream:
    settings = RelaySettings(upstream=f"{fake.url}/", upstream_silence_s=0.2, upstream_connect_s=2.0)
    credentials = Credentials("opencode", password) if password else None
    return Upstream(settings, credentials, max_row_bytes=max_row_bytes)


async def listen(upstream: Upstream) -> bytes:
    """Return the first piece of the stream."""
    async with upstream.events() as stream:
        return await stream.content.readany()


async def history(upstream: Upstream, known: Mapping[str, int] | None = None) -> list[bytes]:
    return [row async for rows in upstream.history(known or {}) for row in rows]


# --- events


async def test_the_stream_is_asked_for_without_compression_and_closed_at_the_end(
    fake: FakeUpstream, asked: Upstream
) -> None:
    assert b"server.connected" in await listen(asked)
    await until(lambda: not fake.listeners)

    assert fake.asked == [("GET", HEALTH), ("GET", EVENTS)]


async def test_a_server_that_loses_requests_while_it_starts_is_asked_again(
    fake: FakeUpstream, asked: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBES_S", (0.05, 0.05, 10.0))
    fake.starting = 2

    assert b"server.connected" in await listen(asked)
    assert (fake.count(HEALTH), fake.count(EVENTS)) == (3, 1)


async def test_a_server_that_never_answers_is_not_asked_for_its_stream(
    fake: FakeUpstream, asked: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROBES_S", (0.05, 0.05))
    fake.moods[HEALTH] = "hang"

    with pytest.raises(UpstreamSlow, match=HEALTH):
        await listen(asked)
    assert fake.count(EVENTS) == 0


@pytest.mark.parametrize("mood", ["404", "500", "html"])
async def test_whatever_is_answered_is_a_sign_of_life(fake: FakeUpstream, asked: Upstream, mood: str) -> None:
    fake.moods[HEALTH] = mood

    assert b"server.connected" in await listen(asked)


@pytest.mark.parametrize("mood", ["html", "500", "204", "302", "404"])
async def test_an_answer_that_is_no_stream_is_refused(fake: FakeUpstream, asked: Upstream, mood: str) -> None:
    fake.moods[EVENTS] = mood
    with pytest.raises(UpstreamAway, match=r"answered with (text/html|\d)"):
        await listen(asked)


async def test_a_password_that_is_not_held_locks_out_and_one_that_is_opens(fake: FakeUpstream, asked: Upstream) -> None:
    fake.password = "pa:ss wörd"
    with pytest.raises(UpstreamLocked, match="password"):
        await listen(asked)
    async with make(fake, password="pa:ss wörd") as upstream:
        assert b"server.connected" in await listen(upstream)
        assert await upstream.find_directory("/srv/a") == "/srv/a"
        assert await history(upstream) == []


async def test_another_password_is_shown_from_the_next_request_on(fake: FakeUpstream) -> None:
    fake.password = "new"
    held = Credentials("opencode", "old")
    settings = RelaySettings(upstream=fake.url, upstream_silence_s=2.0)
    async with Upstream(settings, held, max_row_bytes=1024) as upstream:
        with pytest.raises(UpstreamLocked, match="refuses the password"):
            await listen(upstream)

        assert held.take(Credentials("opencode", "new"))

        assert b"server.connected" in await listen(upstream)
    assert not held.take(Credentials("opencode", "new"))


async def test_a_server_that_does_not_answer_is_slow(fake: FakeUpstream, asked: Upstream) -> None:
    fake.moods[EVENTS] = "hang"
    with pytest.raises(UpstreamSlow, match=r"not answered within 0\.2 s"):
        await listen(asked)


async def test_a_server_that_is_not_there_is_away(fake: FakeUpstream, asked: Upstream) -> None:
    await fake.stop()
    for ask in (listen(asked), history(asked), asked.find_directory("/srv/a"), asked.find_session("ses_1")):
        with pytest.raises(UpstreamAway):
            await ask


# --- history


async def test_rows_come_as_they_are_written_however_the_answer_is_cut(fake: FakeUpstream, asked: Upstream) -> None:
    fake.pieces = lambda data: (data[at : at + 7] for at in range(0, len(data), 7))
    fake.many(3)
    fake.many(2, "ses_2")

    assert await history(asked) == [dumps(row) for row in fake.memory.rows]
    assert await history(asked, {"ses_1": 1, "ses_2": 1}) == [dumps(fake.memory.rows[2])]
    assert fake.known == [{}, {"ses_1": 1, "ses_2": 1}]


@pytest.mark.parametrize("mood", ["html", "500", "cut", "hang", "stalls"])
async def test_a_history_that_is_not_whole_raises(fake: FakeUpstream, asked: Upstream, mood: str) -> None:
    fake.many(20)
    fake.moods[HISTORY] = mood
    with pytest.raises((UpstreamAway, UpstreamSlow)):
        await history(asked)


async def test_a_history_that_is_an_object_raises(fake: FakeUpstream, asked: Upstream) -> None:
    asked._base += "/session/ses_1?x="  # whatever is asked, the answer is a session
    fake.open("ses_1")
    with pytest.raises(UpstreamAway, match="no history"):
        await history(asked)


# --- places


async def test_a_directory_is_asked_for_to_the_letter(fake: FakeUpstream, asked: Upstream) -> None:
    for name in ("/srv/a", "/srv/ä b", "/srv/50%25", "/srv/a+b&c=d#e?f", "C:\\Users\\x", "/srv/\U0001f600"):
        assert await asked.find_directory(name) == name
    assert await asked.find_directory("") == "/srv/own"
    fake.links["/srv/link"] = "/srv/a"
    assert await asked.find_directory("/srv/link") == "/srv/a"


async def test_a_small_answer_may_come_in_pieces(fake: FakeUpstream, asked: Upstream) -> None:
    async def find(target: object, body: bytes) -> object:
        return {"directory": "/srv/a", "pad": "x" * 200_000}

    fake._find = find  # type: ignore[method-assign]
    fake.pieces = lambda data: (data[at : at + 1000] for at in range(0, len(data), 1000))

    assert await asked.find_directory("/srv/a") == "/srv/a"


async def test_a_small_answer_that_is_large_is_not_read(
    fake: FakeUpstream, asked: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_BYTES", 10)
    with pytest.raises(UpstreamAway, match="/path"):
        await asked.find_directory("/srv/a")


@pytest.mark.parametrize("mood", ["html", "500", "cut", "404"])
async def test_a_place_that_is_not_told_raises(fake: FakeUpstream, asked: Upstream, mood: str) -> None:
    fake.moods[PATH] = mood
    with pytest.raises(UpstreamAway, match="/path"):
        await asked.find_directory("/srv/a")


@pytest.mark.parametrize("mood", ["hang", "stalls"])
async def test_a_place_that_is_not_told_in_time_raises(
    fake: FakeUpstream, asked: Upstream, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_ANSWER_S", 0.05)
    fake.moods[PATH] = mood
    with pytest.raises(UpstreamSlow, match="/path"):
        await asked.find_directory("/srv/a")


async def test_a_session_is_asked_for_by_its_name_and_one_that_is_not_known_raises(
    fake: FakeUpstream, asked: Upstream
) -> None:
    fake.open("ses/1 ä", "/srv/b", "prj_b")

    assert (await asked.find_session("ses/1 ä"))["directory"] == "/srv/b"
    with pytest.raises(UpstreamAway, match="404"):
        await asked.find_session("ses_none")


@pytest.mark.parametrize("found", [[], 7, None, {"directory": ""}, {"directory": 7}, {}], ids=repr)
async def test_an_answer_without_a_directory_raises(fake: FakeUpstream, asked: Upstream, found: object) -> None:
    async def find(target: object, body: bytes) -> object:
        return found

    fake._find = find  # type: ignore[method-assign]
    with pytest.raises(UpstreamAway):
        await asked.find_directory("")
