import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.bench.errors import BenchError
from opencode_events.bench.payload import EventMaker, new_run, pattern


@given(st.integers(180, 5_000), st.integers(0, 2**63 - 1))
def test_an_event_has_exactly_the_size_asked_for_whatever_its_number(size: int, number: int) -> None:
    maker = EventMaker("ab12cd34", size=size)
    maker.made = number

    event = maker.make()

    assert len(event) == size
    assert json.loads(event)["payload"]["properties"]["seq"] == number


def test_an_event_is_an_envelope_that_says_when_it_was_made() -> None:
    before = time.monotonic_ns()
    event = json.loads(EventMaker("ab12cd34", directory="/x").make())

    assert event["directory"] == "/x"
    assert event["payload"]["type"] == "bench.event"
    assert event["payload"]["properties"]["run"] == "ab12cd34"
    assert before <= event["payload"]["properties"]["sent"] <= time.monotonic_ns()


def test_an_array_goes_on_where_the_last_event_stopped() -> None:
    maker = EventMaker("ab12cd34")
    maker.make()

    array = maker.make_array(3)

    assert [event["payload"]["properties"]["seq"] for event in json.loads(array)] == [1, 2, 3]
    assert len(array) == 3 * (maker.size + 1) + 1
    assert maker.made == 4


def test_an_event_of_another_run_is_not_found() -> None:
    run, other = new_run(), new_run()

    assert run != other
    assert pattern(run).findall(EventMaker(other).make()) == []
    assert len(pattern(run).findall(EventMaker(run).make())) == 1


def test_a_size_in_which_no_event_fits_is_refused() -> None:
    with pytest.raises(BenchError, match="needs at least"):
        EventMaker("ab12cd34", size=100)
