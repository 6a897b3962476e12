"""Loss, order and duplicates are found, and told apart."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.bench.sequence import Faults, Position, added, advance, judge


@pytest.mark.parametrize(
    ("received", "faults"),
    [
        pytest.param([0, 1, 2, 3], Faults(), id="all in order"),
        pytest.param([0, 1, 3], Faults(lost=1), id="one left out"),
        pytest.param([1, 2, 3], Faults(lost=1), id="the first left out"),
        pytest.param([0, 1], Faults(lost=2), id="the end missing"),
        pytest.param([], Faults(lost=4), id="nothing"),
        pytest.param([0, 2, 1, 3], Faults(disordered=1), id="two swapped"),
        pytest.param([3, 0, 1, 2], Faults(disordered=3), id="the last first"),
        pytest.param([0, 1, 1, 2, 3], Faults(duplicated=1), id="one twice"),
        pytest.param([0, 1, 2, 3, 0, 1, 2, 3], Faults(duplicated=4), id="everything twice"),
        pytest.param([0, 2, 1, 1, 3], Faults(duplicated=1, disordered=1), id="late, and twice"),
    ],
)
def test_each_fault_has_its_name(received: list[int], faults: Faults) -> None:
    position = advance(Position(), received)

    assert judge({position: 1}, published=4) == faults
    assert bool(judge({position: 1}, published=4)) == any(faults)


@given(st.lists(st.integers(0, 30)), st.lists(st.integers(0, 60), max_size=6))
def test_it_does_not_matter_how_numbers_are_grouped(numbers: list[int], places: list[int]) -> None:
    edges = [0, *sorted(min(place, len(numbers)) for place in places), len(numbers)]
    position = Position()
    for start, end in itertools.pairwise(edges):
        position = advance(position, numbers[start:end])

    assert position == advance(Position(), numbers)


@given(st.lists(st.integers(0, 30)))
def test_every_number_is_either_received_once_or_a_fault(numbers: list[int]) -> None:
    faults = judge({advance(Position(), numbers): 1}, published=31)

    assert faults.lost == 31 - len(set(numbers))
    assert faults.duplicated == len(numbers) - len(set(numbers))


def test_faults_are_summed_over_subscribers() -> None:
    positions = {Position(due=10): 997, Position(due=9): 2, Position(due=10, missing=frozenset({3}), duplicated=2): 1}

    assert judge(positions, published=10, ended=1) == Faults(lost=3, duplicated=2, ended=1)


def test_the_faults_of_several_crowds_are_added_by_kind() -> None:
    assert added(Faults(lost=1, ended=2), Faults(lost=3, duplicated=4), Faults()) == Faults(4, 4, 0, 2)
