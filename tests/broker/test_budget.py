"""Bytes are counted once, however many hold them."""

from opencode_events.broker.backlog import Backlog
from opencode_events.broker.budget import Budget, cost
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import segment


def test_a_shared_segment_counts_once_until_its_last_holder_goes() -> None:
    budget = Budget(1000)
    one, other = (Backlog(BrokerSettings(), budget) for _ in range(2))
    shared = segment(1, size=600)

    one.append(shared)
    other.append(shared)
    assert (budget.held, shared.holders) == (600, 2)
    one.popleft()
    assert (budget.held, shared.holders) == (600, 1)
    other.discard()
    assert (budget.held, shared.holders) == (0, 0)


def test_different_segments_and_transports_add_up() -> None:
    budget = Budget(1000)
    backlog = Backlog(BrokerSettings(), budget)

    backlog.append(segment(1, size=300))
    backlog.append(segment(2, size=200))
    budget.buffered(64)
    assert (budget.segments, budget.transports, budget.held, budget.peak) == (500, 64, 564, 564)
    backlog.discard()
    budget.buffered(-64)
    assert (budget.held, budget.peak) == (0, 564)


def test_the_limit_itself_is_within_it() -> None:
    budget = Budget(500)
    backlog = Backlog(BrokerSettings(), budget)

    backlog.append(segment(1, size=400))
    budget.buffered(100)
    assert not budget.is_exceeded
    budget.buffered(1)
    assert budget.is_exceeded


def test_a_segment_that_comes_back_counts_again() -> None:
    budget = Budget(1000)
    backlog = Backlog(BrokerSettings(), budget)
    again = segment(1, size=100)

    for _ in range(3):
        backlog.append(again)
        assert budget.held == 100
        backlog.popleft()
        assert budget.held == 0


def test_who_takes_nothing_costs_more_than_who_holds_more_for_a_moment() -> None:
    assert cost(800_000, 0.3) > cost(2_000_000, 0.005)
    assert cost(2_000_000, 0.0) > cost(800_000, 0.0)
    assert cost(0, 100.0) == 0
