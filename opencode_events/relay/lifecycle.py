"""The life of the shield's one connection to upstream, as one table.

It begins UNREACHED, and is AWAY whenever upstream was not had, or no more. A connection is SILENT until the first frame
comes (`HEARD`): a server that has just opened its port takes requests, and answers some never. It is CATCHING_UP while
the log is brought up to date and what came meanwhile is held. When the log has all of that, and the stream is still
there, it has `CAUGHT_UP`, and is LIVE. A stream that has `ENDED` may leave something that the log does not take yet: it
is ENDING, and nothing more will come of it. `LOST` is the end of the connection, or of a try to have one, whoever
brought it about, and may come in any state; `REFUSED` is the one that says that upstream wants a password which is not
held. `STOP` is our own decision. Nothing leaves STOPPED.

Pure: who asks says what time it is.
"""

from enum import Enum

NOT_REACHED = "upstream has not been reached yet"


class State(Enum):
    """Where the connection is."""

    UNREACHED = "unreached"
    AWAY = "away"
    LOCKED_OUT = "locked_out"
    SILENT = "silent"
    CATCHING_UP = "catching_up"
    LIVE = "live"
    ENDING = "ending"
    STOPPED = "stopped"


class Signal(Enum):
    """What happens to it."""

    CONNECTED = "connected"
    HEARD = "heard"
    CAUGHT_UP = "caught_up"
    ENDED = "ended"
    LOST = "lost"
    REFUSED = "refused"
    STOP = "stop"


# Whatever else happens, a connection may end.
ENDS = {Signal.LOST: State.AWAY, Signal.REFUSED: State.LOCKED_OUT, Signal.STOP: State.STOPPED}
TRANSITIONS = {
    State.UNREACHED: {Signal.CONNECTED: State.SILENT, **ENDS},
    State.AWAY: {Signal.CONNECTED: State.SILENT, **ENDS},
    State.LOCKED_OUT: {Signal.CONNECTED: State.SILENT, **ENDS},
    State.SILENT: {Signal.HEARD: State.CATCHING_UP, **ENDS},
    State.CATCHING_UP: {Signal.CAUGHT_UP: State.LIVE, **ENDS},
    State.LIVE: {Signal.ENDED: State.ENDING, **ENDS},
    State.ENDING: ENDS,
    State.STOPPED: {Signal.STOP: State.STOPPED},
}


class Life:
    """Where the connection is, and of the time in which it is not live: why, since when, and how often it was tried.

    An episode begins with the start, or when a live connection is lost, and ends when one is live. `trouble` is why
    upstream is not heard, None in LIVE and behind it in STOPPED. `tries` is how many were in vain since then.
    """

    def __init__(self, now_s: float) -> None:
        self.state = State.UNREACHED
        self.trouble: str | None = NOT_REACHED
        self.tries = 0
        self._told: Signal | None = None  # which end this episode is known by
        self._away_since_s = now_s

    def advance(self, signal: Signal) -> None:
        """Change the state as the table says. Raises KeyError, with nothing changed, for what cannot happen in it."""
        self.state = TRANSITIONS[self.state][signal]

    def recover(self, now_s: float) -> float:
        """It has caught up. Returns for how many seconds upstream was not heard."""
        self.advance(Signal.CAUGHT_UP)
        self.trouble, self._told, self.tries = None, None, 0
        return now_s - self._away_since_s

    def lose(self, reason: str, now_s: float, signal: Signal = Signal.LOST) -> bool:
        """It is over, or was not to be had; returns whether that is news in this episode: the first, or of its kind."""
        before = self.state
        self.advance(signal)
        kind = Signal.REFUSED if signal is Signal.REFUSED else Signal.LOST
        is_news, self._told = self._told is not kind, kind
        self.trouble = f"upstream is away: {reason}"
        if before is State.LIVE:
            self._away_since_s = now_s
        elif before is not State.ENDING:
            self.tries += 1
        return is_news
