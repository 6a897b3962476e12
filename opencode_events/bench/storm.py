"""The scenario `storm`: a quiet stream's latency, alone and while a crowd comes back at once and catches up.

Those who come back are read by processes of their own, which stand back for those of the live subscribers: what the
live ones wait for is the daemon, not the readers beside them. One wave follows the other as long as a measurement is.
"""

import time
from collections.abc import Callable

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.history import fill
from opencode_events.bench.measure import AFTERMATH_S, Lab
from opencode_events.bench.meter import Meter
from opencode_events.bench.payload import EventMaker, new_run
from opencode_events.bench.publishers import Paced
from opencode_events.bench.rows import Row, Value, scaled
from opencode_events.bench.sample import percentile
from opencode_events.bench.sequence import added, judge
from opencode_events.bench.target import STREAM, stream_after

LIVE = 100
RETURNING = 10  # for each who is live
NICENESS = 10
STILL_S = 10.0  # without a delivery; a reader that stands back counts what a thousand sockets have as one
RATE = 20.0  # events per second of a quiet server


def paced(lab: Lab, maker: EventMaker, rate: float = RATE) -> Paced:
    """Return the publisher of a quiet server's events, `rate` of them a second."""
    return Paced(lab.target, maker, rate=rate * (5 if lab.options.quick else 1))


class Waves:
    """Lets `count` subscribers come back to `path`, read `history` events and leave; then the next as many."""

    def __init__(
        self,
        herd: Crowd,
        path: str,
        count: int,
        history: int,
        *,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._herd = herd
        self._path = path
        self._count = count
        self._history = history
        self._clock = clock
        self._until = clock() + seconds
        self._received = -1
        self._moved_at = 0.0
        self.begun = 0

    def __call__(self, elapsed_s: float = 0.0) -> bool:
        """Begin the next wave if it is time; tell whether one is under way. Waits for nothing.

        The last is the one that is over after `seconds`, or the one in which everything stands still.
        """
        herd, now = self._herd, self._clock()
        if not herd.is_open():
            return True
        received = herd.received()
        if herd.left() == self.begun * self._count:
            if now >= self._until and self.begun:
                return False
            herd.begin(self._path, self._count, at_once=self._count, leaves_at=self._history)
            self.begun += 1
            self._moved_at = now
        elif received != self._received:
            self._received, self._moved_at = received, now
        return not herd.ended() and now - self._moved_at < STILL_S


def storm(lab: Lab, name: str) -> list[Row]:
    """Measure live subscribers alone, then beside waves of others who are half of `history` behind."""
    options = lab.options
    count, behind, past = lab.people(LIVE), max(1, options.history // 2), new_run()
    returning = RETURNING * count
    cursor = fill(lab, past, behind)
    with (
        lab.gathering() as (crowd, run),
        Crowd(lab.target, past, processes=options.processes, niceness=NICENESS) as herd,
    ):
        crowd.open(STREAM, count, sampled=count)
        with paced(lab, EventMaker(run, size=options.size)) as publisher:
            publisher.run(options.warm_up_s)
            crowd.wait_received(publisher.maker.made * count)
            crowd.forget_latencies()
            publisher.run(options.seconds)
            crowd.wait_received(publisher.maker.made * count)
            alone = crowd.findings().latencies
            crowd.forget_latencies()
            waves = Waves(herd, stream_after(cursor), returning, behind, seconds=options.seconds)
            meter = Meter(lab.process, crowd, herd)
            publisher.run_while(waves)
            spent = meter.read()
            crowd.wait_received(publisher.maker.made * count)
        time.sleep(AFTERMATH_S)
        findings, past_findings, received = crowd.findings(), herd.findings(), herd.received()
    beside = findings.latencies
    alone_p99, beside_p99 = percentile(alone, 99), percentile(beside, 99)
    values: dict[str, Value] = {
        "subscribers": count,
        "returning": returning,
        "behind": behind,
        "rounds": waves.begun,
        "deliveries": received,
        "wall_s": spent.wall_s,
        "cpu_s": spent.cpu_s,
        "deliveries_per_s": received / spent.wall_s,
        "deliveries_per_cpu_s": received / spent.cpu_s if spent.cpu_s else None,
        "alone_p50_ms": scaled(percentile(alone, 50), 1e-6),
        "alone_p99_ms": scaled(alone_p99, 1e-6),
        "beside_p50_ms": scaled(percentile(beside, 50), 1e-6),
        "beside_p99_ms": scaled(beside_p99, 1e-6),
        "beside_max_ms": scaled(percentile(beside, 100), 1e-6),
        "p99_ratio": scaled(beside_p99, 1, alone_p99 or 0),
        "tool_cores": spent.tool_cores,
    }
    faults = added(
        judge(findings.positions, publisher.maker.made, findings.ended),
        judge(past_findings.positions, behind, past_findings.ended),
    )
    return [Row(scenario=name, values=values, faults=faults, reasons=findings.reasons + past_findings.reasons)]
