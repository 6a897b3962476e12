"""What every event log must do for those who read: pages of events, as they were published, at their places."""

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from opencode_events.eventlog.base import EventLog, Query, Stored
from opencode_events.events import Event
from tests.eventlog.steps import EVERYTHING, MANY_EXAMPLES, positions, put, read_all
from tests.samples import event, make, recorded, twin

A, B = "/srv/a", "/srv/b"
MIXED = [event(1, directory=A), twin(1, directory=A), event(2, directory=B), event(3, directory=None), event(4)]
NUMBERS = itertools.count(1000)

Kind = tuple[str | None, str, bool, int]
KINDS = st.tuples(st.sampled_from([A, B, None]), st.sampled_from("xy"), st.booleans(), st.integers(0, 300))
LIMITS = st.tuples(st.sampled_from([A, B, None]), st.sampled_from(["x", None]), st.integers(1, 9), st.integers(1, 1200))


def is_idle(one: Event) -> bool:
    return one.type == "session.idle"


def is_nobody(one: Event) -> bool:
    return False


class ReadingContract:
    """A part of `EventLogContract`."""

    # --- what a page holds

    async def test_a_page_has_every_event_at_its_place_under_its_cursor(self, log: EventLog) -> None:
        await put(log, MIXED)
        page = await log.read(0, 5, EVERYTHING)

        assert page.events == [
            Stored(position, str(log.cursor(position)).encode(), one) for position, one in enumerate(MIXED, 1)
        ]
        assert (page.last, page.oldest) == (5, 1)

    async def test_the_bytes_are_those_that_were_published(self, log: EventLog) -> None:
        lines = [line for line in recorded() if b'"payload":{"id":"evt' in line and b'"type":"server.' not in line]
        odd = b'"properties":{"t":"\\u0000\\ud800\xf0\x9f\x98\x80\xe2\x80\xa8"}'
        lines.append(b'{ "x":[1, 2],"payload":{"id":"a\\u0000b","type":"a",%b} }' % odd)
        made = [make(line) for line in lines]
        await put(log, made)

        (page,) = await read_all(log)
        assert [one.event for one in page.events] == made
        assert [one.event.envelope for one in page.events] == lines
        assert [one.event.payload for one in page.events] == [one.payload for one in made]

    async def test_a_page_begins_behind_one_place_and_ends_at_the_other(self, log: EventLog) -> None:
        await put(log, MIXED)
        page = await log.read(1, 3, EVERYTHING)

        assert [one.position for one in page.events] == [2, 3]
        assert page.last == 3

    async def test_there_is_nothing_behind_the_head(self, log: EventLog) -> None:
        page = await log.read(0, 0, EVERYTHING)
        assert (page.events, page.last, page.oldest) == ([], 0, 1)
        await put(log, MIXED)

        page = await log.read(5, 5, EVERYTHING)
        assert (page.events, page.last, page.oldest) == ([], 5, 1)

    async def test_an_instance_has_its_own_plain_events(self, log: EventLog) -> None:
        await put(log, MIXED)

        for directory, expected in ((A, [1, 5]), (B, [3]), ("/srv", []), ("", [])):
            (page,) = await read_all(log, 0, EVERYTHING._replace(directory=directory))
            assert [one.position for one in page.events] == expected
            assert page.last == 5

    async def test_those_that_do_not_match_are_left_out_and_passed_by(self, log: EventLog) -> None:
        await put(log, [event(1), event(2, "a"), event(3), event(4, "a", directory=B), event(5, "a")])

        (page,) = await read_all(log, 0, EVERYTHING._replace(matches=is_idle))
        assert [one.event for one in page.events] == [event(1), event(3)]
        assert page.last == 5

        (page,) = await read_all(log, 1, EVERYTHING._replace(directory=A, matches=lambda one: one.type == "a"))
        assert [one.position for one in page.events] == [2, 5]

    async def test_a_long_stretch_where_nothing_matches_is_passed_by_for_good(self, log: EventLog) -> None:
        await put(log, [event(number) for number in range(5000)], [event(6000, "a")])

        for directory in (None, A):
            query = Query(directory, lambda one: one.type == "a", 100, 100_000)
            pages = await read_all(log, 0, query)
            assert [one.position for page in pages for one in page.events] == [5001]
            pages = await read_all(log, 0, query._replace(matches=is_nobody))
            assert [page.events for page in pages] == [[]] * len(pages)

    async def test_a_filter_sees_all_fields_but_the_text(self, log: EventLog) -> None:
        seen: list[Event] = []

        def look(one: Event) -> bool:
            seen.append(one)
            return True

        odd = [event(8, "a", workspace="w", session=None, directory=None), twin(9, "s.u.7", session="agg", seq=3)]
        await put(log, odd)
        await log.read(0, 2, EVERYTHING._replace(matches=look))

        assert [one[3:] for one in seen] == [one[3:] for one in odd]

    # --- where a page ends

    async def test_a_page_ends_at_so_many_events(self, log: EventLog) -> None:
        await put(log, [event(number) for number in range(7)])

        for matches in (None, is_idle):
            query = EVERYTHING._replace(max_events=3, matches=matches)
            pages = await read_all(log, 0, query)
            assert [[one.position for one in page.events] for page in pages][:3] == [[1, 2, 3], [4, 5, 6], [7]]
            assert [page.last for page in pages][:2] == [3, 6]
            page = await log.read(0, 3, query)
            assert (len(page.events), page.last) == (3, 3)

    async def test_a_page_ends_at_so_many_bytes(self, log: EventLog) -> None:
        events = [event(1), event(2, pad=50), event(3), event(4)]
        await put(log, events)
        two = sum(len(one.envelope) for one in events[:2])

        for matches in (None, is_idle):
            for max_bytes, expected in ((two, [1, 2]), (two - 1, [1])):
                page = await log.read(0, 4, EVERYTHING._replace(max_bytes=max_bytes, matches=matches))
                assert [one.position for one in page.events] == expected
                assert page.last == expected[-1]

    async def test_one_event_may_be_larger_than_a_page(self, log: EventLog) -> None:
        await put(log, [event(1, pad=500_000), event(2), event(3, pad=500_000)])

        for matches in (None, is_idle):
            pages = await read_all(log, 0, EVERYTHING._replace(max_bytes=1000, matches=matches))
            assert [[one.position for one in page.events] for page in pages] == [[1], [2], [3]]

    @MANY_EXAMPLES
    @given(kinds=st.lists(KINDS, max_size=25), limits=LIMITS)
    async def test_pages_are_the_log_cut_in_pieces(
        self,
        log: EventLog,
        kinds: list[tuple[str | None, str, bool, int]],
        limits: tuple[str | None, str | None, int, int],
    ) -> None:
        """Each example goes on where the one before it ended: numbers are never the same again."""
        directory, kind, max_events, max_bytes = limits
        base, made = log.head, []
        for where, which, is_sync, pad in kinds:
            number = next(NUMBERS)
            if is_sync:
                made.append(twin(number, which, directory=where, session=f"ses_{number}"))
            else:
                made.append(event(number, which, directory=where, pad=pad))
        await put(log, made)
        query = Query(directory, None if kind is None else lambda one: one.type == kind, max_events, max_bytes)
        pages = await read_all(log, base, query)

        expected = [
            (position, one)
            for position, one in enumerate(made, base + 1)
            if directory in (None, one.directory) and not (directory and one.is_sync) and kind in (None, one.type)
        ]
        assert [(one.position, one.event) for page in pages for one in page.events] == expected
        for page in pages:
            sizes = [len(one.event.envelope) for one in page.events]
            assert len(sizes) <= max_events
            assert len(sizes) == 1 or sum(sizes) <= max_bytes
        assert all(page.events for page in pages[:-1])  # so few are never passed by without finding any

    # --- beside those who write

    async def test_what_is_being_written_is_not_in_the_way_of_what_is_read(self, log: EventLog) -> None:
        await put(log, MIXED)
        writing = asyncio.ensure_future(log.append([[event(number) for number in range(10, 3000)]]))
        found = [await log.read(0, 5, EVERYTHING) for _ in range(5)]
        await writing

        assert [[one.position for one in page.events] for page in found] == [[1, 2, 3, 4, 5]] * 5
        assert await positions(log) == list(range(1, 2996))
