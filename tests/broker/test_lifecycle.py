"""The table of a subscriber's life."""

import pytest

from opencode_events.broker.lifecycle import BEHIND, FORCED, OPEN, TOLD, TRANSITIONS, Reason, Signal, State


@pytest.mark.parametrize(
    ("state", "signal", "after"),
    [
        (State.REPLAYING, Signal.CAUGHT_UP, State.LIVE),
        (State.REPLAYING, Signal.CLOSE, State.CLOSING),
        (State.REPLAYING, Signal.GONE, State.CLOSED),
        (State.LIVE, Signal.FELL_BEHIND, State.CATCHING_UP),
        (State.LIVE, Signal.CLOSE, State.CLOSING),
        (State.LIVE, Signal.GONE, State.CLOSED),
        (State.CATCHING_UP, Signal.CAUGHT_UP, State.LIVE),
        (State.CATCHING_UP, Signal.CLOSE, State.CLOSING),
        (State.CATCHING_UP, Signal.GONE, State.CLOSED),
        (State.CLOSING, Signal.CLOSE, State.CLOSING),
        (State.CLOSING, Signal.GONE, State.CLOSED),
        (State.CLOSED, Signal.CLOSE, State.CLOSED),
        (State.CLOSED, Signal.GONE, State.CLOSED),
    ],
    ids=lambda value: value.value,
)
def test_a_signal_leads_from_one_state_to_another(state: State, signal: Signal, after: State) -> None:
    assert TRANSITIONS[state][signal] is after


@pytest.mark.parametrize("signal", [Signal.CLOSE, Signal.GONE])
def test_every_state_may_be_closed_and_lost(signal: Signal) -> None:
    assert {state for state, row in TRANSITIONS.items() if signal in row} == set(State)


def test_only_who_is_live_falls_behind_and_only_who_is_behind_catches_up() -> None:
    assert {state for state, row in TRANSITIONS.items() if Signal.FELL_BEHIND in row} == {State.LIVE}
    assert {state for state, row in TRANSITIONS.items() if Signal.CAUGHT_UP in row} == BEHIND


def test_a_handle_is_served_until_it_closes_and_never_again() -> None:
    assert set(State) - {State.CLOSING, State.CLOSED} == OPEN
    assert not {after for state in set(State) - OPEN for after in TRANSITIONS[state].values()} & OPEN


def test_only_what_we_decide_and_the_stream_does_not_say_itself_is_told() -> None:
    assert {"overflow_events", "overflow_bytes", "overflow_memory", "operator", "shutdown"} == TOLD
    assert (TOLD - {Reason.SHUTDOWN}) | {"fin_zombie", "path_dead", "stalled"} == FORCED
