"""The patrol: looks at every accepted connection once a tick, and ends those that `classify` says to end.

One task, one tick a second; a sweep is cut into slices with a turn of the loop between them, and with very many
connections the tick becomes longer, so that sweeping never takes more than its share of a core. A failure with one
connection is logged and never stops the patrol; a bug in the patrol itself ends the daemon, loudly.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import structlog

from opencode_events.broker.watched import Watched
from opencode_events.settings import WatchdogSettings
from opencode_events.watchdog.classify import Kind, Observation, Tcp, Verdict, classify
from opencode_events.watchdog.probe import AT_REST, Probe, Sample, probe_nothing
from opencode_events.watchdog.track import Track

log = structlog.get_logger()

# Connections looked at in one turn of the loop: some 1 ms. An eviction, with its log line, counts as so many.
SLICE = 400
EVICTION_COST = 20
# The share of a core that sweeps may take.
SHARE = 0.01
# How late a look may be, in seconds. Beyond that the whole process was held up (stopped, suspended, starved of its
# processor): that time is not counted, or everybody would be judged by answers that nobody was there to take.
LATE_S = 2.0


class Seen(NamedTuple):
    """One look at a connection."""

    sample: Sample
    observation: Observation
    verdict: Verdict


class Found:
    """What one sweep found; `tracks` are those of connections that were not at rest."""

    __slots__ = ("close_wait", "tracks", "unsent_bytes", "watched")

    def __init__(self, watched: int = 0) -> None:
        self.watched = watched
        self.tracks: dict[Watched, Track] = {}
        self.close_wait = 0
        self.unsent_bytes = 0


class Patrol:
    """Watches what `sources` return, anew for each sweep.

    `clock` is monotonic, in seconds. `work` is the processor's time that this thread has had: by the clock, a sweep
    that was interrupted would put off the next one for long. None takes the clock.
    """

    def __init__(
        self,
        settings: WatchdogSettings,
        probe: Probe,
        sources: Iterable[Callable[[], Iterable[Watched]]],
        clock: Callable[[], float] = time.monotonic,
        work: Callable[[], float] | None = None,
    ) -> None:
        self.settings = settings
        self._probe = probe
        self._sources = tuple(sources)
        self._clock = clock
        self._work = work or clock
        self._last = Found()
        self._looked_at = self._swept_at = clock()
        self._away_s = 0.0
        self._evictions: dict[str, int] = {}
        self._evicting_s = 0.0
        self._last_sweep_s = 0.0

    @property
    def pause_s(self) -> float:
        """Seconds until the next sweep: a tick, or what keeps the patrol within its share of a core."""
        return max(self.settings.tick_s, self._last_sweep_s / SHARE)

    async def run(self) -> None:
        """Sweep every `tick_s` seconds, or as often as the patrol's share of a core allows, until cancelled."""
        if self._probe is probe_nothing:
            log.warning("watchdog.blind", platform=sys.platform)
        while True:
            await asyncio.sleep(self.pause_s)
            await self.sweep()

    async def sweep(self) -> None:
        """Look at every connection once."""
        waiting = [watched for source in self._sources for watched in source()]
        found = Found(len(waiting))
        spent = self._evicting_s  # sweeping has its share of a core, ending what is dead need not wait for one
        done = 0
        while done < len(waiting):
            began = self._work()
            done = self._slice(waiting, done, found, self._time())
            spent += self._work() - began
            await asyncio.sleep(0)
        self._last, self._swept_at, self._last_sweep_s = found, self._time(), spent - self._evicting_s

    def _time(self) -> float:
        """Return the time of the patrol's own clock, which stands still while the process does."""
        now = self._clock()
        self._away_s += max(0.0, now - self._looked_at - self.pause_s - LATE_S)
        self._looked_at = now
        return now - self._away_s

    def _slice(self, waiting: Sequence[Watched], start: int, found: Found, now: float) -> int:
        """Look at as many as one turn of the loop allows; return how many are done."""
        left, probe, before = SLICE, self._probe, self._last.tracks
        for done, watched in enumerate(islice(waiting, start, None), start):
            if left <= 0:
                return done
            left -= 1
            try:
                sock = watched.socket
                sample = None if sock is None else probe(sock, watched.is_quiet)
                if sample is None or sample is AT_REST:
                    continue
                track = before.get(watched) or Track(self._swept_at)
                found.tracks[watched] = track
                found.close_wait += sample.state is Tcp.CLOSE_WAIT
                found.unsent_bytes += sample.outq
                left -= self._apply(watched, self._see(watched, track, sample, now))
            except Exception as error:  # noqa: BLE001  # whatever it is, the others are looked at
                log.error("watchdog.failed", error=repr(error), **watched.name())
        return len(waiting)

    def _see(self, watched: Watched, track: Track, sample: Sample, now: float) -> Seen:
        observation = track.observe(sample, watched.outlook(), now)
        return Seen(sample, observation, classify(observation, self.settings))

    def _apply(self, watched: Watched, seen: Seen) -> int:
        """Do what a verdict says; return what it cost, in looks."""
        sample, observation, verdict = seen
        if verdict.kind is Kind.EVICT:
            assert verdict.reason is not None
            reason = verdict.reason.value
            self._evictions[reason] = self._evictions.get(reason, 0) + 1
            began = self._work()
            head = {} if observation.head_s is None else {"head_s": round(observation.head_s, 3)}
            log.warning("connection.evicted", reason=reason, **watched.name(), **describe(seen), **head)
            watched.evict(reason)
            self._evicting_s += self._work() - began
            return EVICTION_COST
        if observation.is_ending and sample.state is Tcp.FIN_WAIT2 and not observation.pending:
            watched.finish()
        return 0

    def look(self, watched: Watched) -> Seen | None:
        """Return how one connection stands at this moment, without doing anything; None if it is closed."""
        sock = watched.socket
        sample = None if sock is None else self._probe(sock, False)
        if sample is None:
            return None
        known = self._last.tracks.get(watched)
        track = Track(self._swept_at) if known is None else known.copy()
        return self._see(watched, track, sample, self._time())

    def statistics(self) -> dict[str, object]:
        """Return what was found at the last sweep, and what was ended since the start."""
        return {
            "watched": self._last.watched,
            "not_at_rest": len(self._last.tracks),
            "close_wait": self._last.close_wait,
            "kernel_unsent_bytes": self._last.unsent_bytes,
            "last_sweep_s": round(self._last_sweep_s, 6),
            "evictions": dict(self._evictions),
        }


def describe(seen: Seen) -> dict[str, object]:
    """Return a look as plain values, for a log line or `/-/subscribers`."""
    sample, observation, verdict = seen
    return {
        "tcp_state": None if sample.state is None else sample.state.name,
        "unacked_bytes": sample.outq,
        "unacked_segments": sample.unacked,
        "pending_bytes": observation.pending,
        "last_ack_s": None if sample.last_ack_s is None else round(sample.last_ack_s, 3),
        "last_progress_s": round(observation.stalled_s, 3),
        "fin_s": None if observation.fin_s is None else round(observation.fin_s, 3),
        "verdict": verdict.kind.value,
        "evict_in_s": None if verdict.left_s is None else round(verdict.left_s, 3),
    }
