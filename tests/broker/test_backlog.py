"""The caps, to the event and to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.broker.backlog import Backlog
from opencode_events.broker.budget import Budget
from opencode_events.broker.lifecycle import Reason
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import segment

SIZES = (10, 99, 100, 101, 333, 500, 900, 999, 1000, 1001, 1200)


def backlog(events: int = 10, size: int = 1000) -> Backlog:
    return Backlog(BrokerSettings(backlog_events=events, backlog_bytes=size), Budget(10**9))


def filled(events: int, size: int) -> Backlog:
    made = backlog()
    made.append(segment(1, events=events, size=size))
    return made


@pytest.mark.parametrize(
    ("held", "more", "refusal"),
    [
        ((9, 20), (1, 20), None),
        ((9, 20), (2, 20), Reason.OVERFLOW_EVENTS),
        ((10, 20), (0, 20), None),
        ((10, 20), (1, 20), Reason.OVERFLOW_EVENTS),
        ((1, 900), (1, 100), None),
        ((1, 900), (1, 101), Reason.OVERFLOW_BYTES),
        ((9, 900), (2, 101), Reason.OVERFLOW_EVENTS),
        ((0, 20), (11, 20), Reason.OVERFLOW_EVENTS),
    ],
    ids=["events at the cap", "one event over", "none more at the cap", "past the cap", "bytes at the cap",
         "one byte over", "both over", "only a control frame waits"],
)  # fmt: skip
def test_a_segment_is_taken_whole_up_to_the_cap_and_not_one_over(
    held: tuple[int, int], more: tuple[int, int], refusal: Reason | None
) -> None:
    waiting = filled(*held)

    assert waiting.refusal(segment(2, events=more[0], size=more[1])) is refusal
    assert (waiting.events, waiting.bytes) == held


@pytest.mark.parametrize(("events", "size"), [(1, 5000), (11, 20), (100, 100_000)])
def test_an_empty_backlog_takes_one_segment_of_any_size(events: int, size: int) -> None:
    """Else an event above the cap could never be had."""
    waiting = backlog()

    assert waiting.refusal(segment(1, events=events, size=size)) is None
    waiting.append(segment(1, events=events, size=size))
    assert waiting.refusal(segment(2, events=1, size=10)) is not None


def test_what_comes_first_goes_first_and_is_counted_until_it_goes() -> None:
    waiting = backlog()
    for number in (1, 2, 3):
        waiting.append(segment(number, events=number, size=number * 10))

    assert (len(waiting), waiting.events, waiting.bytes) == (3, 6, 60)
    assert (waiting.first.last, waiting.last.last) == (1, 3)
    assert waiting.popleft().last == 1
    assert (len(waiting), waiting.events, waiting.bytes) == (2, 5, 50)
    assert (waiting.peak_events, waiting.peak_bytes) == (6, 60)


@pytest.mark.parametrize(("keep", "left"), [(0, []), (1, [1]), (5, [1, 2, 3])])
def test_what_is_discarded_is_the_end(keep: int, left: list[int]) -> None:
    waiting = backlog()
    for number in (1, 2, 3):
        waiting.append(segment(number, size=10))

    waiting.discard(keep=keep)
    assert (waiting.events, waiting.bytes) == (len(left), len(left) * 10)
    assert [waiting.popleft().last for _ in left] == left


@pytest.mark.parametrize(
    ("events", "size", "is_told"),
    [(7, 10, False), (8, 10, True), (1, 750, False), (1, 751, True)],
    ids=["70 % of the events", "80 % of the events", "75 % of the bytes", "one byte more"],
)
def test_lagging_begins_past_three_quarters_of_either_cap(events: int, size: int, is_told: bool) -> None:
    assert filled(events, size).began_to_lag() is is_told


def test_lagging_is_told_once_an_episode() -> None:
    waiting = filled(1, 751)

    assert waiting.began_to_lag()
    waiting.append(segment(2, size=100))
    assert not waiting.began_to_lag()


@pytest.mark.parametrize(
    ("events", "size", "is_armed"),
    [(3, 374, True), (3, 375, False), (4, 10, False)],
    ids=["below", "bytes at 37.5 %", "events above 37.5 %"],
)
def test_the_next_episode_may_be_told_once_both_are_below_half_of_that(events: int, size: int, is_armed: bool) -> None:
    waiting = backlog()
    waiting.append(segment(1, events=0, size=800))
    waiting.append(segment(2, events=events, size=size))
    assert waiting.began_to_lag()

    waiting.popleft()
    waiting.caught_up()
    waiting.append(segment(3, events=0, size=800))
    assert waiting.began_to_lag() is is_armed


@given(st.lists(st.tuples(st.sampled_from(["take", "pop", "discard"]), st.integers(0, 12), st.sampled_from(SIZES))))
def test_whatever_happens_the_counts_are_exact_and_below_the_caps(steps: list[tuple[str, int, int]]) -> None:
    budget = Budget(10**9)
    waiting = Backlog(BrokerSettings(backlog_events=10, backlog_bytes=1000), budget)
    model: list[tuple[int, int]] = []  # the events and bytes of each segment that waits
    for step, events, size in steps:
        if step == "take":
            room = not model or (sum(e for e, _ in model) + events <= 10 and sum(s for _, s in model) + size <= 1000)
            more = segment(1, events=events, size=size)
            assert (waiting.refusal(more) is None) is room
            if room:
                waiting.append(more)
                model.append((events, size))
        elif step == "pop" and model:
            waiting.popleft()
            model.pop(0)
        elif step == "discard":
            waiting.discard(keep=1)
            del model[1:]

        assert len(waiting) == len(model)
        assert (waiting.events, waiting.bytes) == (sum(held[0] for held in model), sum(held[1] for held in model))
        assert budget.held == waiting.bytes
