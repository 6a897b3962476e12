"""Counting values by their size."""

import pytest

from opencode_events.histogram import SECONDS, Histogram


def test_a_value_counts_at_every_bound_that_it_is_no_larger_than() -> None:
    histogram = Histogram((0, 1, 10))
    for value in (0, 0.5, 1, 1.5, 10, 11):
        histogram.observe(value)

    assert histogram.buckets() == [(0, 1), (1, 3), (10, 5)]
    assert (histogram.count, histogram.sum, histogram.peak) == (6, 24, 11)


def test_an_empty_one_has_nothing() -> None:
    histogram = Histogram((1, 2))

    assert histogram.buckets() == [(1, 0), (2, 0)]
    assert histogram.summary() == {"count": 0, "mean": 0, "p99": 0, "peak": 0}


@pytest.mark.parametrize(
    ("values", "p99"),
    [([0.4], 0.4), ([0.4] * 99 + [5], 1), ([0.4] * 98 + [5] * 2, 5), ([20], 20), ([1] * 200 + [7], 1)],
    ids=["below the first bound", "one in a hundred", "two in a hundred", "beyond the last bound", "half a percent"],
)
def test_people_are_told_what_99_of_100_values_are_no_larger_than(values: list[float], p99: float) -> None:
    histogram = Histogram((1, 10))
    for value in values:
        histogram.observe(value)

    assert histogram.summary()["p99"] == p99


def test_bounds_of_seconds_rise() -> None:
    assert list(SECONDS) == sorted(set(SECONDS))
