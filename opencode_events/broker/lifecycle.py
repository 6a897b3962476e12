"""The life of a subscriber, as one table.

A fresh handle is LIVE: it is in a feed and gets what the feed gets. One that resumes is REPLAYING: it reads pages from
the log, holds one of them at most, and is in no feed. `CAUGHT_UP` comes from the replayer in the turn of the loop in
which its place is the head: from then on the feed goes on where the log ended. A live handle whose backlog is full and
that asked for `catchup` has FALLEN_BEHIND: it gives its backlog back and reads as a replaying one does. `CLOSE` is our
own decision (a full backlog, an operator, the end of an instance, a shutdown): the handle leaves its feed at once,
keeps what was buffered, and has a deadline to read it. `GONE` is the connection's end, whoever brought it about, and
may come in any state. Closing twice is fine: the first reason stays. Nothing leaves CLOSED.
"""

from enum import Enum, StrEnum


class State(Enum):
    """Where a subscriber is."""

    REPLAYING = "replaying"
    LIVE = "live"
    CATCHING_UP = "catching_up"
    CLOSING = "closing"
    CLOSED = "closed"


class Signal(Enum):
    """What happens to a subscriber."""

    CAUGHT_UP = "caught_up"
    FELL_BEHIND = "fell_behind"
    CLOSE = "close"
    GONE = "gone"


TRANSITIONS = {
    State.REPLAYING: {Signal.CAUGHT_UP: State.LIVE, Signal.CLOSE: State.CLOSING, Signal.GONE: State.CLOSED},
    State.LIVE: {Signal.FELL_BEHIND: State.CATCHING_UP, Signal.CLOSE: State.CLOSING, Signal.GONE: State.CLOSED},
    State.CATCHING_UP: {Signal.CAUGHT_UP: State.LIVE, Signal.CLOSE: State.CLOSING, Signal.GONE: State.CLOSED},
    State.CLOSING: {Signal.CLOSE: State.CLOSING, Signal.GONE: State.CLOSED},
    State.CLOSED: {Signal.CLOSE: State.CLOSED, Signal.GONE: State.CLOSED},
}


# Reading from the log, at the client's own pace.
BEHIND = frozenset({State.REPLAYING, State.CATCHING_UP})
# Being served: our own end of it has not begun.
OPEN = BEHIND | {State.LIVE}


class Reason(StrEnum):
    """Why a subscription ended; those above the line are told to the client in `server.stream.closing`."""

    OVERFLOW_EVENTS = "overflow_events"
    OVERFLOW_BYTES = "overflow_bytes"
    OVERFLOW_MEMORY = "overflow_memory"
    OPERATOR = "operator"
    SHUTDOWN = "shutdown"
    # --- not told: the stream's own last event says it, or nobody is there to hear
    DISPOSED = "disposed"
    FIN_ZOMBIE = "fin_zombie"
    PATH_DEAD = "path_dead"
    STALLED = "stalled"
    CLIENT_CLOSED = "client_closed"
    CLIENT_RESET = "client_reset"
    CLIENT_LOST = "client_lost"


TOLD = frozenset(
    {Reason.OVERFLOW_EVENTS, Reason.OVERFLOW_BYTES, Reason.OVERFLOW_MEMORY, Reason.OPERATOR, Reason.SHUTDOWN}
)
# Ours, and against the client's will: a person may want to look.
FORCED = (TOLD - {Reason.SHUTDOWN}) | {Reason.FIN_ZOMBIE, Reason.PATH_DEAD, Reason.STALLED}
