"""Who gets which frames: everybody what was appended while it was a member, joined into as few segments as can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.broker.feed import Feed, Segment
from opencode_events.broker.subscriber import Subscriber
from tests.broker.fakes import GLOBAL, FakeOwner
from tests.samples import dechunk


def newcomer() -> Subscriber:
    return FakeOwner().subscriber()


def body(segment: Segment) -> bytes:
    found, is_complete = dechunk(segment.data)
    assert not is_complete
    assert segment.data[segment.head : -2] == found
    assert segment.size == len(segment.data)
    return found


# --- segments


@pytest.mark.parametrize("size", [1, 15, 16, 255, 256, 65_536])
def test_a_segment_is_one_chunk(size: int) -> None:
    made = Segment([b"x" * (size - 1), b"y"], 2, 7)

    assert body(made) == b"x" * (size - 1) + b"y"
    assert (made.events, made.last, made.holders) == (2, 7, 0)


# --- feeds


def test_members_share_one_segment() -> None:
    feed, one, other = Feed(GLOBAL), newcomer(), newcomer()
    feed.join(one)
    feed.join(other)
    feed.append(b"a")
    feed.append(b"b", is_event=False)
    assert (feed.events, feed.bytes) == (1, 2)

    (sealed,) = feed.seal(9)
    assert list(sealed.members) == [one, other]
    assert body(sealed.segment) == b"ab"
    assert (sealed.segment.events, sealed.segment.last, sealed.ends) == (1, 9, False)
    assert (feed.events, feed.bytes) == (0, 0)


def test_without_frames_there_is_nothing_to_seal() -> None:
    feed = Feed(GLOBAL)
    feed.join(newcomer())

    assert list(feed.seal(9)) == []
    feed.append(b"a")
    assert len(list(feed.seal(9))) == 1
    assert list(feed.seal(9)) == []


def test_who_joins_among_frames_gets_those_behind_it() -> None:
    feed, early, late, later, last = Feed(GLOBAL), newcomer(), newcomer(), newcomer(), newcomer()
    feed.join(early)
    feed.append(b"a")
    feed.join(late)
    feed.append(b"b", is_event=False)
    feed.join(later)
    feed.append(b"c")
    feed.join(last)
    assert len(feed) == 4

    found = [(body(each.segment), each.segment.events, list(each.members)) for each in feed.seal(9)]
    assert found == [(b"abc", 2, [early]), (b"bc", 1, [late]), (b"c", 1, [later])]

    feed.append(b"d")
    (sealed,) = feed.seal(10)
    assert list(sealed.members) == [early, late, later, last]


def test_newcomers_of_one_moment_share_a_segment_though_nobody_was_there_before() -> None:
    feed, one, other = Feed(GLOBAL), newcomer(), newcomer()
    feed.append(b"a")
    feed.join(one)
    feed.join(other)
    feed.append(b"b")

    (sealed,) = feed.seal(9)
    assert (body(sealed.segment), list(sealed.members)) == (b"b", [one, other])


def test_every_part_of_the_last_seal_ends_its_members_streams() -> None:
    feed = Feed(GLOBAL)
    feed.join(newcomer())
    feed.append(b"a")
    feed.join(newcomer())
    feed.append(b"b")

    assert [sealed.ends for sealed in feed.seal(9, ends=True)] == [True, True]


def test_what_is_sealed_is_not_changed_by_who_comes_and_goes() -> None:
    feed, stays, goes, comes = Feed(GLOBAL), newcomer(), newcomer(), newcomer()
    feed.join(stays)
    feed.join(goes)
    feed.append(b"a")
    (sealed,) = feed.seal(9)
    feed.leave(goes)
    feed.leave(goes)
    feed.join(comes)

    assert list(sealed.members) == [stays, goes]
    assert len(feed) == 2


def test_who_is_away_counts_and_hears_nothing_until_it_joins() -> None:
    feed, away = Feed(GLOBAL), newcomer()
    feed.away[away] = None
    feed.append(b"a")
    assert (len(feed), feed.is_heard, list(feed.seal(1))) == (1, False, [])

    feed.join(away)
    feed.append(b"b")
    (sealed,) = feed.seal(2)
    assert (len(feed), feed.is_heard, list(sealed.members), list(feed.away)) == (1, True, [away], [])
    feed.leave(away)
    assert (len(feed), feed.is_heard) == (0, False)


def test_who_is_away_may_leave_for_good() -> None:
    feed, away = Feed(GLOBAL), newcomer()
    feed.away[away] = None
    feed.leave(away)

    assert (len(feed), list(feed.away)) == (0, [])


def test_it_counts_what_it_sealed_each_part_of_it() -> None:
    feed = Feed(GLOBAL)
    feed.join(newcomer())
    feed.append(b"a")
    feed.join(newcomer())
    feed.append(b"b")
    counts = [feed.sealed]
    for _ in range(2):
        counts.append(len(list(feed.seal(9))))
        counts.append(feed.sealed)

    assert counts == [0, 2, 2, 0, 2]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("append"), st.booleans()),
        st.tuples(st.just("seal"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_everybody_gets_exactly_what_was_appended_while_it_was_there(steps: list[tuple[str, int]]) -> None:
    """The model keeps each member's own list of frames, which is what feeds are there to avoid."""
    feed = Feed(GLOBAL)
    pending: dict[Subscriber, list[tuple[bytes, bool]]] = {}
    for number, (step, value) in enumerate([*steps, ("seal", 0)]):
        if step == "join":
            one = newcomer()
            pending[one] = []
            feed.join(one)
        elif step == "leave" and pending:
            gone = list(pending)[value % len(pending)]
            del pending[gone]
            feed.leave(gone)
        elif step == "append":
            frame = b"<%d>" % number
            feed.append(frame, is_event=bool(value))
            for frames in pending.values():
                frames.append((frame, bool(value)))
        elif step == "seal":
            given_now: set[Subscriber] = set()
            for sealed in feed.seal(number):
                assert sealed.segment.last == number
                for member in sealed.members:
                    assert member not in given_now
                    given_now.add(member)
                    assert body(sealed.segment) == b"".join(frame for frame, _ in pending[member])
                    assert sealed.segment.events == sum(is_event for _, is_event in pending[member])
            assert given_now == {member for member, frames in pending.items() if frames}
            pending = {member: [] for member in pending}
        assert len(feed) == len(pending)
