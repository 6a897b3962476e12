"""How connections die or stall, as the kernel was seen to tell it, one look a second, at the default limits.

What ends by itself at once is not here: a client that closes, resets, or says goodbye when nothing waits for it is gone
before anybody looks. Figures are those of one machine; the limits must not depend on them, only on what moves.
"""

from bisect import bisect
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from opencode_events.broker.watched import Outlook
from opencode_events.settings import WatchdogSettings
from opencode_events.watchdog.classify import Evict, Kind, Tcp, classify
from opencode_events.watchdog.probe import Sample
from opencode_events.watchdog.track import Track

LIMITS = WatchdogSettings()
GONE = Tcp.CLOSE_WAIT
STREAM = Outlook()
LONG_S = 1600


class Step(NamedTuple):
    """How it stands from second `at` on; sizes in bytes. The peer was last heard at `heard_at`; None: at `at`."""

    at: float
    acked: int
    outq: int
    state: Tcp | None = Tcp.ESTABLISHED
    unacked: int = 0
    heard_at: float | None = None
    outlook: Outlook = STREAM


Row = Sequence[Step]


def replay(row: Row) -> tuple[int, Evict] | None:
    """Return when it is ended and why, None if it is not."""
    times = [step.at for step in row]
    assert times == sorted(times)
    track = Track(0)
    for now in range(LONG_S):
        step = row[bisect(times, now) - 1]
        if step.state is Tcp.CLOSE:
            return None
        heard_at = step.at if step.heard_at is None else step.heard_at
        sample = Sample(step.state, step.outq, step.acked, step.unacked, now - heard_at, received=step.acked)
        verdict = classify(track.observe(sample, step.outlook, now), LIMITS)
        if verdict.kind is Kind.EVICT:
            assert verdict.reason is not None
            return now, verdict.reason
    return None


def probed(step: Step, *at: float) -> list[Step]:
    """Return a step in front of a closed window: nothing changes, but that each of the kernel's probes is answered."""
    return [step, *(step._replace(at=each) for each in at)]


# The kernel asks after 0.2 s, then after twice as long each time: the gaps between answers come to 98 s.
PROBES = (2, 3, 5, 8, 15, 27, 53, 105, 203)
FULL = Outlook(buffered=66_000, queued=900_000)
AT_REST = Step(0, 1_000, 0)
STALLED = probed(Step(1, 230_000, 1_170_000, outlook=FULL), *PROBES)

ENDED: dict[str, tuple[Row, int, Evict]] = {
    "a zombie: stalled, then FIN": (
        [AT_REST, *STALLED[:5], Step(11.5, 230_000, 1_170_000, GONE, outlook=FULL._replace(is_closing=True))],
        22,
        Evict.FIN_ZOMBIE,
    ),
    "a zombie that the loop has not noticed": (
        [AT_REST, *STALLED[:5], Step(11.5, 230_000, 1_170_000, GONE, outlook=FULL)],
        22,
        Evict.FIN_ZOMBIE,
    ),
    "a zombie that resumed and stopped again": (
        [
            AT_REST,
            *STALLED[:3],
            Step(4, 230_000, 1_170_000, GONE, outlook=FULL._replace(is_closing=True)),
            Step(8, 900_000, 500_000, GONE, outlook=Outlook(is_closing=True)),
        ],
        18,
        Evict.FIN_ZOMBIE,
    ),
    "half a close, and it reads on and on": (
        [AT_REST, *(Step(at, at * 1_000, 40_000, GONE) for at in range(20, LONG_S))],
        80,
        Evict.FIN_ZOMBIE,
    ),
    "zero window": ([AT_REST, *STALLED], 181, Evict.STALLED),
    "zero window with the transport not full yet: 4 KB a second": (
        [
            AT_REST,
            *(Step(at, at * 4_000, 0) for at in range(1, 34)),
            *(Step(at, 132_000, (at - 33) * 4_000, heard_at=33 if at < 131 else 131) for at in range(34, 270)),
        ],
        213,
        Evict.STALLED,
    ),
    "zero window, and we end it": (
        [AT_REST, *STALLED[:8], *probed(Step(100, 230_000, 1_170_000, outlook=Outlook(is_ending=True)), 105)],
        130,
        Evict.STALLED,
    ),
    "a window that is closed from the start": ([Step(0, 0, 30_000, outlook=FULL)], 180, Evict.STALLED),
    "headers that are never read": (
        [Step(0, 0, 0), *probed(Step(1, 1_000, 68_000, outlook=Outlook(buffered=7_900_000)), *PROBES)],
        181,
        Evict.STALLED,
    ),
    "gone with data in flight": (
        [AT_REST, Step(10, 50_000, 70_000, unacked=8, outlook=Outlook(buffered=52_000))],
        40,
        Evict.PATH_DEAD,
    ),
    "gone between two heartbeats": (
        [AT_REST, Step(100, 3_000, 0), Step(110, 3_000, 300, unacked=1, heard_at=100)],
        130,
        Evict.PATH_DEAD,
    ),
    "gone while nothing was sent for long": (
        [AT_REST, Step(600, 1_000, 300, unacked=1, heard_at=0)],
        619,
        Evict.PATH_DEAD,
    ),
    "gone in front of a closed window": (
        [AT_REST, *STALLED[:6], Step(20, 230_000, 1_170_000, unacked=1, heard_at=15)],
        45,
        Evict.PATH_DEAD,
    ),
    "silent from the start": ([Step(0, 0, 0, outlook=Outlook(is_answering=False))], 10, Evict.HEAD_TIMEOUT),
    "a head byte by byte": (
        [Step(at, at, 0, outlook=Outlook(is_answering=False)) for at in range(60)],
        10,
        Evict.HEAD_TIMEOUT,
    ),
    "a later head byte by byte": (
        [
            Step(0, 0, 0),
            Step(1, 0, 0, outlook=Outlook(is_answering=False, answered=1)),
            *(Step(at, at, 0, outlook=Outlook(is_answering=False, answered=1)) for at in range(50, 99)),
        ],
        60,
        Evict.HEAD_TIMEOUT,
    ),
    "pipelined requests, then FIN, which is not read": ([AT_REST, Step(30, 1_000, 0, GONE)], 90, Evict.FIN_ZOMBIE),
    "TLS: stalled, then FIN, which is not read": (
        [AT_REST, *STALLED[:6], Step(20, 1_300_000, 3_800_000, GONE, outlook=Outlook(buffered=2_500_000))],
        30,
        Evict.FIN_ZOMBIE,
    ),
    "an answer that nobody reads, after which aiohttp gave up": (
        [
            Step(0, 0, 0),
            *probed(Step(1, 500, 60_000, outlook=Outlook(900_000, is_answering=False, answered=1)), *PROBES[:7]),
            Step(75, 500, 60_000, outlook=Outlook(900_000, is_closing=True, is_answering=False, answered=1)),
        ],
        181,
        Evict.STALLED,
    ),
}


def jumps(every_s: int, size: int, *, outlook: Outlook = STREAM) -> Row:
    """Return a slow reader that is behind: its window opens when it has made room, and is closed in between."""
    found = [AT_REST]
    for at in range(1, LONG_S, every_s):
        step = Step(at, 1_000 + at // every_s * size, 700_000, outlook=outlook)
        found += probed(step, *(at + each for each in (1, 3, 7, 15, 31) if each < every_s))
    return found


KEPT: dict[str, Row] = {
    "silent for hours": [AT_REST],
    "1 KB/s of 0.8 KB/s": [Step(at, at * 800, 0) for at in range(LONG_S)],
    "1 KB/s, behind, with the usual buffer": jumps(130, 130_000, outlook=FULL),
    "1 KB/s, behind, with a buffer of 64 KiB": jumps(126, 110_000, outlook=FULL),
    "1 KB/s, behind, with a buffer of 4 KiB": jumps(11, 11_600, outlook=FULL),
    "resumes a second before its limit": [
        AT_REST,
        *STALLED[:-1],
        Step(180, 290_000, 1_100_000),
        Step(190, 2_000_000, 0),
    ],
    "a zombie that resumes": [
        AT_REST,
        *STALLED[:3],
        Step(4, 230_000, 1_170_000, GONE, outlook=FULL._replace(is_closing=True)),
        Step(8, 900_000, 500_000, GONE, outlook=Outlook(is_closing=True)),
        Step(12, 1_400_000, 0, Tcp.CLOSE),
    ],
    "resumes a second before the end of its end": [
        AT_REST,
        *STALLED[:8],
        Step(100, 230_000, 1_170_000, outlook=Outlook(is_ending=True)),
        Step(129, 900_000, 500_000, outlook=Outlook(is_ending=True)),
        Step(140, 1_400_000, 0, Tcp.FIN_WAIT2, outlook=Outlook(is_ending=True)),
    ],
    "away for 25 s with data in flight": [AT_REST, Step(10, 50_000, 70_000, unacked=8), Step(35, 120_000, 0)],
    "a hiccup after an hour's silence": [AT_REST, Step(600, 1_000, 300, unacked=1, heard_at=0), Step(610, 1_300, 0)],
    "an idle connection between two requests": [
        Step(0, 0, 0),
        Step(1, 0, 0, outlook=Outlook(is_answering=False, answered=1)),
    ],
    "a request whose answer takes an hour": [Step(0, 0, 0, outlook=Outlook(is_answering=True))],
    "a body that comes slowly": [Step(at, at, 0) for at in range(LONG_S)],
}


@pytest.mark.parametrize(("row", "at_s", "reason"), ENDED.values(), ids=ENDED.keys())
def test_it_is_ended_in_time(row: Row, at_s: int, reason: Evict) -> None:
    assert replay(row) == (at_s, reason)


@pytest.mark.parametrize("row", KEPT.values(), ids=KEPT.keys())
def test_it_lives(row: Row) -> None:
    assert replay(row) is None
