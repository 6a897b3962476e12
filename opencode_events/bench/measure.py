"""One measurement: a crowd, a publisher, and what the daemon's process cost while the one heard the other.

The order matters: warm up, let everything arrive, read the clocks, publish, let everything arrive, read the clocks.
So what is counted as delivered and what is counted as CPU time belong to the same events.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.meter import Meter, Spent
from opencode_events.bench.payload import new_run
from opencode_events.bench.procfs import Process
from opencode_events.bench.publishers import Publisher
from opencode_events.bench.readers import Findings
from opencode_events.bench.sequence import Faults, judge
from opencode_events.bench.target import Target

AFTERMATH_S = 0.05  # for what comes after the last event that is due: it can only be a duplicate
LOOK_S = 0.1
REST_S = 0.3
QUICK_REST_S = 0.1
REST_LIMIT_S = 5.0
REST_SHARE = 0.1  # of a core; a daemon below it has done with the scenario before
QUICK_SHARE = 50  # a smoke run has one in so many subscribers


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a measurement is made. Durations in seconds; `subscribers` None takes each scenario's own number.

    `history` is how many events of the log are read back by who comes for them.
    """

    seconds: float = 5.0
    warm_up_s: float = 1.0
    subscribers: int | None = None
    processes: int = 1
    size: int = 200
    in_flight: int = 8
    window: int = 5_000
    history: int = 10_000
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What is measured, and how."""

    target: Target
    process: Process
    options: Options

    def rest(self) -> None:
        """Wait until the daemon has no work left from the scenario before, but not for ever."""
        deadline = time.monotonic() + REST_LIMIT_S
        rest_s = QUICK_REST_S if self.options.quick else REST_S
        while time.monotonic() < deadline:
            before = self.process.cpu_s()
            time.sleep(rest_s)
            after = self.process.cpu_s()
            if before is None or after is None or after - before <= rest_s * REST_SHARE:
                return

    def people(self, usual: int) -> int:
        """Return how many subscribers a scenario has that usually has `usual`."""
        if self.options.subscribers is not None:
            return self.options.subscribers
        return max(10, usual // QUICK_SHARE) if self.options.quick else usual

    @contextmanager
    def gathering(self, run: str | None = None) -> Iterator[tuple[Crowd, str]]:
        """Yield an empty crowd and the name of its run, once the daemon is at rest. The run is a new one by default."""
        self.rest()
        run = run or new_run()
        with Crowd(self.target, run, processes=self.options.processes) as crowd:
            yield crowd, run


class Gate:
    """Holds the publisher while subscribers are `window` events behind on average; watches the peak of the memory.

    The daemon ends a subscriber whose backlog passes its cap, as it should. Here that would measure how
    fast our readers are: half of the default cap keeps them out of it, and is more than the daemon has in work.
    """

    def __init__(self, crowd: Crowd, subscribers: int, window: int, process: Process) -> None:
        self._crowd = crowd
        self._subscribers = subscribers
        self._window = window
        self._process = process
        self._looked = time.monotonic()
        self.peak_rss = process.rss_bytes()

    def __call__(self, made: int) -> bool:
        """Tell whether more may be published after `made` events."""
        now = time.monotonic()
        if now - self._looked > LOOK_S:
            self._looked = now
            self.peak_rss = max(self.peak_rss or 0, self._process.rss_bytes() or 0) or None
        return (made - self._window) * self._subscribers < self._crowd.received()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one measurement gave. CPU and memory are None if the process cannot be seen; latencies are sorted, in ns."""

    subscribers: int
    events: int
    requests: int
    deliveries: int
    spent: Spent
    held_s: float
    rss_before: int | None
    rss_peak: int | None
    findings: Findings
    faults: Faults

    def per_cpu_s(self) -> float | None:
        """Return deliveries per second of the daemon's CPU time."""
        return self.deliveries / self.spent.cpu_s if self.spent.cpu_s else None

    def per_wall_s(self) -> float:
        """Return deliveries per second."""
        return self.deliveries / self.spent.wall_s


def measure(
    lab: Lab, crowd: Crowd, publisher: Publisher, subscribers: int, *, seconds: float, warm_up_s: float
) -> Measured:
    """Measure `publisher` before the `subscribers` of `crowd`, who were connected before its first event."""
    gate = Gate(crowd, subscribers, lab.options.window, lab.process)
    publisher.run(warm_up_s, gate)
    crowd.wait_received(publisher.maker.made * subscribers)
    crowd.forget_latencies()
    received, rss_before = crowd.received(), lab.process.rss_bytes()
    meter = Meter(lab.process, crowd)
    published = publisher.run(seconds, gate)
    crowd.wait_received(publisher.maker.made * subscribers)
    spent = meter.read()
    deliveries = crowd.received() - received
    time.sleep(AFTERMATH_S)
    findings = crowd.findings()
    return Measured(
        subscribers=subscribers,
        events=published.events,
        requests=published.requests,
        deliveries=deliveries,
        spent=spent,
        held_s=published.held_s,
        rss_before=rss_before,
        rss_peak=max(gate.peak_rss or 0, lab.process.rss_bytes() or 0) or None,
        findings=findings,
        faults=judge(findings.positions, publisher.maker.made, findings.ended),
    )
