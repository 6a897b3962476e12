"""The verdict on one observation: each limit at its edge, what no limit may touch, and what holds for all of them."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.settings import WatchdogSettings
from opencode_events.watchdog.classify import PEER_DONE, Evict, Kind, Observation, Tcp, Verdict, classify

DEFAULTS = WatchdogSettings()
OTHERS = WatchdogSettings(fin_zombie_s=3, fin_max_s=4, path_dead_s=6, stalled_s=9, ending_stalled_s=5, head_timeout_s=2)
# Times are in parts of a second that floats hold exactly: what is left and what has passed then add up to the limit.
PARTS = 8

TIMES = st.integers(0, 400 * PARTS).map(lambda parts: parts / PARTS)
OBSERVATIONS = st.builds(
    Observation,
    state=st.none() | st.sampled_from(Tcp),
    pending=st.sampled_from([0, 1, 2**22]),
    unacked=st.sampled_from([0, 1, 40]),
    last_ack_s=st.none() | TIMES,
    stalled_s=TIMES,
    fin_s=st.none() | TIMES,
    is_ending=st.booleans(),
    head_s=st.none() | TIMES,
)
LIMITS = st.sampled_from([DEFAULTS, OTHERS])


class Edge(NamedTuple):
    """An observation at a limit, which of its times is that, and what it is ended for."""

    at: Observation
    time: str
    reason: Evict


GONE, OPEN = Tcp.CLOSE_WAIT, Tcp.ESTABLISHED
EDGES = {
    "a goodbye, and nothing is taken": Edge(
        Observation(GONE, pending=9, stalled_s=10, fin_s=50), "stalled_s", Evict.FIN_ZOMBIE
    ),
    "a goodbye, and it goes on taking": Edge(
        Observation(GONE, pending=9, stalled_s=0, fin_s=60), "fin_s", Evict.FIN_ZOMBIE
    ),
    "a goodbye, and nothing waits": Edge(Observation(GONE, stalled_s=0, fin_s=60), "fin_s", Evict.FIN_ZOMBIE),
    "a goodbye that only the loop has seen": Edge(
        Observation(None, pending=9, stalled_s=10, fin_s=10), "stalled_s", Evict.FIN_ZOMBIE
    ),
    "a goodbye, and ours": Edge(
        Observation(Tcp.LAST_ACK, pending=9, stalled_s=10, fin_s=10, is_ending=True), "stalled_s", Evict.FIN_ZOMBIE
    ),
    "no answer to what is in flight": Edge(
        Observation(OPEN, pending=9, unacked=1, last_ack_s=30, stalled_s=29), "last_ack_s", Evict.PATH_DEAD
    ),
    "no answer since what was sent after a silence": Edge(
        Observation(OPEN, pending=9, unacked=1, last_ack_s=300, stalled_s=20), "stalled_s", Evict.PATH_DEAD
    ),
    "no answer to our goodbye": Edge(
        Observation(Tcp.FIN_WAIT1, pending=1, unacked=1, last_ack_s=30, stalled_s=29, is_ending=True),
        "last_ack_s",
        Evict.PATH_DEAD,
    ),
    "no progress": Edge(Observation(OPEN, pending=9, last_ack_s=98, stalled_s=180), "stalled_s", Evict.STALLED),
    "no progress, and nothing else is known": Edge(
        Observation(None, pending=9, stalled_s=180), "stalled_s", Evict.STALLED
    ),
    "no progress, in flight, and answers": Edge(
        Observation(OPEN, pending=9, unacked=1, last_ack_s=1, stalled_s=180), "stalled_s", Evict.STALLED
    ),
    "no progress since we began to end it": Edge(
        Observation(OPEN, pending=9, last_ack_s=1, stalled_s=30, is_ending=True), "stalled_s", Evict.STALLED
    ),
    "no head": Edge(Observation(OPEN, head_s=10), "head_s", Evict.HEAD_TIMEOUT),
    "no head, and an answer waits": Edge(
        Observation(OPEN, pending=9, stalled_s=9, head_s=10), "head_s", Evict.HEAD_TIMEOUT
    ),
}


def later(seen: Observation, by_s: float) -> Observation:
    """Return an observation as it is if nothing changes for so long."""
    return seen._replace(
        last_ack_s=None if seen.last_ack_s is None else seen.last_ack_s + by_s,
        stalled_s=seen.stalled_s + by_s,
        fin_s=None if seen.fin_s is None else seen.fin_s + by_s,
        head_s=None if seen.head_s is None else seen.head_s + by_s,
    )


# --- each limit


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES.keys())
def test_a_limit_is_over_when_it_is_reached_and_not_before(edge: Edge) -> None:
    before = edge.at._replace(**{edge.time: getattr(edge.at, edge.time) - 0.125})

    assert classify(edge.at, DEFAULTS) == Verdict(Kind.EVICT, edge.reason, 0.0)
    verdict = classify(before, DEFAULTS)
    assert verdict.kind is not Kind.EVICT
    assert (verdict.reason, verdict.left_s) == (None, 0.125)


@pytest.mark.parametrize(
    ("seen", "limit"),
    [
        (Observation(GONE, pending=9, fin_s=0), "fin_zombie_s"),
        (Observation(GONE, fin_s=0), "fin_max_s"),
        (Observation(OPEN, pending=9, unacked=1, last_ack_s=0), "path_dead_s"),
        (Observation(OPEN, pending=9), "stalled_s"),
        (Observation(OPEN, pending=9, is_ending=True), "ending_stalled_s"),
        (Observation(OPEN, head_s=0), "head_timeout_s"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
@pytest.mark.parametrize("limits", [DEFAULTS, OTHERS], ids=["defaults", "others"])
def test_a_limit_is_the_setting_of_its_name(seen: Observation, limit: str, limits: WatchdogSettings) -> None:
    assert classify(seen, limits).left_s == getattr(limits, limit)


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (Observation(OPEN), Kind.IDLE),
        (Observation(OPEN, last_ack_s=7200, stalled_s=0), Kind.IDLE),
        (Observation(OPEN, head_s=1), Kind.IDLE),
        (Observation(OPEN, pending=1), Kind.FLOWING),
        (Observation(OPEN, pending=1, is_ending=True), Kind.DRAINING),
        (Observation(Tcp.FIN_WAIT2, is_ending=True), Kind.IDLE),
        (Observation(OPEN, pending=1, stalled_s=1), Kind.SUSPECT),
        (Observation(GONE, fin_s=0), Kind.DRAINING),
        (Observation(GONE, pending=1, fin_s=0), Kind.DRAINING),
    ],
    ids=["at rest", "silent for long", "head is due", "taken", "ended", "ended and taken", "not taken", "gone",
         "gone, and not taken"],
)  # fmt: skip
def test_what_is_no_end_has_a_name(seen: Observation, kind: Kind) -> None:
    assert classify(seen, DEFAULTS).kind is kind


# --- what no limit touches


def test_nothing_that_is_at_rest_is_ever_ended() -> None:
    assert classify(Observation(OPEN, last_ack_s=1e6, stalled_s=0), DEFAULTS) == Verdict(Kind.IDLE)


def test_a_closed_window_is_no_dead_path() -> None:
    """Each of the kernel's probes is answered, with up to 98 s between them, and nothing stays in flight."""
    verdict = classify(Observation(OPEN, pending=9, unacked=0, last_ack_s=98, stalled_s=98), DEFAULTS)

    assert verdict == Verdict(Kind.SUSPECT, None, 82.0)


def test_a_hiccup_right_after_a_long_silence_is_no_dead_path() -> None:
    verdict = classify(Observation(OPEN, pending=9, unacked=1, last_ack_s=3600, stalled_s=1), DEFAULTS)

    assert verdict == Verdict(Kind.SUSPECT, None, 19.0)


def test_whoever_has_said_goodbye_is_judged_by_that_alone() -> None:
    limits = WatchdogSettings(fin_zombie_s=500, fin_max_s=600)
    seen = Observation(GONE, pending=9, unacked=1, last_ack_s=400, stalled_s=400, fin_s=400, is_ending=True)

    assert classify(seen, limits) == Verdict(Kind.DRAINING, None, 100.0)


def test_what_the_platform_does_not_tell_is_not_held_against_anybody() -> None:
    verdict = classify(Observation(None, pending=9, unacked=1, last_ack_s=None, stalled_s=179), DEFAULTS)

    assert verdict == Verdict(Kind.SUSPECT, None, 1.0)


@given(OBSERVATIONS, LIMITS)
def test_what_makes_progress_and_has_not_said_goodbye_is_never_ended(
    seen: Observation, limits: WatchdogSettings
) -> None:
    moving = seen._replace(stalled_s=0.0, fin_s=None, head_s=None)

    assert classify(moving, limits).kind in (Kind.IDLE, Kind.FLOWING, Kind.DRAINING)


@given(
    pending=st.integers(0, 2**32),
    stalled_s=st.floats(0, 130),
    last_ack_s=st.floats(0, 100),
    state=st.none() | st.just(OPEN),
)
def test_a_live_reader_of_1_kb_a_second_is_never_ended(
    pending: int, stalled_s: float, last_ack_s: float, state: Tcp | None
) -> None:
    """Its window opens in steps of a receive buffer: up to 130 s without a byte, and nothing in flight meanwhile."""
    seen = Observation(state, pending=pending, unacked=0, last_ack_s=last_ack_s, stalled_s=stalled_s)

    assert classify(seen, DEFAULTS).kind is not Kind.EVICT


# --- what holds for every observation


@given(OBSERVATIONS, LIMITS, st.sampled_from(sorted(PEER_DONE)))
def test_every_goodbye_is_over_in_time(seen: Observation, limits: WatchdogSettings, state: Tcp) -> None:
    gone = seen._replace(state=state, fin_s=limits.fin_max_s)

    assert classify(gone, limits).kind is Kind.EVICT


@given(OBSERVATIONS, LIMITS, TIMES)
def test_waiting_longer_never_takes_an_end_back(seen: Observation, limits: WatchdogSettings, by_s: float) -> None:
    if classify(seen, limits).kind is Kind.EVICT:
        assert classify(later(seen, by_s), limits).kind is Kind.EVICT


@given(OBSERVATIONS, LIMITS)
def test_the_time_left_is_when_it_ends_if_nothing_changes(seen: Observation, limits: WatchdogSettings) -> None:
    left_s = classify(seen, limits).left_s

    if left_s is None:
        assert classify(later(seen, 1e6), limits).left_s is None
    elif left_s:
        assert classify(later(seen, left_s), limits).kind is Kind.EVICT
        assert classify(later(seen, left_s - 1 / PARTS), limits).kind is not Kind.EVICT


@given(OBSERVATIONS, LIMITS)
def test_an_end_has_a_reason_and_nothing_else_has(seen: Observation, limits: WatchdogSettings) -> None:
    verdict = classify(seen, limits)

    assert (verdict.reason is not None) == (verdict.kind is Kind.EVICT)
    assert (verdict.left_s == 0) == (verdict.kind is Kind.EVICT)
    assert verdict.left_s is None or verdict.left_s >= 0


@given(OBSERVATIONS, st.sampled_from([0.25, 0.5, 4.0]))
def test_limits_can_be_scaled(seen: Observation, factor: float) -> None:
    """A test with all limits at a tenth sees what happens in ten times as long."""
    names = ("fin_zombie_s", "fin_max_s", "path_dead_s", "stalled_s", "ending_stalled_s", "head_timeout_s")
    scaled = WatchdogSettings(**{name: getattr(DEFAULTS, name) * factor for name in names})
    quick = seen._replace(
        last_ack_s=None if seen.last_ack_s is None else seen.last_ack_s * factor,
        stalled_s=seen.stalled_s * factor,
        fin_s=None if seen.fin_s is None else seen.fin_s * factor,
        head_s=None if seen.head_s is None else seen.head_s * factor,
    )

    verdict = classify(seen, DEFAULTS)
    left_s = None if verdict.left_s is None else verdict.left_s * factor
    assert classify(quick, scaled) == verdict._replace(left_s=left_s)
