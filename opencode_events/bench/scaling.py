"""What a delivery costs among few subscribers and among many, told apart from what publishing costs.

One array is published at a time, and the next when all have received it, so each flush holds the same events. In
turns with them go arrays for a directory that nobody hears: what those cost is publishing. The turns are short
against the drift of a machine, and long against the ticks of 10 ms in which some kernels tell CPU time.
"""

import time
from dataclasses import dataclass

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.measure import AFTERMATH_S, Lab
from opencode_events.bench.payload import EventMaker
from opencode_events.bench.procfs import Process
from opencode_events.bench.publishers import Pipelined
from opencode_events.bench.readers import Findings
from opencode_events.bench.rows import Row, scaled
from opencode_events.bench.sequence import Faults, judge
from opencode_events.bench.target import instance_stream

BATCH = 50
SIZES = (1, 10, 100, 1_000, 10_000)
TURN_S = 0.5
HEARD = "/bench/heard"
SILENT = "/bench/silent"


@dataclass
class Tally:
    """Arrays of one kind, and the daemon's CPU time for them in seconds."""

    arrays: int = 0
    cpu_s: float = 0.0

    def us_per_array(self) -> float | None:
        """Return the cost of one; None if the process cannot be seen."""
        return scaled(self.cpu_s or None, 1e6, self.arrays)


@dataclass(frozen=True)
class Step:
    """The measurement of one number of subscribers."""

    subscribers: int
    heard: Tally
    silent: Tally
    faults: Faults
    findings: Findings

    def net_us_per_array(self) -> float | None:
        """Return what an array costs beyond publishing it."""
        heard, silent = self.heard.us_per_array(), self.silent.us_per_array()
        return None if heard is None or silent is None else heard - silent


def scaling(lab: Lab, name: str) -> list[Row]:
    """Measure each of SIZES up to the scenario's most subscribers."""
    largest = lab.people(SIZES[-1])
    steps = [measure_step(lab, count) for count in sorted({min(size, largest) for size in SIZES})]
    return [row(name, step, steps[0]) for step in steps]


def row(name: str, step: Step, first: Step) -> Row:
    """Return the figures of a step.

    `net_us_per_delivery` is without the publishing, but with what is paid once a flush, however many listen.
    `added_us_per_delivery` is without that as well: what each subscriber adds to those of the first step.
    """
    net, base = step.net_us_per_array(), first.net_us_per_array()
    added = None if net is None or base is None else net - base
    return Row(
        scenario=name,
        values={
            "subscribers": step.subscribers,
            "arrays": step.heard.arrays,
            "publish_us_per_array": step.silent.us_per_array(),
            "cpu_us_per_delivery": scaled(step.heard.us_per_array(), 1, step.subscribers * BATCH),
            "net_us_per_delivery": scaled(net, 1, step.subscribers * BATCH),
            "added_us_per_delivery": scaled(added, 1, (step.subscribers - first.subscribers) * BATCH),
        },
        faults=step.faults,
        reasons=step.findings.reasons,
    )


def measure_step(lab: Lab, count: int) -> Step:
    """Alternate between `count` subscribers and nobody, for the time of a scenario.

    Both directories' events have one run and the same numbers: one that reached the wrong stream is a duplicate.
    """
    heard, silent, size = Tally(), Tally(), lab.options.size
    with lab.gathering() as (crowd, run):
        crowd.open(instance_stream(HEARD), count)
        with (
            Pipelined(lab.target, EventMaker(run, directory=HEARD, size=size), batch=BATCH) as hits,
            Pipelined(lab.target, EventMaker(run, directory=SILENT, size=size), batch=BATCH) as misses,
        ):
            take_turn(lab.process, Tally(), crowd, hits, count, lab.options.warm_up_s / 2)
            take_turn(lab.process, Tally(), crowd, misses, 0, lab.options.warm_up_s / 2)
            deadline = time.monotonic() + lab.options.seconds
            turn_s = min(TURN_S, lab.options.seconds / 2)
            while time.monotonic() < deadline and not crowd.ended():
                take_turn(lab.process, heard, crowd, hits, count, turn_s)
                take_turn(lab.process, silent, crowd, misses, 0, turn_s)
            time.sleep(AFTERMATH_S)
            findings = crowd.findings()
            return Step(count, heard, silent, judge(findings.positions, hits.maker.made, findings.ended), findings)


def take_turn(process: Process, tally: Tally, crowd: Crowd, publisher: Pipelined, count: int, seconds: float) -> None:
    """Publish arrays for `seconds`, at least one, each when all `count` subscribers have the one before."""
    deadline = time.monotonic() + seconds
    before = process.cpu_s()
    while True:
        publisher.exchange()
        tally.arrays += 1
        is_received = crowd.wait_received(publisher.maker.made * count)
        if not is_received or time.monotonic() >= deadline:
            break
    after = process.cpu_s()
    if before is not None and after is not None:
        tally.cpu_s += after - before
