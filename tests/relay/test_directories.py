"""Which instance a directory leads to."""

import asyncio
from pathlib import Path

import pytest

from opencode_events.errors import Busy, UpstreamAway, UpstreamSlow
from opencode_events.relay import directories
from opencode_events.relay.directories import AT_ONCE, Directories


class FakeFinder:
    """Knows some directories, and notes what it is asked. `error` is raised instead; `gate` holds answers up."""

    def __init__(self) -> None:
        self.known = {"": "/srv/own", "/srv/link": "/srv/a"}
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def find_directory(self, asked: str) -> str:
        self.asked.append(asked)
        self.waiting += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.known.get(asked, asked)


AWAY = [UpstreamAway("it is not there"), UpstreamSlow("it does not answer")]


@pytest.fixture
def finder() -> FakeFinder:
    return FakeFinder()


@pytest.fixture
def found(finder: FakeFinder) -> Directories:
    return Directories(finder)


async def test_upstream_is_asked_once_for_each_and_its_answer_counts(finder: FakeFinder, found: Directories) -> None:
    for _ in range(3):
        assert await found.find("/srv/link") == "/srv/a"
        assert await found.find("/srv/b") == "/srv/b"
        assert await found.find("") == "/srv/own"

    assert finder.asked == ["/srv/link", "/srv/b", ""]


@pytest.mark.parametrize("error", AWAY, ids=["away", "slow"])
async def test_while_upstream_is_away_a_directory_is_what_was_asked_for(
    finder: FakeFinder, found: Directories, error: Exception
) -> None:
    finder.error = error
    assert await found.find("/srv/link") == "/srv/link"
    finder.error = None

    assert await found.find("/srv/link") == "/srv/a"


async def test_while_upstream_is_away_a_link_leads_to_where_upstream_will_find_it(
    finder: FakeFinder, found: Directories, tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    finder.known[""] = str(tmp_path)
    finder.error = AWAY[0]
    assert await found.find(f"{tmp_path}/link") == await found.find(f"{real}/") == str(real)
    assert await found.find("link") == "link"
    assert await found.find("/srv/\0") == "/srv/\0"
    finder.error = None
    await found.find("")
    finder.error = AWAY[0]

    assert await found.find("link") == str(real)
    assert await found.find("~") == f"{tmp_path}/~"


async def test_upstreams_own_is_not_known_before_it_has_told_it(finder: FakeFinder, found: Directories) -> None:
    finder.error = AWAY[0]
    with pytest.raises(Busy, match="directory=D"):
        await found.find("")
    finder.error = None
    await found.find("")
    found.forget()
    finder.error = AWAY[0]

    assert await found.find("") == "/srv/own"


async def test_what_is_disposed_of_is_booted_again(finder: FakeFinder, found: Directories) -> None:
    for asked in ("/srv/link", "/srv/a", "/srv/b"):
        await found.find(asked)
    found.forget("/srv/a")
    finder.asked.clear()
    for asked in ("/srv/link", "/srv/a", "/srv/b"):
        await found.find(asked)

    assert finder.asked == ["/srv/link", "/srv/a"]


async def test_all_are_forgotten_together(finder: FakeFinder, found: Directories) -> None:
    await found.boot(["/srv/a", "/srv/b"])
    found.forget()
    await found.boot(["/srv/a", "/srv/b"])

    assert sorted(finder.asked) == ["/srv/a", "/srv/a", "/srv/b", "/srv/b"]


async def test_few_are_booted_at_a_time_and_one_that_fails_keeps_none_waiting(
    finder: FakeFinder, found: Directories
) -> None:
    finder.gate.clear()
    boots = asyncio.create_task(found.boot(f"/srv/{number}" for number in range(20)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert finder.waiting == AT_ONCE
    finder.error = AWAY[1]
    finder.gate.set()
    await boots

    assert len(finder.asked) == 20


async def test_so_many_answers_are_remembered(
    finder: FakeFinder, found: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "REMEMBERED", 2)
    for asked in ("/srv/a", "/srv/b", "/srv/c", "/srv/a", "/srv/c"):
        assert await found.find(asked) == asked

    assert finder.asked == ["/srv/a", "/srv/b", "/srv/c", "/srv/c"]
