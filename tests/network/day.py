"""A daemon's day: everything that can happen to one happens to it at once, on a thread each."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from tests.network.deaths import DEATHS, meet
from tests.network.hosts import Tcp
from tests.network.stage import Stage, settle
from tests.web.events import synced

# What `/sync/history` answers with.
HISTORY_BYTES = 8_000_000
HISTORY_EVENT_BYTES = 100_000


@dataclass
class Day:
    """What came of a day: what was seen on each way, and what was left when all were gone."""

    outcomes: dict[str, Future[str]] = field(default_factory=dict)
    descriptors_before: int = 0
    descriptors_after: int = 0
    tables: dict[str, Tcp] = field(default_factory=dict)
    subscribers: list[dict[str, Any]] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    complaint: str = ""

    def check(self) -> None:
        """Nothing was left, and nobody complained."""
        assert self.tables == {}
        assert self.subscribers == []
        assert self.descriptors_after <= self.descriptors_before
        assert self.status["broker"]["held_bytes"] == 0
        assert self.errors == []
        assert self.complaint.count("\n") == 2, self.complaint  # where it listens; nothing else


def spend(stage: Stage, kind: str, lives: Mapping[str, Callable[[Stage, str], object]]) -> Day:
    """Have a day on a stage of a kind, with everybody who dies there, and `lives` beside them."""
    day = Day()
    prepare(stage)
    day.descriptors_before = settle(stage.daemon.descriptors)
    deaths = [each for each in DEATHS if kind.split(", ")[1] in each.paths]
    with ThreadPoolExecutor(len(deaths) + len(lives)) as pool:
        for death in deaths:
            day.outcomes[death.name] = pool.submit(meet, stage, kind, death)
        for name, live in lives.items():
            day.outcomes[name] = pool.submit(lived, stage, name, live)
        wait(day.outcomes.values())
    stage.leave()
    day.descriptors_after = settle(stage.daemon.descriptors, for_s=0.5)
    day.tables = dict(stage.tables())
    day.subscribers = stage.operator.subscribers()
    day.status = stage.operator.status()
    day.errors = [line for line in stage.daemon.lines() if line["level"] == "error"]
    day.complaint = stage.daemon.errors()
    return day


def prepare(stage: Stage) -> None:
    """Give the daemon a history, and have it open all the files that it will."""
    pad = "x" * HISTORY_EVENT_BYTES
    stage.operator.publish(
        *(synced(f"h{seq}", seq, "ses_h", {"pad": pad}) for seq in range(HISTORY_BYTES // len(pad) + 1))
    )
    assert len(stage.operator.post("/sync/history", b"{}").body) > HISTORY_BYTES


def lived(stage: Stage, name: str, live: Callable[[Stage, str], object]) -> str:
    return str(live(stage, f"/{name}") or "kept")
