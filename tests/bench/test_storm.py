from typing import cast

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.storm import Waves


class Herd:
    """As much of a crowd as waves look at."""

    def __init__(self) -> None:
        self.opened = True
        self.numbers = {"left": 0, "received": 0, "ended": 0}
        self.begun: list[tuple[str, int, dict[str, int]]] = []

    def begin(self, path: str, count: int, **options: int) -> None:
        self.begun.append((path, count, options))

    def is_open(self) -> bool:
        return self.opened

    def left(self) -> int:
        return self.numbers["left"]

    def received(self) -> int:
        return self.numbers["received"]

    def ended(self) -> int:
        return self.numbers["ended"]


class Stage:
    """Waves of three who read four events each, for ten seconds of a clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.herd = Herd()
        self.waves = Waves(cast(Crowd, self.herd), "/path", 3, 4, seconds=10.0, clock=lambda: self.now)


def test_the_first_wave_comes_at_once_and_all_of_it() -> None:
    stage = Stage()

    assert stage.waves()
    assert stage.herd.begun == [("/path", 3, {"at_once": 3, "leaves_at": 4})]


def test_the_next_wave_comes_when_all_have_left() -> None:
    stage = Stage()
    stage.waves()
    stage.herd.numbers["left"] = 2
    assert stage.waves()
    assert stage.waves.begun == 1

    stage.herd.numbers["left"] = 3
    assert stage.waves()
    assert stage.waves.begun == 2


def test_a_wave_that_is_still_connecting_is_waited_for() -> None:
    stage = Stage()
    stage.waves()
    stage.herd.opened = False
    stage.now += 60.0

    assert stage.waves()


def test_the_last_wave_is_the_one_that_is_over_after_the_time() -> None:
    stage = Stage()
    stage.waves()
    stage.now += 10.0
    stage.herd.numbers["received"] = 1
    assert stage.waves()

    stage.herd.numbers["left"] = 3
    assert not stage.waves()
    assert stage.waves.begun == 1


def test_a_wave_in_which_nothing_moves_is_given_up() -> None:
    stage = Stage()
    stage.waves()
    stage.now += 9.9
    stage.herd.numbers["received"] = 1
    assert stage.waves()
    stage.now += 9.9
    assert stage.waves()

    stage.now += 0.2
    assert not stage.waves()


def test_a_stream_that_the_daemon_ends_is_the_end() -> None:
    stage = Stage()
    stage.waves()
    stage.herd.numbers["ended"] = 1

    assert not stage.waves()
