"""The table of a subscriber's life."""

import pytest

from opencode_events.broker.lifecycle import FORCED, TOLD, TRANSITIONS, Reason, Signal, State


@pytest.mark.parametrize(
    ("state", "signal", "after"),
    [
        (State.LIVE, Signal.CLOSE, State.CLOSING),
        (State.LIVE, Signal.GONE, State.CLOSED),
        (State.CLOSING, Signal.CLOSE, State.CLOSING),
        (State.CLOSING, Signal.GONE, State.CLOSED),
        (State.CLOSED, Signal.CLOSE, State.CLOSED),
        (State.CLOSED, Signal.GONE, State.CLOSED),
    ],
    ids=lambda value: value.value,
)
def test_every_state_knows_every_signal(state: State, signal: Signal, after: State) -> None:
    assert TRANSITIONS[state][signal] is after


def test_there_are_no_other_rows() -> None:
    assert {state: set(row) for state, row in TRANSITIONS.items()} == {state: set(Signal) for state in State}


def test_only_what_we_decide_and_the_stream_does_not_say_itself_is_told() -> None:
    assert {"overflow_events", "overflow_bytes", "overflow_memory", "operator", "shutdown"} == TOLD
    assert TOLD - {Reason.SHUTDOWN} == FORCED
