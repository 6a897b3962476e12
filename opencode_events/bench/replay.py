"""The scenario `replay`: the log read back by subscribers who come all at once, and by one who was away for a moment.

Every subscriber's stream is checked like a live one: from the first event behind its cursor to the last, in order.
"""

import time
from collections import Counter

from opencode_events.bench.errors import BenchError
from opencode_events.bench.history import fill
from opencode_events.bench.measure import AFTERMATH_S, Lab
from opencode_events.bench.meter import Meter, Spent
from opencode_events.bench.payload import new_run
from opencode_events.bench.readers import BUFFER_BYTES, RESET_ON_CLOSE
from opencode_events.bench.rows import Row, scaled
from opencode_events.bench.sample import percentile
from opencode_events.bench.sequence import Position, judge
from opencode_events.bench.target import Target, stream_after
from opencode_events.bench.trail import EXPIRED, REFUSED, BrokenFrame, Trail

SUBSCRIBERS = 20
TRIES = 200
QUICK_TRIES = 20
NEAR = 10  # events behind the head


def replay(lab: Lab, name: str) -> list[Row]:
    """Measure all of the history for some, then how soon it begins for one: for all of it, and for the last few."""
    run = new_run()
    cursor = fill(lab, run, lab.options.history)
    rows = [together(lab, name, run, cursor), resume(lab, run, cursor, lab.options.history)]
    run = new_run()
    return [*rows, resume(lab, run, fill(lab, run, NEAR), NEAR)]


def together(lab: Lab, name: str, run: str, cursor: str) -> Row:
    """Measure subscribers who connect at once and read everything behind `cursor`, again and again.

    The clock runs from the first connection to the last event of each round.
    """
    count, history = lab.people(SUBSCRIBERS), lab.options.history
    spent, rounds = Spent(), 0
    with lab.gathering(run) as (crowd, _):
        while spent.wall_s < lab.options.seconds and not crowd.ended():
            rounds += 1
            meter = Meter(lab.process, crowd)
            crowd.open(stream_after(cursor), count)
            is_complete = crowd.wait_received(rounds * count * history)
            spent = spent.plus(meter.read())
            time.sleep(AFTERMATH_S)
            crowd.leave()
            if not is_complete:
                break
        received, findings = crowd.received(), crowd.findings()
    return Row(
        scenario=name,
        values={
            "subscribers": count,
            "behind": history,
            "rounds": rounds,
            "deliveries": received,
            "wall_s": spent.wall_s,
            "cpu_s": spent.cpu_s,
            "deliveries_per_s": received / spent.wall_s,
            "deliveries_per_cpu_s": received / spent.cpu_s if spent.cpu_s else None,
            "cpu_us_per_delivery": scaled(spent.cpu_s, 1e6, received),
            "tool_cores": spent.tool_cores,
        },
        faults=judge(findings.positions, history, findings.ended),
        reasons=findings.reasons,
    )


def resume(lab: Lab, run: str, cursor: str, behind: int) -> Row:
    """Measure how soon the first of `behind` events is there, one subscriber after the other."""
    tries = QUICK_TRIES if lab.options.quick else TRIES
    trail, path = Trail(run), stream_after(cursor)
    latencies: list[int] = []
    positions: Counter[Position] = Counter()
    expected = min(behind, NEAR)
    lab.rest()
    meter = Meter(lab.process)
    for _ in range(tries):
        latency, position = time_first(lab.target, path, trail, expected)
        latencies.append(latency)
        positions[position] += 1
    spent = meter.read()
    latencies.sort()
    return Row(
        scenario=f"resume-{behind}",
        values={
            "behind": behind,
            "tries": tries,
            "cpu_us_per_request": scaled(spent.cpu_s, 1e6, tries),
            "first_p50_ms": scaled(percentile(latencies, 50), 1e-6),
            "first_p99_ms": scaled(percentile(latencies, 99), 1e-6),
            "first_max_ms": scaled(percentile(latencies, 100), 1e-6),
        },
        faults=judge(positions, expected),
    )


def time_first(target: Target, path: str, trail: Trail, expected: int) -> tuple[int, Position]:
    """Resume once; return the ns from the request to the first event, and the position after `expected` events.

    Connecting is not in it: it is the kernel's.
    """
    cut, first_ns = trail.start(), 0
    with target.connect() as sock:
        sock.setsockopt(*RESET_ON_CLOSE)
        request = target.request("GET", path, "Accept: text/event-stream", "Cache-Control: no-cache")
        start = time.monotonic_ns()
        try:
            sock.sendall(request)
            while cut.position.due < expected:
                data = sock.recv(BUFFER_BYTES)
                now = time.monotonic_ns()
                if not data:
                    raise BenchError("the daemon ended a stream that was being resumed")
                step = trail.read(cut, data)
                if step.news and step.news[0] == REFUSED:
                    raise BenchError(step.news[1])
                if EXPIRED in step.news:
                    raise BenchError(f"the daemon could not resume after the cursor ({EXPIRED})")
                if step.count and not first_ns:
                    first_ns = now - start
                cut = step.then
        except TimeoutError as error:
            raise BenchError(f"{expected} events behind the cursor did not come") from error
        except (OSError, BrokenFrame) as error:
            raise BenchError(f"a stream could not be resumed: {error}") from error
    return first_ns, cut.position
