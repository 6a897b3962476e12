import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.bench.sample import Sample, percentile


def test_a_small_sample_is_everything() -> None:
    sample = Sample(limit=10)
    for value in range(9):
        sample.add(value)

    assert sample.values == list(range(9))


@given(st.integers(2, 40), st.integers(0, 2_000))
def test_a_large_sample_is_bounded_and_evenly_spaced(limit: int, count: int) -> None:
    sample = Sample(limit=limit)
    for value in range(count):
        sample.add(value)

    strides = {b - a for a, b in itertools.pairwise(sample.values)}
    assert len(sample.values) < limit
    assert len(strides) <= 1
    assert sample.values[:1] == list(range(min(count, 1)))


def test_a_cleared_sample_starts_afresh() -> None:
    sample = Sample(limit=4)
    for value in range(100):
        sample.add(value)

    sample.clear()
    sample.add(7)
    sample.add(8)

    assert sample.values == [7, 8]


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)], ids=lambda value: str(value)
)
def test_a_percentile_is_a_value_of_the_sample(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    assert percentile([], 50) is None
