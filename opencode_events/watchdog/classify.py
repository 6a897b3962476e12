"""What a connection's state means: a pure function from an observation and limits to a verdict.

Why these signals, and no others. What asyncio tells is late or nothing: the kernel takes up to 4 MB for a stalled
client before the transport pauses, a FIN with a full buffer ends nothing, and a client that is gone while nothing is in
flight looks like an idle one. What the kernel tells, each alone, is ambiguous: `probes` stays 0 in front of a closed
window, for every probe is answered; the time of the last acknowledgement is reset by each of those answers, up to 98 s
apart; the time a window was closed adds up for whoever reads slowly. So:

- *progress* is that bytes were acknowledged, or that nothing waits to be (tcp(7), TCP_INFO: `tcpi_bytes_acked`);
- *FIN* is that the peer has said goodbye: its TCP state says so even where reading is paused, or behind TLS, and the
  loop has not seen it. Whoever has said goodbye and takes nothing more is gone (10 s); one that still reads may, for a
  while (60 s): a half-closed reader is rare, and a half-closed proxy is not worth a descriptor for ever;
- *a dead path* is that segments are out and nothing at all has come back for 30 s: a closed window answers, a dead path
  does not, so the two are told apart by unacknowledged segments;
- *a stall* is 180 s without progress. A live reader of 1 KB/s with a full receive buffer of the usual size shows none
  for up to 130 s, for the window opens in steps of that buffer; whoever is being ended has 30 s.

Measured on Linux 6.18, both loops; RFC 9293, section 3.3.2 has the states. Pure: time is an argument.
"""

from enum import Enum, IntEnum
from typing import NamedTuple

from opencode_events.settings import WatchdogSettings

# The share of `path_dead_s` for which what is in flight must have gone unanswered, however old the last answer is: with
# heartbeats every 10 s the limit is that of the last answer; without, a hiccup right after a long silence is survived.
UNANSWERED = 2 / 3


class Tcp(IntEnum):
    """TCP's states as Linux numbers them (include/net/tcp_states.h)."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


# The peer has sent its FIN, or its RST, which the loop does not see of a connection that it does not read.
PEER_DONE = frozenset({Tcp.CLOSE_WAIT, Tcp.LAST_ACK, Tcp.CLOSING, Tcp.TIME_WAIT, Tcp.CLOSE})


class Observation(NamedTuple):
    """What is known of one connection at one moment; times in seconds, sizes in bytes.

    `pending` is what the peer has not acknowledged: in the kernel, in the transport and in the backlog. `unacked`
    counts segments in flight. None where the platform does not tell. `fin_s` is the time since the peer's FIN was first
    seen, `stalled_s` that since the last progress, a FIN seen for the first time counting as one. `is_ending`: we are
    ending it. `head_s` is the time for which a request's head has been due, None while none is.
    """

    state: Tcp | None = None
    pending: int = 0
    unacked: int = 0
    last_ack_s: float | None = None
    stalled_s: float = 0.0
    fin_s: float | None = None
    is_ending: bool = False
    head_s: float | None = None


class Kind(Enum):
    """What a connection is doing."""

    IDLE = "idle"  # nothing waits for the peer
    FLOWING = "flowing"  # something does, and some of it was just taken
    SUSPECT = "suspect"  # something does, and nothing is taken
    DRAINING = "draining"  # the peer has said goodbye, or we have, and the rest is on its way
    EVICT = "evict"


class Evict(Enum):
    """Why a connection is ended."""

    FIN_ZOMBIE = "fin_zombie"
    PATH_DEAD = "path_dead"
    STALLED = "stalled"
    HEAD_TIMEOUT = "head_timeout"


class Verdict(NamedTuple):
    """What to do. `left_s` is the time until eviction if nothing changes, None if there is no such time."""

    kind: Kind
    reason: Evict | None = None
    left_s: float | None = None


def classify(seen: Observation, limits: WatchdogSettings) -> Verdict:
    """Return the verdict on one observation. The limit that comes first decides; at a limit is over it."""
    due = _due(seen, limits)
    if not due:
        return Verdict(Kind.IDLE)
    left_s, reason = min(due, key=lambda one: one[0])
    if left_s <= 0:
        return Verdict(Kind.EVICT, reason, 0.0)
    if seen.fin_s is not None or seen.is_ending:
        return Verdict(Kind.DRAINING, None, left_s)
    if not seen.pending:
        return Verdict(Kind.IDLE, None, left_s)
    return Verdict(Kind.SUSPECT if seen.stalled_s > 0 else Kind.FLOWING, None, left_s)


def _due(seen: Observation, limits: WatchdogSettings) -> list[tuple[float, Evict]]:
    """Return, for each limit that applies, the seconds that are left of it."""
    due: list[tuple[float, Evict]] = []
    if seen.head_s is not None:
        due.append((limits.head_timeout_s - seen.head_s, Evict.HEAD_TIMEOUT))
    if seen.fin_s is not None:
        due.append((limits.fin_max_s - seen.fin_s, Evict.FIN_ZOMBIE))
        if seen.pending:
            due.append((limits.fin_zombie_s - seen.stalled_s, Evict.FIN_ZOMBIE))
        return due
    if not seen.pending:
        return due
    if seen.unacked and seen.last_ack_s is not None:
        # Both: the last acknowledgement may be old because nothing was sent until just now.
        left_s = max(limits.path_dead_s - seen.last_ack_s, limits.path_dead_s * UNANSWERED - seen.stalled_s)
        due.append((left_s, Evict.PATH_DEAD))
    stalled_s = limits.ending_stalled_s if seen.is_ending else limits.stalled_s
    due.append((stalled_s - seen.stalled_s, Evict.STALLED))
    return due
