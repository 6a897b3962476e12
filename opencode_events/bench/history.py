"""What is put into the log to be read back: a mark, whose cursor is known, and so many events behind it.

Whatever the log held before lies in front of the mark, and does not matter.
"""

import json

from opencode_events.bench.errors import BenchError
from opencode_events.bench.measure import Lab
from opencode_events.bench.payload import EventMaker, new_run
from opencode_events.bench.publishers import JSON, PUBLISH, Pipelined, check
from opencode_events.bench.target import Target

BATCH = 50


def mark(target: Target) -> str:
    """Publish one event that belongs to no measurement, and return the cursor after it."""
    answer = target.ask("POST", PUBLISH, JSON, body=EventMaker(new_run()).make())
    if answer is None:
        raise BenchError(f"{target.host} does not answer to what is published")
    check(answer, 1)
    try:
        cursor = json.loads(answer.body)["last"]
    except (ValueError, KeyError, TypeError):
        cursor = None
    if not isinstance(cursor, str):
        raise BenchError("the daemon does not tell the cursor of what was published")
    return cursor


def fill(lab: Lab, run: str, count: int) -> str:
    """Publish the events 0 to `count` - 1 of `run`, and return the cursor before them."""
    cursor = mark(lab.target)
    maker = EventMaker(run, size=lab.options.size)
    for batch, requests in ((BATCH, count // BATCH), (1, count % BATCH)):
        with Pipelined(lab.target, maker, batch=batch) as publisher:
            for _ in range(requests):
                publisher.exchange()
    return cursor
