"""Every way to die or to stall, over a real network, with limits scaled down: all end in time, and for their reason.

On both loops; taken over, on the plain path and behind TLS. A test is one outcome of a daemon's day.
"""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.network.day import Day, spend
from tests.network.deaths import DEATHS
from tests.network.stage import LOOPS, PATHS, Stage, stage_of
from tests.network.survivors import SURVIVORS, comes_back_after_its_goodbye
from tests.network.ways import BACKLOG, LOST

KINDS = [f"{loop}, {path}" for loop, path in itertools.product(LOOPS, PATHS)]
# Days that are had at the same time: more than two processors can bear are late for everything.
AT_A_TIME = 3

WHO_LIVES: dict[str, Callable[[Stage, str], None]] = {each.__name__: each for each in SURVIVORS}
LATE: dict[str, Callable[[Stage, str], None]] = {comes_back_after_its_goodbye.__name__: comes_back_after_its_goodbye}
WHO_DIES = [(kind, death.name) for kind in KINDS for death in DEATHS if kind.split(", ")[1] in death.paths]


def live(kind: str, folder: Path) -> Day:
    with stage_of(kind, folder, ("near", *LOST), backlog_events=BACKLOG) as stage:
        return spend(stage, kind, WHO_LIVES | LATE if kind.endswith("tls") else WHO_LIVES)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Day]]]:
    """A day of each kind of daemon."""
    folder = tmp_path_factory.mktemp("days")
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {kind: pool.submit(live, kind, folder / kind) for kind in KINDS}


@pytest.fixture
def day(days: dict[str, Future[Day]], kind: str) -> Day:
    return days[kind].result()


@pytest.mark.parametrize(("kind", "way"), WHO_DIES, ids=[f"{kind}-{way}" for kind, way in WHO_DIES])
def test_who_dies_or_stalls_is_ended_in_time(day: Day, way: str) -> None:
    day.outcomes[way].result()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WHO_LIVES)
def test_who_lives_is_kept(day: Day, way: str) -> None:
    day.outcomes[way].result()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("tls")])
@pytest.mark.parametrize("way", LATE)
def test_a_goodbye_that_the_loop_does_not_see_leaves_time_to_read(day: Day, way: str) -> None:
    day.outcomes[way].result()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_day(day: Day) -> None:
    day.check()
