"""Whether there is memory for somebody new: when it is looked, what is said, and what the system allows."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from opencode_events.errors import Busy
from opencode_events.web.memory import Memory, allowed_bytes, give_back_free, resident_bytes


class System:
    """A process that has `has` bytes, and `free` of them only because nobody has asked for them back."""

    def __init__(self) -> None:
        self.now, self.has, self.free, self.given_back = 0.0, 0, 0, 0

    def memory(self, limit: int) -> Memory:
        return Memory(limit, read=lambda: self.has, give_back=self._give_back, clock=lambda: self.now)

    def _give_back(self) -> None:
        self.given_back += 1
        self.has, self.free = self.has - self.free, 0


@pytest.fixture
def system() -> System:
    return System()


def test_at_the_limit_somebody_is_served_and_beyond_it_nobody(system: System) -> None:
    memory = system.memory(100)

    system.has = 100
    memory.check()
    system.now, system.has = 1.0, 101
    with pytest.raises(Busy, match="memory is short: 101 bytes are in use, of 100") as refusal:
        memory.check()

    assert (refusal.value.retry_after_s, refusal.value.limit) == (5, 100)
    system.now, system.has = 2.0, 100
    memory.check()


def test_each_episode_is_told_once(system: System) -> None:
    memory = system.memory(100)
    with capture_logs() as told:
        for system.now, system.has in ((1, 200), (2, 300), (3, 50), (4, 60), (5, 101)):
            assert (memory.trouble is None) is (system.has <= 100)

    assert [line["event"] for line in told] == ["memory.short", "memory.eased", "memory.short"]
    assert told[0] == {"event": "memory.short", "log_level": "warning", "rss_bytes": 200, "limit_bytes": 100}


def test_what_is_free_is_given_back_before_anybody_is_refused_and_not_all_the_time(system: System) -> None:
    memory = system.memory(100)

    system.has, system.free = 150, 60
    memory.check()
    for system.now in (1.0, 2.0, 3.0):
        system.has, system.free = 150, 60
        assert memory.trouble is not None
    system.now = 5.0

    assert memory.trouble is None
    assert system.given_back == 2


def test_an_answer_of_the_system_holds_for_a_moment(system: System) -> None:
    memory = system.memory(100)
    memory.check()

    system.now, system.has = 0.2, 200
    memory.check()
    system.now = 0.3

    assert memory.trouble is not None


def test_it_tells_what_there_is_and_whether_that_is_too_much(system: System) -> None:
    memory = system.memory(100)
    system.has = 40
    assert memory.statistics() == {"rss_bytes": 40, "limit_bytes": 100, "is_short": False}

    system.now, system.has = 1.0, 101

    assert memory.statistics() == {"rss_bytes": 101, "limit_bytes": 100, "is_short": True}


def test_it_tells_what_there_is_where_there_is_no_limit(system: System) -> None:
    system.has = 40

    assert system.memory(0).statistics() == {"rss_bytes": 40, "limit_bytes": 0, "is_short": False}


def test_what_cannot_be_read_just_now_is_as_it_was(system: System) -> None:
    """Where no descriptor is left to read it with, that is no sign of memory."""
    memory = system.memory(100)
    system.has = 101
    assert memory.trouble is not None

    system.now, system.has = 1.0, 0

    assert memory.trouble is not None


def test_without_a_limit_nothing_is_asked(system: System) -> None:
    system.has = 10**12

    system.memory(0).check()


def test_this_process_has_some_and_can_give_some_back() -> None:
    before = resident_bytes()
    give_back_free()

    assert 1_000_000 < before < 100_000_000_000


def test_the_smallest_limit_on_the_way_up_counts(tmp_path: Path) -> None:
    groups, process = tmp_path / "cgroup", tmp_path / "proc"
    (groups / "a/b/c").mkdir(parents=True)
    (process / "self").mkdir(parents=True)
    (process / "self/cgroup").write_text("0::/a/b/c\n")
    (process / "meminfo").write_text("MemFree: 1 kB\nMemTotal:  4000 kB\n")

    assert allowed_bytes(groups, process) == 3_686_400
    (groups / "a/b/c/memory.max").write_text("max\n")
    (groups / "a/b/memory.max").write_text("2000\n")
    (groups / "a/memory.max").write_text("1000\n")
    (groups / "memory.max").write_text("3000\n")
    (tmp_path / "memory.max").write_text("1\n")
    assert allowed_bytes(groups, process) == 900


def test_where_the_system_does_not_tell_there_is_no_limit(tmp_path: Path) -> None:
    assert allowed_bytes(tmp_path / "cgroup", tmp_path / "proc") == 0
