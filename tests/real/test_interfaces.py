"""The web app in Chromium, the terminal interface in tmux: what happens elsewhere is seen, and after a restart too."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import until
from tests.real.browser import Browser
from tests.real.opencode import Opencode
from tests.real.sdk import Sdk
from tests.real.terminal import Terminal
from tests.servers import Daemon


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[Path], Browser]]:
    """Start browsers for the project in a directory."""
    with contextlib.ExitStack() as stack:

        def start(project: Path) -> Browser:
            browser = Browser(project, tmp_path)
            stack.callback(browser.close)
            return browser

        yield start


@pytest.fixture
def browser(browse: Callable[[Path], Browser], opencode: Opencode) -> Browser:
    """A browser for the project of `opencode`."""
    return browse(opencode.project)


def test_the_web_app_shows_what_happens_elsewhere_before_and_after_a_restart(
    new_shield: Callable[..., Daemon], opencode: Opencode, new_sdk: Callable[..., Sdk], browser: Browser
) -> None:
    """It is loaded once. A session that is born while the shield is away is found when it is back."""
    worker = new_sdk(opencode.url)
    shield = new_shield(opencode)
    browser.open(shield.url)
    worker.create("old enough to be listed")
    browser.see("old enough to be listed")

    worker.create("born before")
    browser.see("born before")
    shield.signal(signal.SIGTERM)
    assert shield.wait() == 0
    worker.create("born while it was away")
    new_shield(opencode)
    browser.see("born while it was away")
    worker.create("born after")
    browser.see("born after")

    assert browser.loads == 1
    assert browser.complaints == []


def test_the_web_app_shows_an_answer_as_it_comes(
    shield: Daemon, opencode: Opencode, new_sdk: Callable[..., Sdk], browser: Browser
) -> None:
    worker = new_sdk(opencode.url)
    session = worker.create("is looked at")
    browser.open(shield.url, session)
    browser.see("is looked at")

    worker.prompt(session, "say 5")

    browser.see("word0 word1 word2 word3 word4 Done.")
    assert browser.loads == 1


@pytest.fixture
def attach(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Attach the terminal interface. Arguments are those of `Terminal`, without the folder."""
    with contextlib.ExitStack() as stack:

        def start(url: str, project: Path, *arguments: str) -> Terminal:
            terminal = Terminal(url, project, tmp_path, *arguments)
            stack.callback(terminal.close)
            return terminal

        yield start


def test_the_terminal_interface_shows_what_happens_elsewhere_before_and_after_a_restart(
    new_shield: Callable[..., Daemon], opencode: Opencode, new_sdk: Callable[..., Sdk], attach: Callable[..., Terminal]
) -> None:
    """It comes back by itself, without a cursor: what has happened meanwhile it does not ask for."""
    worker = new_sdk(opencode.url)
    session = worker.create("on a terminal")
    shield = new_shield(opencode)
    terminal = attach(shield.url, opencode.project, "--session", session)
    until(lambda: shield.client.subscribers())
    terminal.see("ctrl+p commands")
    worker.prompt(session, "say 3")
    terminal.see("word0 word1 word2 Done.")

    shield.signal(signal.SIGTERM)
    assert shield.wait() == 0
    shield = new_shield(opencode)
    until(lambda: shield.client.subscribers())
    worker.prompt(session, "say 5")

    terminal.see("word0 word1 word2 word3 word4 Done.")


@pytest.mark.limit_s(120)  # three large programs, one of them started twice
def test_both_are_told_that_upstream_was_killed(
    new_opencode: Callable[..., Opencode],
    new_shield: Callable[..., Daemon],
    new_sdk: Callable[..., Sdk],
    attach: Callable[..., Terminal],
    browse: Callable[[Path], Browser],
) -> None:
    """They would wait for an answer for ever: nobody says of a session that died with it that it is idle. They ask."""
    upstream = new_opencode()
    shield = new_shield(upstream, upstream_retry_max_s=1)
    worker = new_sdk(upstream.url, upstream.project)
    session = worker.create("dies")
    terminal = attach(shield.url, upstream.project, "--session", session)
    browser = browse(upstream.project)
    browser.open(shield.url, session)
    browser.see("dies")
    terminal.see("ctrl+p commands")
    worker.begin(session, "crawl")
    terminal.see("step step step")
    terminal.see("esc interrupt")
    browser.see("Thinking")

    upstream.kill()
    upstream.start()

    terminal.see_no("esc interrupt")
    browser.see_no("Thinking")
    worker.prompt(session, "say 5")
    terminal.see("word0 word1 word2 word3 word4 Done.")
    browser.see("word0 word1 word2 word3 word4 Done.")
    assert browser.loads == 1
