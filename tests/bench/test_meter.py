import os

import pytest

from opencode_events.bench.meter import Meter, Spent
from opencode_events.bench.procfs import Process


def test_the_time_of_several_rounds_is_added() -> None:
    both = Spent(wall_s=1.0, cpu_s=0.5, tool_cpu_s=0.25).plus(Spent(wall_s=3.0, cpu_s=1.5, tool_cpu_s=0.75))

    assert both == Spent(wall_s=4.0, cpu_s=2.0, tool_cpu_s=1.0)
    assert both.tool_cores == 0.25


@pytest.mark.parametrize("seen", [Spent(), Spent(cpu_s=1.0)])
def test_what_cannot_be_seen_in_one_round_is_not_known_of_all(seen: Spent) -> None:
    blind = Spent(cpu_s=None)

    assert seen.plus(blind).cpu_s is None
    assert blind.plus(seen).cpu_s is None


def test_a_process_that_measures_itself_counts_twice() -> None:
    meter = Meter(Process(os.getpid()))
    sum(range(200_000))
    spent = meter.read()

    assert spent.cpu_s is not None
    assert 0 < spent.cpu_s <= spent.tool_cpu_s
    assert spent.wall_s > 0


def test_a_process_that_cannot_be_seen_has_spent_what_nobody_knows() -> None:
    assert Meter(Process(None)).read().cpu_s is None
