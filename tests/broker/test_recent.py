"""A page of the newest events is what a plain list would give; where they do not reach back to, there is none."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import events
from opencode_events.broker.recent import Recent
from opencode_events.eventlog.base import Page, Query, Stored
from opencode_events.events import GAP, Event
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import EPOCH
from tests.samples import event, twin

ALL = Query(None, None, 500, 1_000_000)
SIZE = len(event(1).envelope)  # of those with one digit


def stored(position: int, found: Event) -> Stored:
    return Stored(position, b"%b-%d" % (EPOCH.encode(), position), found)


def recent(found: Sequence[Stored], *, head: int = 0, events: int = 1_000, size: int = 1_000_000) -> Recent:
    made = Recent(BrokerSettings(recent_events=events, recent_bytes=size), head)
    for one in found:
        made.append(one)
    return made


def numbered(count: int, *, after: int = 0) -> list[Stored]:
    return [stored(position, event(position)) for position in range(after + 1, after + count + 1)]


def positions(page: Page | None) -> list[int] | None:
    return None if page is None else [one.position for one in page.events]


# --- any of them


def a_or_b(found: Event) -> bool:
    return found.type in ("a", "b")


def nothing(found: Event) -> bool:
    return False


A_GAP = events.gap(None, 1, 0)
EVENTS = st.lists(
    st.builds(
        lambda kind, directory, pad, is_sync: (
            twin(1, f"{kind}.1", directory=directory)
            if is_sync
            else A_GAP
            if kind == "a gap"
            else event(1, kind, directory=directory, pad=pad)
        ),
        st.sampled_from(["a", "b", "c", "a gap"]),
        st.sampled_from(["/srv/a", "/srv/b", None]),
        st.sampled_from([0, 0, 0, 50, 700]),
        st.booleans(),
    ),
    max_size=12,
)
QUERIES = st.builds(
    Query,
    st.sampled_from([None, "/srv/a", "/srv/c"]),
    st.sampled_from([None, a_or_b, nothing]),
    st.integers(1, 5),
    st.integers(1, 1_000),
)


def kept(found: Sequence[Stored], events: int, size: int) -> Sequence[Stored]:
    """Return the newest ones that fit, one at least."""
    for start in range(len(found)):
        rest = found[start:]
        if len(rest) == 1 or (len(rest) <= events and sum(len(one.event.envelope) for one in rest) <= size):
            return rest
    return []


def page_of(found: Sequence[Stored], head: int, query: Query) -> Page:
    """Return the page that a list gives."""
    matches: Callable[[Event], bool] = query.matches or (lambda event: True)
    directory = query.directory
    wanted = [
        one
        for one in found
        if (directory is None or (one.event.directory == directory and not one.event.is_sync) or one.event.type == GAP)
        and matches(one.event)
    ]
    count = min(len(wanted), query.max_events)
    while count > 1 and sum(len(one.event.envelope) for one in wanted[:count]) > query.max_bytes:
        count -= 1
    return Page(wanted[:count], wanted[count - 1].position if count < len(wanted) else head, 0)


@given(EVENTS, st.integers(0, 20), st.integers(1, 12), st.integers(1, 3_000), st.lists(QUERIES, min_size=1, max_size=5))
def test_every_page_is_what_a_list_would_give(
    given: list[Event], head: int, max_events: int, max_bytes: int, queries: list[Query]
) -> None:
    found = [stored(position, one) for position, one in enumerate(given, head + 1)]
    ring = recent(found, head=head, events=max_events, size=max_bytes)
    newest = head + len(found)
    there = kept(found, max_events, max_bytes)
    for query in queries:
        for after in range(newest + 1):
            page = ring.read(after, query)
            if after < newest - len(there):
                assert page is None
            else:
                assert page == page_of([one for one in there if one.position > after], newest, query)


# --- its ends


def test_an_empty_one_knows_that_nothing_is_behind_the_head() -> None:
    ring = recent([], head=7)

    assert ring.read(7, ALL) == Page([], 7, 0)
    assert ring.read(6, ALL) is None


def test_it_reaches_back_as_far_as_it_has_events_and_no_further() -> None:
    ring = recent(numbered(5, after=40), head=40, events=3)

    assert positions(ring.read(42, ALL)) == [43, 44, 45]
    assert ring.read(41, ALL) is None
    assert ring.read(45, ALL) == Page([], 45, 0)


@pytest.mark.parametrize(("size", "there"), [(3 * SIZE, 3), (3 * SIZE - 1, 2), (1, 1)])
def test_its_bytes_are_bounded_but_the_newest_is_always_there(size: int, there: int) -> None:
    ring = recent(numbered(6), size=size)

    assert positions(ring.read(6 - there, ALL)) == list(range(7 - there, 7))
    assert ring.read(6 - there - 1, ALL) is None


def test_one_that_is_larger_than_all_of_it_displaces_all_others_and_goes_with_the_next() -> None:
    ring = recent([*numbered(3), stored(4, event(4, pad=5_000))], size=1_000)
    assert positions(ring.read(3, ALL)) == [4]
    assert ring.read(2, ALL) is None

    ring.append(stored(5, event(5)))
    assert positions(ring.read(4, ALL)) == [5]
    assert ring.read(3, ALL) is None


# --- a page's bounds


@pytest.mark.parametrize(
    ("query", "found", "last"),
    [
        (Query(None, None, 2, 9_999), [1, 2], 2),
        (Query(None, None, 3, 9_999), [1, 2, 3], 3),
        (Query(None, None, 4, 9_999), [1, 2, 3, 4], 4),
        (Query(None, None, 500, 2 * SIZE), [1, 2], 2),
        (Query(None, None, 500, 2 * SIZE - 1), [1], 1),
        (Query(None, None, 500, 1), [1], 1),
        (Query("/srv/b", None, 500, 9_999), [], 4),
        (Query(None, lambda found: found.id == "evt_2", 1, 9_999), [2], 4),
    ],
    ids=["two", "three", "all", "bytes of two", "a byte less", "one at least", "another instance", "one that matches"],
)
def test_a_page_ends_at_a_bound_or_at_the_head(query: Query, found: list[int], last: int) -> None:
    page = recent(numbered(4)).read(0, query)

    assert page is not None
    assert (positions(page), page.last) == (found, last)


def test_what_is_read_from_it_is_never_overtaken_by_retention() -> None:
    page = recent(numbered(4)).read(2, ALL)

    assert page is not None
    assert page.oldest == 0
