"""What tests do to any event log, and the clock that they give it."""

from collections.abc import Callable, Sequence

import hypothesis

from opencode_events.eventlog.base import Appended, EventLog, Outcome, Page, Query, SyncRow
from opencode_events.events import Event
from tests.samples import event, twin

# Opens the log, the same one each time if it outlives being closed. Keywords are settings.
OpenLog = Callable[..., EventLog]

# Each example goes on with the log that the one before it left, and each log has examples of its own.
MANY_EXAMPLES = hypothesis.settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.differing_executors,
    ],
)
EVERYTHING = Query(None, None, 100_000, 1 << 40)


class Clock:
    """Unix time, which stands still."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def put(log: EventLog, *batches: Sequence[Event]) -> list[Outcome]:
    """Append in one commit, at once or not, whichever the log prefers."""
    found = log.append_nowait(batches)
    return await log.append(batches) if found is None else found


async def read_all(log: EventLog, after: int = 0, query: Query = EVERYTHING) -> list[Page]:
    """Read pages from `after` to the head. Each must bring the reader on."""
    pages: list[Page] = []
    until = log.head
    while not pages or pages[-1].last < until:
        pages.append(await log.read(after, until, query))
        assert after <= pages[-1].last <= until
        assert pages[-1].last > after or after == until
        after = pages[-1].last
    return pages


async def positions(log: EventLog, after: int = 0, query: Query = EVERYTHING) -> list[int]:
    return [one.position for page in await read_all(log, after, query) for one in page.events]


async def history(log: EventLog, known: dict[str, int] | None = None) -> list[SyncRow]:
    return [row async for page in log.history(known or {}) for row in page]


async def settle(log: EventLog) -> int:
    """Have the log do its own work until there is no more; return the number of steps, the last one not counted."""
    steps = 0
    while await log.maintain():
        steps += 1
        assert steps < 10_000
    return steps


def batch(number: int) -> list[Event]:
    """Return a plain event, some of them large, and the twin at `number`."""
    return [event(number, pad=20_000 if number % 5 == 0 else 200), twin(number, seq=number)]


async def publish(log: EventLog, numbers: range) -> list[Event]:
    """Publish batches one by one, and return what was acknowledged."""
    made: list[Event] = []
    for number in numbers:
        (outcome,) = await put(log, batch(number))
        assert isinstance(outcome, Appended)
        made += outcome.events
    return made


async def check(log: EventLog, expected: list[Event]) -> None:
    """See that all of it is there, at its place, and that the log is otherwise well."""
    stored = [one for page in await read_all(log) for one in page.events]
    assert [one.position for one in stored] == list(range(1, len(expected) + 1))
    assert [one.event for one in stored] == expected
    assert [row.seq for row in await history(log)] == [one.seq for one in expected if one.is_sync]
    assert all(log.is_known(log.cursor(position)) for position in range(len(expected) + 1))
    assert log.append_nowait([]) == []
