"""What every event log must do with gaps: they belong to no directory, so who reads an instance's events has them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import events
from opencode_events.eventlog.base import EventLog, Query
from opencode_events.events import Event
from tests.eventlog.steps import EVERYTHING, MANY_EXAMPLES, Clock, OpenLog, positions, put, read_all, settle
from tests.samples import event, twin

A, B = EVERYTHING._replace(directory="/srv/a"), EVERYTHING._replace(directory="/srv/b")
NUMBERS = itertools.count(1)
WHATS = st.sampled_from(["a", "b", "nowhere", "twin", "gap", "gap's twin"])
LIMITS = st.tuples(st.booleans(), st.integers(1, 5), st.integers(1, 1000))


def is_any(one: Event) -> bool:
    return True


def made(what: str, run: int) -> Event:
    number = next(NUMBERS)
    if what == "gap":
        return events.gap(None, number, 0)
    if what == "gap's twin":
        return twin(number, f"{events.GAP}.1", session=f"{run}:{number}")
    if what == "twin":
        return twin(number, session=f"{run}:{number}")
    return event(number, directory={"a": "/srv/a", "b": "/srv/b"}.get(what))


class GapsContract:
    """A part of `EventLogContract`."""

    async def test_a_gap_is_read_as_it_was_written_by_all_and_in_its_place(self, log: EventLog) -> None:
        gap = events.gap(1_800_000_000_000, 1_800_000_030_000, 7)
        await put(log, [event(1), event(2, directory="/srv/b")], [gap], [event(3)])

        assert await positions(log, query=A) == [1, 3, 4]
        assert await positions(log, query=B) == [2, 3]
        assert await positions(log, query=EVERYTHING._replace(directory="/srv/new")) == [3]
        for query in (EVERYTHING, A, B._replace(matches=is_any)):
            (found,) = [one.event for page in await read_all(log, 2, query) for one in page.events if one.position == 3]
            assert found == gap

    async def test_filters_look_at_a_gap_as_at_any_other(self, log: EventLog) -> None:
        await put(log, [event(1), events.gap(None, 1, 0), event(2)])

        assert await positions(log, query=A._replace(matches=lambda one: one.type == events.GAP)) == [2]
        assert await positions(log, query=A._replace(matches=lambda one: one.type != events.GAP)) == [1, 3]

    async def test_gaps_go_with_the_others(self, open_log: OpenLog, clock: Clock) -> None:
        log = open_log(log_max_age_s=60.0)
        await put(log, [event(1), events.gap(None, 1, 0)])
        clock.now += 30.0
        await put(log, [event(2), events.gap(None, 2, 0)])
        clock.now += 31.0
        await settle(log)

        assert log.oldest == 3
        assert await positions(log, 2, A) == [3, 4]

    @pytest.mark.parametrize("query", [A, A._replace(matches=is_any)], ids=["all", "looked at"])
    async def test_many_gaps_come_in_pages(self, log: EventLog, query: Query) -> None:
        await put(log, [one for number in range(50) for one in (event(number), events.gap(None, number, 0))])
        pages = await read_all(log, 0, query._replace(max_events=7))

        assert [len(page.events) for page in pages] == [7] * 14 + [2]
        assert [one.position for page in pages for one in page.events] == list(range(1, 101))

    @MANY_EXAMPLES
    @given(whats=st.lists(WHATS, max_size=20), after=st.integers(0, 10), limits=LIMITS)
    async def test_an_instance_has_its_own_and_all_gaps_whatever_stands_between(
        self, log: EventLog, whats: list[str], after: int, limits: tuple[bool, int, int]
    ) -> None:
        run, base = next(NUMBERS), log.head
        await put(log, [made(what, run) for what in whats])
        is_looked_at, max_events, max_bytes = limits
        query = Query("/srv/a", is_any if is_looked_at else None, max_events, max_bytes)
        expected = [base + number for number, what in enumerate(whats, 1) if what in ("a", "gap") and number > after]

        assert await positions(log, min(base + after, log.head), query) == expected
