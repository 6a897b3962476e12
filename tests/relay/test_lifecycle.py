"""The table of the connection's life, and what is told of the time in which it is not live."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from opencode_events.relay.lifecycle import ENDS, NOT_REACHED, TRANSITIONS, Life, Signal, State


@pytest.mark.parametrize(
    ("state", "signal", "after"),
    [
        (State.UNREACHED, Signal.CONNECTED, State.SILENT),
        (State.AWAY, Signal.CONNECTED, State.SILENT),
        (State.LOCKED_OUT, Signal.CONNECTED, State.SILENT),
        (State.SILENT, Signal.HEARD, State.CATCHING_UP),
        (State.CATCHING_UP, Signal.CAUGHT_UP, State.LIVE),
        (State.LIVE, Signal.ENDED, State.ENDING),
        (State.STOPPED, Signal.STOP, State.STOPPED),
    ],
    ids=lambda value: value.value,
)
def test_a_signal_leads_from_one_state_to_another(state: State, signal: Signal, after: State) -> None:
    assert TRANSITIONS[state][signal] is after


def test_there_is_no_other_way_than_these_and_an_end() -> None:
    onward = {(state, signal) for state, row in TRANSITIONS.items() for signal in row.keys() - ENDS.keys()}

    assert len(onward) == 6
    assert TRANSITIONS.keys() == set(State)
    assert {state for state, row in TRANSITIONS.items() if ENDS.items() <= row.items()} == set(State) - {State.STOPPED}


def test_what_cannot_happen_changes_nothing() -> None:
    life = Life(0.0)

    with pytest.raises(KeyError):
        life.recover(1.0)

    assert (life.state, life.trouble, life.tries) == (State.UNREACHED, NOT_REACHED, 0)


def live(now_s: float = 0.0) -> Life:
    life = Life(0.0)
    life.advance(Signal.CONNECTED)
    life.advance(Signal.HEARD)
    life.recover(now_s)
    return life


def test_another_kind_of_end_is_news_in_the_same_episode() -> None:
    life = Life(0.0)

    assert life.lose("nobody listens", 1.0)
    assert life.lose("it wants a password", 2.0, Signal.REFUSED)
    assert not life.lose("it wants a password", 3.0, Signal.REFUSED)
    assert life.lose("nobody listens", 4.0)


def test_an_episode_is_news_once_and_counts_its_tries() -> None:
    life = live()

    assert life.lose("it broke off", 10.0)
    assert (life.trouble, life.tries) == ("upstream is away: it broke off", 0)
    life.advance(Signal.CONNECTED)
    assert not life.lose("it ended the stream", 11.0)
    assert not life.lose("nobody listens", 12.0)
    assert (life.trouble, life.tries) == ("upstream is away: nobody listens", 2)


def test_how_long_it_was_away_counts_from_the_loss_of_a_live_connection() -> None:
    life = live()
    life.lose("it broke off", 10.0)
    life.lose("nobody listens", 15.0)
    life.advance(Signal.CONNECTED)
    life.advance(Signal.HEARD)

    assert life.recover(17.5) == 7.5
    assert (life.trouble, life.tries) == (None, 0)


def test_a_stream_that_ended_is_away_from_then_on_and_lost_later_without_more_ado() -> None:
    life = live()

    assert life.lose("it ended", 10.0, Signal.ENDED)
    assert life.trouble == "upstream is away: it ended"
    assert not life.lose("it ended", 50.0)
    assert (life.state, life.tries) == (State.AWAY, 0)
    life.advance(Signal.CONNECTED)
    life.advance(Signal.HEARD)
    assert life.recover(51.0) == 41.0


def test_an_upstream_that_was_never_there_is_away_since_the_start() -> None:
    life = Life(3.0)

    assert life.lose("nobody listens", 4.0)
    life.advance(Signal.CONNECTED)
    life.advance(Signal.HEARD)
    assert life.recover(5.0) == 2.0


def test_who_is_locked_out_is_so_until_something_else_happens() -> None:
    life, states = Life(0.0), []
    for signal in (Signal.REFUSED, Signal.REFUSED, Signal.LOST):
        life.lose("whatever", 1.0, signal)
        states.append(life.state)

    assert states == [State.LOCKED_OUT, State.LOCKED_OUT, State.AWAY]


class AnyLife(RuleBasedStateMachine):
    """Whatever can happen, in any order, beside what has to be true of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.life = Life(self.now_s)
        self.live_until_s = 0.0
        self.told: bool | None = None  # in this episode: whether as wanting a password
        self.failed = 0

    @rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        if self.life.state is State.LIVE:
            self.live_until_s = self.now_s

    @rule(signal=st.sampled_from([Signal.CONNECTED, Signal.HEARD]))
    def advance(self, signal: Signal) -> None:
        before = self.life.state
        try:
            self.life.advance(signal)
        except KeyError:
            assert self.life.state is before

    @precondition(lambda self: self.life.state is State.CATCHING_UP)
    @rule()
    def recover(self) -> None:
        assert self.life.recover(self.now_s) == self.now_s - self.live_until_s
        self.live_until_s, self.told, self.failed = self.now_s, None, 0

    @rule(signal=st.sampled_from([Signal.LOST, Signal.REFUSED, Signal.ENDED]))
    def lose(self, signal: Signal) -> None:
        before = self.life.state
        try:
            is_news = self.life.lose("it is gone", self.now_s, signal)
        except KeyError:
            assert self.life.state is before
        else:
            self.failed += before not in (State.LIVE, State.ENDING)
            is_refused = signal is Signal.REFUSED
            assert is_news is (is_refused is not self.told)
            self.told = is_refused

    @precondition(lambda self: self.failed > 5)  # or nothing much would come before it
    @rule()
    def stop(self) -> None:
        self.life.advance(Signal.STOP)

    @invariant()
    def it_is_in_a_state_and_says_why_it_is_not_live(self) -> None:
        assert self.life.state in TRANSITIONS
        if self.life.state is not State.STOPPED:
            assert (self.life.trouble is None) == (self.life.state is State.LIVE)
        assert self.life.tries == self.failed


TestAnyLife = AnyLife.TestCase
