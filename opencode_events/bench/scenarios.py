"""The scenarios: which subscribers meet which publisher, and the figures made of it.

A scenario is a function from the lab to rows; a row is what one line of the report says. `idle` stands first,
because memory that another scenario left free in the daemon would hide what a subscriber takes.
"""

from collections.abc import Callable

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.measure import Lab, Measured, measure
from opencode_events.bench.payload import EventMaker, new_run
from opencode_events.bench.publish import publish
from opencode_events.bench.publishers import Pipelined, Publisher, Streamed
from opencode_events.bench.replay import replay
from opencode_events.bench.rows import Row, Value, scaled
from opencode_events.bench.sample import percentile
from opencode_events.bench.scaling import scaling
from opencode_events.bench.sequence import judge
from opencode_events.bench.storm import paced, storm
from opencode_events.bench.target import STREAM

BATCH = 50
IDLE_WARM_UP = 200
STALLED = 20
STALLED_BUFFER_BYTES = 4096
# What a busy day looks like: of 400 subscribers every fourth is stuck, and events are larger than the flood's.
BUSY_READING = 300
BUSY_STALLED = 100
BUSY_RATE = 50.0
BUSY_SIZE = 2_048

Make = Callable[[Lab, EventMaker], Publisher]
Scenario = Callable[[Lab, str], list[Row]]


def single(lab: Lab, maker: EventMaker) -> Publisher:
    """Return the publisher of one event a request, several requests in flight on one connection."""
    return Pipelined(lab.target, maker, in_flight=lab.options.in_flight)


def batch(lab: Lab, maker: EventMaker) -> Publisher:
    """Return the publisher of arrays."""
    return Pipelined(lab.target, maker, batch=BATCH, in_flight=lab.options.in_flight)


def ndjson(lab: Lab, maker: EventMaker) -> Publisher:
    """Return the publisher of one long request."""
    return Streamed(lab.target, maker)


def fan_out(make: Make, subscribers: int, *, sampled: int = 10) -> Scenario:
    """Return the scenario of `subscribers` on the global stream and one publisher. Most scenarios are this."""

    def run(lab: Lab, name: str) -> list[Row]:
        count = lab.people(subscribers)
        with lab.gathering() as (crowd, run_id):
            crowd.open(STREAM, count, sampled=sampled)
            with make(lab, EventMaker(run_id, size=lab.options.size)) as publisher:
                measured = measure(
                    lab, crowd, publisher, count, seconds=lab.options.seconds, warm_up_s=lab.options.warm_up_s
                )
        values = fan_out_values(measured) | {"lagging_frames": measured.findings.lagging}
        return [Row(scenario=name, values=values, faults=measured.faults, reasons=measured.findings.reasons)]

    return run


def fan_out_values(measured: Measured) -> dict[str, Value]:
    """Return the figures of one measurement."""
    wall_s, cpu_s, latencies = measured.spent.wall_s, measured.spent.cpu_s, measured.findings.latencies
    return {
        "subscribers": measured.subscribers,
        "events": measured.events,
        "deliveries": measured.deliveries,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "events_per_s": measured.events / wall_s,
        "deliveries_per_s": measured.per_wall_s(),
        "deliveries_per_cpu_s": measured.per_cpu_s(),
        "cpu_us_per_request": scaled(cpu_s, 1e6, measured.requests),
        "cpu_ms_per_event": scaled(cpu_s, 1e3, measured.events),
        "p50_ms": scaled(percentile(latencies, 50), 1e-6),
        "p99_ms": scaled(percentile(latencies, 99), 1e-6),
        "max_ms": scaled(percentile(latencies, 100), 1e-6),
        "rss_mib": scaled(measured.rss_peak, 1 / 2**20),
        "held_s": measured.held_s,
    }


def stalled(lab: Lab, name: str) -> list[Row]:
    """Flood healthy subscribers alone, then beside some that never read, then alone again.

    The mean of the two runs alone is what the one between is compared with, because machines drift.
    """
    count, seconds = lab.people(100), lab.options.seconds
    with lab.gathering() as (crowd, run_id):
        crowd.open(STREAM, count)
        with batch(lab, EventMaker(run_id, size=lab.options.size)) as publisher:
            before = measure(lab, crowd, publisher, count, seconds=seconds / 2, warm_up_s=lab.options.warm_up_s)
            with Crowd(lab.target, new_run()) as mute:
                mute.open(STREAM, STALLED, reads=False, receive_buffer=STALLED_BUFFER_BYTES)
                beside = measure(lab, crowd, publisher, count, seconds=seconds, warm_up_s=0)
            lab.rest()
            after = measure(lab, crowd, publisher, count, seconds=seconds / 2, warm_up_s=0)
    alone_wall = (before.per_wall_s() + after.per_wall_s()) / 2
    alone_cpu = ((before.per_cpu_s() or 0) + (after.per_cpu_s() or 0)) / 2
    grown = None if beside.rss_peak is None or beside.rss_before is None else beside.rss_peak - beside.rss_before
    values: dict[str, Value] = {
        "subscribers": count,
        "stalled": STALLED,
        "alone_per_s": alone_wall,
        "beside_per_s": beside.per_wall_s(),
        "wall_ratio": beside.per_wall_s() / alone_wall if alone_wall else None,
        "alone_per_cpu_s": alone_cpu or None,
        "beside_per_cpu_s": beside.per_cpu_s(),
        "cpu_ratio": scaled(beside.per_cpu_s(), 1, alone_cpu),
        "rss_growth_mib": scaled(grown, 1 / 2**20),
        "held_s": beside.held_s,
    }
    return [Row(scenario=name, values=values, faults=after.faults, reasons=after.findings.reasons)]


def stalled_latency(lab: Lab, name: str) -> list[Row]:
    """Measure how late events come to those who read: alone, beside some that never do, and alone again."""
    count, stuck, options = lab.people(BUSY_READING), lab.people(BUSY_STALLED), lab.options
    alone: list[int] = []
    with lab.gathering() as (crowd, run_id):
        crowd.open(STREAM, count, sampled=count)
        with paced(lab, EventMaker(run_id, size=max(options.size, BUSY_SIZE)), BUSY_RATE) as publisher:

            def listen(seconds: float) -> list[int]:
                crowd.forget_latencies()
                publisher.run(seconds)
                crowd.wait_received(publisher.maker.made * count)
                return list(crowd.findings().latencies)

            listen(options.warm_up_s)
            alone += listen(options.seconds / 2)
            with Crowd(lab.target, new_run()) as mute:
                mute.open(STREAM, stuck, reads=False, receive_buffer=STALLED_BUFFER_BYTES)
                beside = listen(options.seconds)
            lab.rest()
            alone += listen(options.seconds / 2)
        findings = crowd.findings()
    alone.sort()
    alone_p99, beside_p99 = percentile(alone, 99), percentile(beside, 99)
    values: dict[str, Value] = {
        "subscribers": count,
        "stalled": stuck,
        "alone_p50_ms": scaled(percentile(alone, 50), 1e-6),
        "alone_p99_ms": scaled(alone_p99, 1e-6),
        "beside_p50_ms": scaled(percentile(beside, 50), 1e-6),
        "beside_p99_ms": scaled(beside_p99, 1e-6),
        "p99_ratio": scaled(beside_p99, 1, alone_p99 or 0),
    }
    faults = judge(findings.positions, publisher.maker.made, findings.ended)
    return [Row(scenario=name, values=values, faults=faults, reasons=findings.reasons)]


def idle(lab: Lab, name: str) -> list[Row]:
    """Count the resident memory of subscribers to whom nothing happens, beyond that of some who stay connected."""
    count, warm_up = lab.people(2_000), lab.people(IDLE_WARM_UP)
    with lab.gathering() as (crowd, _):
        crowd.open(STREAM, warm_up)
        lab.rest()
        before = lab.process.rss_bytes()
        crowd.open(STREAM, count)
        lab.rest()
        after = lab.process.rss_bytes()
        findings = crowd.findings()
    grown = None if before is None or after is None else after - before
    values: dict[str, Value] = {
        "subscribers": count,
        "rss_mib": scaled(after, 1 / 2**20),
        "kib_per_subscriber": scaled(grown, 1 / 1024, count),
    }
    return [Row(scenario=name, values=values, faults=judge({}, 0, findings.ended), reasons=findings.reasons)]


SCENARIOS: dict[str, Scenario] = {
    "idle": idle,
    "fanout-1000": fan_out(single, 1_000),
    "batch-1000": fan_out(batch, 1_000),
    "fanout-100": fan_out(single, 100),
    "ndjson-100": fan_out(ndjson, 100),
    "latency-1000": fan_out(paced, 1_000, sampled=1_000),
    "stalled": stalled,
    "stalled-latency": stalled_latency,
    "publish": publish,
    "replay": replay,
    "storm": storm,
    "scaling": scaling,
}
