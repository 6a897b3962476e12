"""How much one caller may publish: a second's worth at once, more as time passes, and each its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.errors import TooMany
from opencode_events.tokens import EVERYTHING, Token
from opencode_events.web.rates import REMEMBERED, Bucket, Rates

ONE, TWO = Token("one", frozenset({"publish"})), Token("two", frozenset({"publish"}))
PEER = "192.0.2.1:1"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(rates: Rates, token: Token, count: int, peer: str = PEER) -> int | None:
    """Return for how many seconds somebody is sent away; None if not."""
    try:
        rates.take(token, peer, count)
    except TooMany as error:
        return error.retry_after_s
    return None


def test_a_second_s_worth_may_come_at_once_and_then_what_the_time_allows(clock: Clock) -> None:
    rates = Rates(token_rate=10, clock=clock)

    assert [refused(rates, ONE, 1) for _ in range(11)] == [None] * 10 + [1]
    clock.now += 0.1
    assert [refused(rates, ONE, 1) for _ in range(2)] == [None, 1]
    clock.now += 60
    assert [refused(rates, ONE, 1) for _ in range(11)] == [None] * 10 + [1]


def test_a_batch_that_is_larger_is_taken_from_a_full_bucket_and_paid_for_later(clock: Clock) -> None:
    rates = Rates(token_rate=10, clock=clock)

    assert refused(rates, ONE, 45) is None
    assert refused(rates, ONE, 1) == 4
    assert refused(rates, ONE, 45) == 5
    clock.now += 4.5
    assert refused(rates, ONE, 45) is None


def test_each_token_has_its_own_and_each_address_that_shows_none(clock: Clock) -> None:
    rates = Rates(token_rate=1, peer_rate=2, clock=clock)

    assert [refused(rates, ONE, 1), refused(rates, ONE, 1), refused(rates, TWO, 1)] == [None, 1, None]
    assert [refused(rates, EVERYTHING, 1, f"192.0.2.1:{port}") for port in range(3)] == [None, None, 1]
    assert refused(rates, EVERYTHING, 2, "192.0.2.2:1") is None


def test_a_refusal_names_who_and_which_setting(clock: Clock) -> None:
    rates = Rates(token_rate=1, peer_rate=1, clock=clock)
    rates.take(ONE, PEER, 1)
    rates.take(EVERYTHING, PEER, 1)

    with pytest.raises(TooMany, match=r"^one publishes more than token_publish_events_per_s \(1\)$"):
        rates.take(ONE, PEER, 1)
    with pytest.raises(TooMany, match=r"^192\.0\.2\.1 publishes more than peer_publish_events_per_s \(1\)$"):
        rates.take(EVERYTHING, PEER, 1)


def test_nothing_is_no_limit(clock: Clock) -> None:
    rates = Rates(clock=clock)

    assert {refused(rates, token, 10**9) for token in (ONE, EVERYTHING) for _ in range(3)} == {None}


def test_those_who_were_not_heard_of_for_longest_are_forgotten(clock: Clock) -> None:
    rates = Rates(peer_rate=1, clock=clock)
    for number in range(REMEMBERED + 1):
        assert refused(rates, EVERYTHING, 1, f"{number}:1") is None

    assert refused(rates, EVERYTHING, 1, "0:1") is None
    assert refused(rates, EVERYTHING, 1, f"{REMEMBERED}:1") == 1


@given(st.floats(0.1, 1e5), st.lists(st.tuples(st.integers(1, 500), st.floats(0, 5)), max_size=60))
def test_in_the_long_run_nobody_has_more_than_the_rate(rate: float, asked: list[tuple[int, float]]) -> None:
    now_s, taken, largest = 0.0, 0, 0
    bucket = Bucket(rate, now_s)
    for count, pause_s in asked:
        now_s += pause_s
        if not bucket.take(count, now_s):
            taken, largest = taken + count, max(largest, count)

    assert taken <= now_s * rate + max(rate, 1.0, largest) * (1 + 1e-6)
