"""The life of a subscriber, as one table.

LIVE is where a handle is registered: it is in a feed and gets what the feed gets. `CLOSE` is our own decision (a full
backlog, an operator, the end of an instance, a shutdown): the handle leaves its feed at once, keeps what was buffered,
and has a deadline to read it. `GONE` is the connection's end, whoever brought it about, and may come in any state.
Closing twice is fine: the first reason stays. Nothing leaves CLOSED.
"""

from enum import Enum, StrEnum


class State(Enum):
    """Where a subscriber is."""

    LIVE = "live"
    CLOSING = "closing"
    CLOSED = "closed"


class Signal(Enum):
    """What happens to a subscriber."""

    CLOSE = "close"
    GONE = "gone"


TRANSITIONS = {
    State.LIVE: {Signal.CLOSE: State.CLOSING, Signal.GONE: State.CLOSED},
    State.CLOSING: {Signal.CLOSE: State.CLOSING, Signal.GONE: State.CLOSED},
    State.CLOSED: {Signal.CLOSE: State.CLOSED, Signal.GONE: State.CLOSED},
}


class Reason(StrEnum):
    """Why a subscription ended; those above the line are told to the client in `server.stream.closing`."""

    OVERFLOW_EVENTS = "overflow_events"
    OVERFLOW_BYTES = "overflow_bytes"
    OVERFLOW_MEMORY = "overflow_memory"
    OPERATOR = "operator"
    SHUTDOWN = "shutdown"
    # --- not told: the stream's own last event says it, or nobody is there to hear
    DISPOSED = "disposed"
    CLIENT_CLOSED = "client_closed"
    CLIENT_RESET = "client_reset"
    CLIENT_LOST = "client_lost"


# Ours, and against the client's will: a person may want to look.
FORCED = frozenset({Reason.OVERFLOW_EVENTS, Reason.OVERFLOW_BYTES, Reason.OVERFLOW_MEMORY, Reason.OPERATOR})
TOLD = FORCED | {Reason.SHUTDOWN}
