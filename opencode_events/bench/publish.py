"""The scenario `publish`: what an acknowledged event costs, alone, among many publishers and as a stream.

What was acknowledged to publishers without subscribers is read back from the log afterwards, so that a daemon which
acknowledges what it has not stored fails here. 64 publishers' events have no order among each other.
"""

import time

from opencode_events.bench.closedloop import ClosedLoop
from opencode_events.bench.history import mark
from opencode_events.bench.measure import AFTERMATH_S, Lab, measure
from opencode_events.bench.meter import Meter, Spent
from opencode_events.bench.payload import EventMaker
from opencode_events.bench.publishers import Streamed
from opencode_events.bench.rows import Row, Value, scaled
from opencode_events.bench.sample import percentile
from opencode_events.bench.sequence import judge
from opencode_events.bench.target import STREAM, stream_after

PUBLISHERS = (1, 64)
SUBSCRIBERS = (10, 100)


def publish(lab: Lab, name: str) -> list[Row]:
    """Measure publishers who wait for each acknowledgement, and then a stream that is heard."""
    return [
        *(waiting(lab, f"{name}-{count}", count) for count in PUBLISHERS),
        *(streaming(lab, f"{name}-ndjson-{count}", lab.people(count)) for count in SUBSCRIBERS),
    ]


def waiting(lab: Lab, name: str, publishers: int) -> Row:
    """Measure `publishers` connections of one event a request, each with one request in flight."""
    options = lab.options
    with lab.gathering() as (crowd, run):
        cursor = mark(lab.target)
        with ClosedLoop(lab.target, EventMaker(run, size=options.size), publishers) as loop:
            loop.run(options.warm_up_s)
            meter = Meter(lab.process)
            done = loop.run(options.seconds)
            spent = meter.read()
        crowd.open(stream_after(cursor), 1)
        crowd.wait_received(loop.maker.made)
        time.sleep(AFTERMATH_S)
        findings = crowd.findings()
    faults = judge(findings.positions, loop.maker.made, findings.ended)
    values = figures(publishers, 0, done.events, spent, done.latencies) | {"held_s": 0.0}
    return Row(
        scenario=name,
        values=values,
        faults=faults if publishers == 1 else faults._replace(disordered=0),
        reasons=findings.reasons,
    )


def streaming(lab: Lab, name: str, subscribers: int) -> Row:
    """Measure one endless request of NDJSON beside `subscribers`, who get all of it."""
    options = lab.options
    with lab.gathering() as (crowd, run):
        crowd.open(STREAM, subscribers)
        with Streamed(lab.target, EventMaker(run, size=options.size)) as publisher:
            measured = measure(lab, crowd, publisher, subscribers, seconds=options.seconds, warm_up_s=options.warm_up_s)
    values = figures(1, subscribers, measured.events, measured.spent, []) | {"held_s": measured.held_s}
    return Row(scenario=name, values=values, faults=measured.faults, reasons=measured.findings.reasons)


def figures(publishers: int, subscribers: int, events: int, spent: Spent, latencies: list[int]) -> dict[str, Value]:
    """Return what a row says of `events` that were acknowledged; a stream has one acknowledgement, at its end."""
    return {
        "publishers": publishers,
        "subscribers": subscribers,
        "events": events,
        "wall_s": spent.wall_s,
        "cpu_s": spent.cpu_s,
        "events_per_s": events / spent.wall_s,
        "events_per_cpu_s": events / spent.cpu_s if spent.cpu_s else None,
        "cpu_us_per_event": scaled(spent.cpu_s, 1e6, events),
        "ack_p50_ms": scaled(percentile(latencies, 50), 1e-6),
        "ack_p99_ms": scaled(percentile(latencies, 99), 1e-6),
        "ack_max_ms": scaled(percentile(latencies, 100), 1e-6),
        "tool_cores": spent.tool_cores,
    }
