"""The patrol: who is looked at, what is done about it, what it remembers and says, and what it may cost."""

import asyncio
import gc
import socket
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.watched import Outlook, Watched
from opencode_events.settings import WatchdogSettings
from opencode_events.watchdog.classify import Evict, Kind, Tcp
from opencode_events.watchdog.patrol import EVICTION_COST, LATE_S, SHARE, SLICE, Patrol, describe
from opencode_events.watchdog.probe import AT_REST, Sample, probe_nothing

STUCK = Sample(Tcp.ESTABLISHED, outq=1_000, acked=5, last_ack_s=0.5)
ZOMBIE = STUCK._replace(state=Tcp.CLOSE_WAIT)
SETTINGS = WatchdogSettings()


class FakeClock:
    """Time stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class FakeWatched:
    """A connection of which the kernel says `sample`, None when it is closed. `does` notes what was done to it."""

    def __init__(self, sample: Sample | None = AT_REST, *, name: str = "one", **outlook: Any) -> None:
        self.sample = sample
        self.seen = Outlook(**outlook)
        self.is_quiet = False
        self.does: list[str] = []
        self.fails: str | None = None
        self._name = name

    @property
    def socket(self) -> socket.socket | None:
        self._fail("socket")
        return cast(socket.socket, self)

    def outlook(self) -> Outlook:
        self._fail("outlook")
        return self.seen

    def evict(self, reason: str) -> None:
        self.does.append(f"evict {reason}")
        self._fail("evict")

    def finish(self) -> None:
        self.does.append("finish")
        self._fail("finish")

    def name(self) -> dict[str, object]:
        return {"subscriber": self._name}

    def _fail(self, where: str) -> None:
        if self.fails == where:
            raise RuntimeError(where)


class Beat:
    """A patrol of `watched`, with its clock, and a probe that takes `cost_s`; it looks once a second, as it does."""

    def __init__(self, *watched: FakeWatched, **limits: float) -> None:
        self.watched = list(watched)
        self.clock = FakeClock()
        self.cost_s = 0.0
        self.asked: list[tuple[FakeWatched, bool]] = []
        self.fails = False
        self.patrol = Patrol(WatchdogSettings(**limits), self.probe, (self.source,), self.clock)

    def source(self) -> Iterator[Watched]:
        yield from self.watched

    def probe(self, sock: socket.socket, briefly: bool) -> Sample | None:
        asked = cast(FakeWatched, sock)
        asked._fail("probe")
        self.asked.append((asked, briefly))
        self.clock.now += self.cost_s
        return asked.sample

    def sweep(self) -> int:
        """Look at all; return in how many turns of the loop."""
        return turns(self.patrol.sweep())

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now += 1
            self.sweep()

    @property
    def statistics(self) -> dict[str, object]:
        return self.patrol.statistics()


def turns(coroutine: Coroutine[None, None, None]) -> int:
    """Run what only ever gives way to the loop, turn by turn."""
    count = 0
    while True:
        try:
            coroutine.send(None)
        except StopIteration:
            return count
        count += 1


# --- who is looked at


def test_every_connection_of_every_source_is_looked_at_each_time() -> None:
    beat = Beat()
    first, second, third = (FakeWatched(name=name) for name in ("1", "2", "3"))
    other = [second]
    patrol = Patrol(SETTINGS, beat.probe, (lambda: iter([first]), lambda: iter(other)), beat.clock)
    turns(patrol.sweep())
    other.append(third)
    turns(patrol.sweep())

    assert [watched for watched, _ in beat.asked] == [first, second, first, second, third]


def test_of_a_quiet_one_it_is_enough_to_know_that_it_is_at_rest() -> None:
    quiet, other = FakeWatched(), FakeWatched()
    quiet.is_quiet = True
    beat = Beat(quiet, other)
    beat.sweep()

    assert beat.asked == [(quiet, True), (other, False)]


def test_one_without_a_socket_yet_and_one_that_is_closed_are_passed_over() -> None:
    class Unborn(FakeWatched):
        socket = None

    unborn, closed = Unborn(), FakeWatched(None)
    beat = Beat(unborn, closed)
    beat.pass_time(500)

    assert (unborn.does, closed.does, beat.statistics["not_at_rest"]) == ([], [], 0)


# --- what is done


def test_a_stalled_connection_is_ended_at_its_limit_and_its_neighbours_are_not() -> None:
    stuck, idle, moving = FakeWatched(STUCK), FakeWatched(), FakeWatched(STUCK)
    beat = Beat(idle, stuck, moving)
    for second in range(179):
        moving.sample = STUCK._replace(acked=second)
        beat.pass_time(1)
    assert stuck.does == []

    moving.sample = STUCK._replace(acked=1_000)
    beat.pass_time(1)

    assert (idle.does, stuck.does, moving.does) == ([], ["evict stalled"], [])


def test_a_zombie_is_ended_when_its_time_is_over() -> None:
    zombie = FakeWatched(STUCK)
    beat = Beat(zombie)
    beat.pass_time(100)
    zombie.sample = ZOMBIE
    beat.pass_time(10)
    assert zombie.does == []

    beat.pass_time(1)

    assert zombie.does == ["evict fin_zombie"]


def test_the_limits_are_the_settings() -> None:
    zombie = FakeWatched(ZOMBIE)
    beat = Beat(zombie, fin_zombie_s=3)
    beat.pass_time(4)

    assert zombie.does == ["evict fin_zombie"]


def test_one_that_is_ended_is_not_ended_again() -> None:
    zombie = FakeWatched(ZOMBIE)
    beat = Beat(zombie)
    beat.pass_time(11)
    zombie.sample = None  # its descriptor is closed in the loop's next turn
    beat.pass_time(100)

    assert zombie.does == ["evict fin_zombie"]
    assert beat.statistics["evictions"] == {"fin_zombie": 1}


def test_one_that_we_ended_and_that_has_everything_is_let_go() -> None:
    done = FakeWatched(Sample(Tcp.FIN_WAIT2, acked=9), is_ending=True)
    Beat(done).sweep()

    assert done.does == ["finish"]


@pytest.mark.parametrize(
    ("sample", "outlook"),
    [
        (Sample(Tcp.FIN_WAIT1, outq=1, acked=9), {"is_ending": True}),
        (Sample(Tcp.ESTABLISHED, acked=9), {"is_ending": True}),
        (Sample(Tcp.FIN_WAIT2, acked=9), {"is_ending": True, "buffered": 1}),
        (Sample(Tcp.FIN_WAIT2, acked=9), {"is_ending": True, "queued": 1}),
        (Sample(Tcp.FIN_WAIT2, acked=9), {"is_ending": False}),
        (Sample(None), {"is_ending": True}),
    ],
    ids=["our FIN is on its way", "before our FIN", "the transport holds some", "some is queued", "not by us",
         "the state is not known"],
)  # fmt: skip
def test_one_that_may_lack_something_is_not_let_go(sample: Sample, outlook: dict[str, Any]) -> None:
    waiting = FakeWatched(sample, **outlook)
    Beat(waiting).sweep()

    assert waiting.does == []


# --- what is remembered


def test_time_without_progress_begins_with_the_last_sweep_that_found_it_at_rest() -> None:
    watched = FakeWatched()
    beat = Beat(watched)
    beat.pass_time(100)
    watched.sample = STUCK
    beat.pass_time(179)
    assert watched.does == []

    beat.pass_time(1)

    assert watched.does == ["evict stalled"]


def test_one_that_comes_to_rest_begins_anew() -> None:
    watched = FakeWatched(STUCK)
    beat = Beat(watched)
    for sample in (STUCK, AT_REST, STUCK):
        watched.sample = sample
        beat.pass_time(179)

    assert watched.does == []


def test_what_has_gone_is_forgotten() -> None:
    beat = Beat(FakeWatched(STUCK))
    beat.sweep()
    reference = weakref.ref(beat.watched.pop())
    assert beat.statistics["not_at_rest"] == 1

    beat.asked.clear()
    beat.sweep()
    gc.collect()

    assert reference() is None
    assert beat.statistics["not_at_rest"] == beat.statistics["watched"] == 0


# --- when the patrol itself was away


def after_a_hiccup(away_s: float) -> FakeWatched:
    """Return a healthy client that was idle when the whole process was stopped; a heartbeat is on its way again."""
    watched = FakeWatched()
    beat = Beat(watched)
    beat.pass_time(10)
    beat.clock.now += away_s
    watched.sample = Sample(Tcp.ESTABLISHED, outq=100, acked=5, unacked=1, last_ack_s=away_s)
    beat.sweep()
    return watched


@pytest.mark.parametrize("away_s", [20, 31, 181, 86_400])
def test_a_process_that_was_stopped_judges_nobody_by_the_time_it_was_away(away_s: float) -> None:
    assert after_a_hiccup(away_s).does == []


def test_a_head_that_came_while_the_process_was_stopped_can_still_be_read() -> None:
    client = FakeWatched(Sample(Tcp.ESTABLISHED, received=0), is_answering=False)
    beat = Beat(client)
    beat.pass_time(3)
    beat.clock.now += 60
    beat.sweep()
    assert client.does == []

    beat.pass_time(3)
    assert client.does == []
    beat.pass_time(5)

    assert client.does[0] == "evict head_timeout"


def test_a_patrol_that_is_late_by_a_little_counts_all_of_the_time() -> None:
    zombie = FakeWatched(ZOMBIE)
    beat = Beat(zombie)
    beat.sweep()
    for _ in range(3):
        beat.clock.now += SETTINGS.tick_s + LATE_S
        beat.sweep()
    assert zombie.does == []

    beat.pass_time(1)

    assert zombie.does == ["evict fin_zombie"]


# --- when something fails


@pytest.mark.parametrize("where", ["socket", "probe", "outlook", "evict", "finish"])
def test_one_that_fails_is_named_and_the_others_are_looked_at(where: str) -> None:
    sample, outlook = (Sample(Tcp.FIN_WAIT2), {"is_ending": True}) if where == "finish" else (ZOMBIE, {})
    before, bad, after = (FakeWatched(sample, name=name, **outlook) for name in ("before", "bad", "after"))
    bad.fails = where
    beat = Beat(before, bad, after, fin_zombie_s=0)
    with capture_logs() as lines:
        beat.sweep()

    done = ["finish"] if where == "finish" else ["evict fin_zombie"]
    assert before.does == after.does == done
    failed = [line for line in lines if line["event"] == "watchdog.failed"]
    assert failed == [
        {"event": "watchdog.failed", "log_level": "error", "error": f"RuntimeError('{where}')", "subscriber": "bad"}
    ]


async def test_its_own_bug_ends_it() -> None:
    def broken() -> Iterator[Watched]:
        raise RuntimeError("bug")

    patrol = Patrol(WatchdogSettings(tick_s=0.01), Beat().probe, (broken,), FakeClock())
    with pytest.raises(RuntimeError, match="bug"):
        await patrol.run()


async def test_it_runs_until_it_is_cancelled() -> None:
    beat = Beat(FakeWatched(), tick_s=0.01)
    task = asyncio.create_task(beat.patrol.run())
    while len(beat.asked) < 3:  # noqa: ASYNC110  # it has no event for that
        await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


# --- what it costs


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, 0), (1, 1), (SLICE, 1), (SLICE + 1, 2), (10 * SLICE, 10)],
    ids=["nobody", "one", "a slice", "one more", "many"],
)
def test_a_sweep_gives_way_to_the_loop_after_each_slice(count: int, expected: int) -> None:
    beat = Beat(*(FakeWatched(STUCK) for _ in range(count)))

    assert beat.sweep() == expected
    assert len(beat.asked) == count


def test_nobody_holds_the_loop_by_dying_together() -> None:
    """An eviction costs as much as many looks."""
    count = 1_000
    beat = Beat(*(FakeWatched(ZOMBIE) for _ in range(count)), fin_zombie_s=0)
    most = 0
    sweep = beat.patrol.sweep()
    done = 0
    with capture_logs():
        for _ in range(count):
            try:
                sweep.send(None)
            except StopIteration:
                break
            ended = sum(bool(each.does) for each in beat.watched)
            most, done = max(most, ended - done), ended

    assert done == count
    assert most <= SLICE / EVICTION_COST + 1


def test_what_comes_and_goes_during_a_sweep_does_not_disturb_it() -> None:
    beat = Beat(*(FakeWatched(STUCK) for _ in range(SLICE + 5)))
    sweep = beat.patrol.sweep()
    sweep.send(None)
    beat.watched = [*beat.watched[:1], FakeWatched(STUCK)]
    turns(sweep)

    assert len(beat.asked) == SLICE + 5
    beat.sweep()
    assert beat.statistics["watched"] == 2


def test_the_tick_is_as_set_while_sweeping_is_cheap() -> None:
    beat = Beat(*(FakeWatched() for _ in range(10)), tick_s=0.25)
    beat.cost_s = 0.2 * SHARE / 10
    beat.sweep()

    assert beat.patrol.pause_s == 0.25


def test_what_others_took_of_the_processor_does_not_count() -> None:
    """`work` is this thread's own time: a sweep that was interrupted for a second was not a second's work."""
    beat = Beat(*(FakeWatched() for _ in range(10)))
    beat.cost_s = 1.0
    beat.patrol = Patrol(SETTINGS, beat.probe, (beat.source,), beat.clock, lambda: beat.clock.now / 1e6)
    beat.sweep()

    assert beat.patrol.pause_s == SETTINGS.tick_s
    assert beat.statistics["last_sweep_s"] == pytest.approx(1e-5)


def test_what_ends_cost_does_not_put_off_the_next_look() -> None:
    class Costly(FakeWatched):
        def evict(self, reason: str) -> None:
            super().evict(reason)
            beat.clock.now += 0.5

    beat = Beat(Costly(ZOMBIE), Costly(ZOMBIE), fin_zombie_s=0)
    with capture_logs():
        beat.sweep()

    assert beat.patrol.pause_s == SETTINGS.tick_s
    assert beat.statistics["evictions"] == {"fin_zombie": 2}


def test_the_tick_grows_with_the_cost_of_a_sweep() -> None:
    """Never more than its share of a core; what other tasks did between two slices is not its own."""
    beat = Beat(*(FakeWatched() for _ in range(2 * SLICE)))
    beat.cost_s = 0.0001
    sweep = beat.patrol.sweep()
    sweep.send(None)
    beat.clock.now += 3
    turns(sweep)

    assert beat.patrol.pause_s == pytest.approx(2 * SLICE * 0.0001 / SHARE)
    assert beat.statistics["last_sweep_s"] == pytest.approx(2 * SLICE * 0.0001)
    beat.watched.clear()
    beat.sweep()
    assert beat.patrol.pause_s == SETTINGS.tick_s


# --- what it says


def test_an_eviction_is_one_line_with_what_decided_it() -> None:
    zombie = FakeWatched(
        Sample(Tcp.CLOSE_WAIT, outq=1_200, acked=7, unacked=2, last_ack_s=3.0004), name="7", buffered=30, queued=4
    )
    beat = Beat(zombie)
    with capture_logs() as lines:
        beat.pass_time(11)

    assert lines == [
        {
            "event": "connection.evicted",
            "log_level": "warning",
            "reason": "fin_zombie",
            "subscriber": "7",
            "tcp_state": "CLOSE_WAIT",
            "unacked_bytes": 1_200,
            "unacked_segments": 2,
            "pending_bytes": 1_234,
            "last_ack_s": 3.0,
            "last_progress_s": 10.0,
            "fin_s": 10.0,
            "verdict": "evict",
            "evict_in_s": 0.0,
        }
    ]


def test_the_line_of_a_head_that_did_not_come_tells_how_long_it_was_due() -> None:
    with capture_logs() as lines:
        Beat(FakeWatched(Sample(Tcp.ESTABLISHED), is_answering=False)).pass_time(11)

    assert [(line["reason"], line["head_s"]) for line in lines] == [("head_timeout", 10.0)]


def test_statistics_tell_what_the_last_sweep_found() -> None:
    beat = Beat(FakeWatched(), FakeWatched(STUCK), FakeWatched(ZOMBIE), FakeWatched(ZOMBIE))
    assert beat.statistics == {
        "watched": 0, "not_at_rest": 0, "close_wait": 0, "kernel_unsent_bytes": 0, "last_sweep_s": 0.0, "evictions": {},
    }  # fmt: skip

    beat.pass_time(1)
    beat.pass_time(1)

    assert beat.statistics == {
        "watched": 4, "not_at_rest": 3, "close_wait": 2, "kernel_unsent_bytes": 3_000, "last_sweep_s": 0.0,
        "evictions": {},
    }  # fmt: skip


def test_statistics_count_evictions_by_reason() -> None:
    beat = Beat(FakeWatched(ZOMBIE), FakeWatched(ZOMBIE), FakeWatched(Sample(Tcp.ESTABLISHED), is_answering=False))
    with capture_logs():
        beat.pass_time(11)

    assert beat.statistics["evictions"] == {"fin_zombie": 2, "head_timeout": 1}


def test_statistics_during_a_sweep_are_those_of_the_last_whole_one() -> None:
    beat = Beat(*(FakeWatched(ZOMBIE) for _ in range(SLICE + 1)))
    beat.sweep()
    before = beat.statistics
    sweep = beat.patrol.sweep()
    sweep.send(None)

    assert beat.statistics == before
    turns(sweep)


async def told_at_start(probe: Callable[..., Sample | None]) -> list[Any]:
    patrol = Patrol(SETTINGS, probe, (), FakeClock())
    with capture_logs() as lines:
        task = asyncio.create_task(patrol.run())
        await asyncio.sleep(0)
        task.cancel()
    return [(line["event"], line["log_level"]) for line in lines]


async def test_it_says_once_where_the_kernel_tells_it_nothing() -> None:
    assert await told_at_start(probe_nothing) == [("watchdog.blind", "warning")]
    assert await told_at_start(Beat().probe) == []


# --- a look at one


def test_a_look_tells_what_the_next_sweep_would_see_and_does_nothing() -> None:
    zombie = FakeWatched(ZOMBIE)
    beat = Beat(zombie)
    beat.pass_time(8)
    beat.clock.now += 0.5
    seen = beat.patrol.look(zombie)

    assert seen is not None
    assert (seen.observation.fin_s, seen.observation.stalled_s) == (7.5, 7.5)
    assert (seen.verdict.kind, seen.verdict.left_s) == (Kind.DRAINING, 2.5)
    assert zombie.does == []
    beat.clock.now += 2.5
    late = beat.patrol.look(zombie)
    assert late is not None
    assert (late.verdict.kind, late.verdict.reason) == (Kind.EVICT, Evict.FIN_ZOMBIE)
    assert zombie.does == []


def test_a_look_leaves_no_trace() -> None:
    watched = FakeWatched(STUCK)
    beat = Beat(watched)
    beat.pass_time(100)
    watched.sample = STUCK._replace(acked=6)
    first = beat.patrol.look(watched)
    again = beat.patrol.look(watched)

    assert first == again
    assert first is not None
    assert first.observation.stalled_s == 0
    watched.sample = STUCK
    last = beat.patrol.look(watched)
    assert last is not None
    assert last.observation.stalled_s == 100


def test_a_look_at_one_at_rest() -> None:
    watched = FakeWatched()
    beat = Beat(watched)
    beat.pass_time(5)
    seen = beat.patrol.look(watched)

    assert seen is not None
    assert describe(seen) == {
        "tcp_state": "ESTABLISHED", "unacked_bytes": 0, "unacked_segments": 0, "pending_bytes": 0, "last_ack_s": None,
        "last_progress_s": 0.0, "fin_s": None, "verdict": "idle", "evict_in_s": None,
    }  # fmt: skip
    assert beat.asked[-1] == (watched, False)


def test_a_look_where_the_kernel_tells_nothing() -> None:
    seen = Beat().patrol.look(FakeWatched(Sample(), buffered=5))

    assert seen is not None
    assert describe(seen)["tcp_state"] is None
    assert describe(seen)["pending_bytes"] == 5


def test_there_is_nothing_to_see_of_one_that_is_closed() -> None:
    assert Beat().patrol.look(FakeWatched(None)) is None


def test_a_look_during_a_sweep_knows_what_the_last_one_knew() -> None:
    beat = Beat(*(FakeWatched(STUCK) for _ in range(SLICE + 1)))
    beat.pass_time(50)
    sweep = beat.patrol.sweep()
    sweep.send(None)

    for watched in (beat.watched[0], beat.watched[-1]):
        seen = beat.patrol.look(watched)
        assert seen is not None
        assert seen.observation.stalled_s == 50
    turns(sweep)
