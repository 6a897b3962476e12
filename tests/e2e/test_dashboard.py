"""The dashboard in a real browser, which is told what to do: what it shows, what its buttons do, what it loads."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients import envelope, until
from tests.e2e.browser import Browser
from tests.servers import Daemon, free_port

ROWS = "[...document.querySelectorAll('#rows tr')]"
CELLS = "[...document.querySelectorAll('#rows td[data-name=\"%s\"]')].map((cell) => cell.textContent)"


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with Browser(tmp_path / "profile") as started:
        yield started


def cells(name: str) -> str:
    return CELLS % name


async def test_it_shows_each_handle_and_what_the_daemon_does(daemon: Daemon, browser: Browser) -> None:
    daemon.client.subscribe("/event?directory=/srv/%3Cimg%20src=x%20onerror=alert(1)%3E")
    daemon.client.subscribe("/global/event?types=a.*,b&sync=none")
    daemon.client.publish(envelope(1), envelope(2))
    await browser.open(f"{daemon.url}/-/")
    await browser.becomes(f"{ROWS}.length === 2")

    assert await browser.ask(cells("stream")) == [
        "/srv/<img src=x onerror=alert(1)>", "global types=a.*,b sync=none",
    ]  # fmt: skip
    assert await browser.ask(cells("state")) == ["live", "live"]
    text = await browser.ask("document.body.innerText")
    assert f"pid {daemon.pid}" in text
    assert "2 published" in text
    assert "Subscribers: 2" in text
    await browser.becomes(f"{cells('per s')}.every((rate) => rate === '0')")  # the second look is there
    assert browser.complaints == []
    assert {url.removeprefix(daemon.url) for url in browser.requests} == {"/-/", "/-/status", "/-/subscribers"}


async def test_a_handle_is_ended_when_the_question_is_answered_with_yes(daemon: Daemon, browser: Browser) -> None:
    streams = [daemon.client.subscribe(f"/event?directory=/srv/{number}") for number in (1, 2)]
    await browser.open(f"{daemon.url}/-/")
    await browser.becomes(f"{ROWS}.length === 2")

    await browser.ask(f"{ROWS}[1].querySelector('button').click()")
    assert "End subscriber 2 (" in await browser.ask("document.getElementById('question').textContent")
    await browser.ask("document.querySelector('dialog button[value=no]').click()")
    await browser.becomes("!document.getElementById('ask').open")
    assert len(daemon.client.subscribers()) == 2
    await browser.ask(f"{ROWS}[1].querySelector('button').click()")
    await browser.ask("document.querySelector('dialog button[value=yes]').click()")
    await browser.becomes(f"{ROWS}.length === 1")

    assert await browser.ask(cells("id")) == ["1"]
    assert [frame.type for frame in streams[1].rest()][-1:] == ["server.stream.closing"]


async def test_that_one_was_not_ended_stays_for_a_while(daemon: Daemon, browser: Browser) -> None:
    stream = daemon.client.subscribe()
    await browser.open(f"{daemon.url}/-/")
    await browser.becomes(f"{ROWS}.length === 1")
    await browser.ask("document.getElementById('pause').click()")
    await browser.ask(f"{ROWS}[0].querySelector('button').click()")
    stream.close()
    until(lambda: not daemon.client.subscribers())

    await browser.ask("document.querySelector('dialog button[value=yes]').click()")
    await browser.becomes("document.getElementById('away').textContent.includes('there is no subscriber 1')")
    await browser.ask("document.getElementById('pause').click()")
    await browser.becomes(f"{ROWS}.length === 0")

    assert "Subscriber 1 was not ended" in await browser.ask("document.getElementById('away').textContent")
    assert "refused: 1 with 404" in await browser.ask("document.body.innerText")


async def test_a_wide_table_does_not_make_the_page_wider(daemon: Daemon, browser: Browser) -> None:
    daemon.client.subscribe()
    await browser.resize(720, 700)
    await browser.open(f"{daemon.url}/-/")
    await browser.becomes(f"{ROWS}.length === 1")

    assert await browser.ask("document.documentElement.scrollWidth") <= 720


async def test_rows_are_filtered_and_sorted(daemon: Daemon, browser: Browser) -> None:
    for name in ("a", "b", "c"):
        daemon.client.subscribe(f"/event?directory=/srv/{name}")
    await browser.open(f"{daemon.url}/-/")
    await browser.becomes(f"{ROWS}.length === 3")

    await browser.ask("document.getElementById('filter').value = 'SRV/B'")
    await browser.ask("document.getElementById('filter').dispatchEvent(new Event('input'))")
    assert await browser.ask(cells("stream")) == ["/srv/b"]
    assert "1 of 3" in await browser.ask("document.getElementById('count').textContent")
    await browser.ask("document.getElementById('filter').value = ''")
    await browser.ask("document.getElementById('order').value = 'age'")
    await browser.ask("document.getElementById('order').dispatchEvent(new Event('change'))")
    assert await browser.ask(cells("stream")) == ["/srv/a", "/srv/b", "/srv/c"]


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(daemon: Daemon, browser: Browser) -> None:
    daemon.client.subscribe("/event?directory=/srv/" + "long" * 60)
    await browser.resize(360, 740, is_phone=True)
    await browser.open(f"{daemon.url}/-/")
    await browser.becomes(f"{ROWS}.length === 1")

    assert await browser.ask("document.documentElement.scrollWidth") <= 360
    assert await browser.ask("getComputedStyle(document.querySelector('thead')).display") == "none"
    assert (await browser.picture()).startswith(b"\x89PNG")


async def test_a_daemon_that_is_away_is_told_of_and_comes_back(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    daemon = Daemon(tmp_path / "state", port=port)
    try:
        await browser.open(f"{daemon.url}/-/")
        await browser.becomes("document.getElementById('cards').children.length > 0")
        daemon.stop()
        await browser.becomes("document.getElementById('away').textContent.includes('away')")
        daemon = Daemon(tmp_path / "state", port=port)
        await browser.becomes("document.getElementById('away').hidden")
        await browser.becomes(f"document.body.innerText.includes('pid {daemon.pid}')")
    finally:
        daemon.stop()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Daemon]:
    """A shield with a password; the server behind it is away, which the dashboard has to show."""
    secret = tmp_path / "password"
    secret.touch(0o600)
    secret.write_text("four words")
    daemon = Daemon(tmp_path / "state", upstream="http://127.0.0.1:1", upstream_password_file=secret)
    yield daemon
    daemon.signal(signal.SIGTERM)
    daemon.wait()


async def test_a_token_that_is_taken_back_is_told_of(browser: Browser, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.touch(0o600)
    tokens.write_text('[one]\ntoken = "0123456789abcdefghijkl"\nscopes = ["operate"]\n')
    daemon = Daemon(tmp_path / "state", tokens_file=tokens)
    try:
        await browser.open(f"{daemon.url}/-/?auth_token=0123456789abcdefghijkl")
        await browser.becomes("document.getElementById('cards').children.length > 0")
        tokens.write_text('[two]\ntoken = "abcdefghijkl0123456789"\nscopes = ["operate"]\n')
        daemon.signal(signal.SIGHUP)
        await browser.becomes("!document.getElementById('away').hidden")

        said = await browser.ask("document.getElementById('away').textContent")
        assert said == "The daemon refuses: what this page's address has as auth_token is not taken"
    finally:
        daemon.stop()


@pytest.mark.parametrize("way", ["basic", "auth_token"])
async def test_a_shield_shows_it_to_those_who_have_the_password(guarded: Daemon, browser: Browser, way: str) -> None:
    plain = f"{guarded.url}/-/"
    opened = {
        "basic": plain.replace("://", "://opencode:four%20words@"),
        "auth_token": plain + "?auth_token=b3BlbmNvZGU6Zm91ciB3b3Jkcw==",
    }
    until(lambda: guarded.client.get("/-/").status == 401)

    await browser.open(opened[way])
    await browser.becomes("document.querySelector('.card.bad')")

    text = await browser.ask("document.querySelector('.card.bad').innerText")
    assert "Upstream" in text
    assert "away" in text
    assert "http://127.0.0.1:1" in text
    assert "Passing through" in await browser.ask("document.body.innerText")
    await browser.becomes("performance.getEntriesByType('resource').length >= 4")
    assert await browser.ask("document.getElementById('away').hidden")
