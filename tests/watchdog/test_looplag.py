"""How late the loop is."""

import asyncio
import time
from collections.abc import Callable

import pytest

from opencode_events.histogram import Histogram
from opencode_events.watchdog import looplag
from opencode_events.watchdog.looplag import LoopLag


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def measured(lag: LoopLag) -> Histogram:
    found = lag.statistics()["lag_s"]
    assert isinstance(found, Histogram)
    return found


async def turned(condition: Callable[[], bool]) -> None:
    """Let the loop turn until it holds."""
    while not condition():  # noqa: ASYNC110  # what is waited for happens by time alone
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(("late_s", "bound"), [(0.0, 0.001), (0.3, 0.5), (29.9, 30.0)])
def test_what_a_turn_is_late_is_counted(late_s: float, bound: float) -> None:
    clock = Clock()
    lag = LoopLag(clock)
    clock.now += late_s
    lag.tick()

    found = measured(lag)
    assert found.count == 1
    assert found.sum == pytest.approx(late_s)
    assert next(each for each, below in found.buckets() if below) == bound


def test_a_timer_that_is_early_is_not_late() -> None:
    clock = Clock()
    lag = LoopLag(clock)
    clock.now -= 0.001
    lag.tick()

    assert (measured(lag).count, measured(lag).sum) == (1, 0)


async def test_a_blocked_loop_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looplag, "PERIOD_S", 0.01)
    lag = LoopLag()
    task = asyncio.create_task(lag.run())
    await turned(lambda: measured(lag).count > 0)
    before = measured(lag).count
    time.sleep(0.2)  # noqa: ASYNC251  # that is what is to be seen
    await turned(lambda: measured(lag).count > before)
    task.cancel()

    assert measured(lag).peak > 0.1
