"""A log that has learned, and one that has gaps, are looked through: they are sound unless they are damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest

from opencode_events import events
from opencode_events.eventlog import audit, logfile
from opencode_events.eventlog.base import Aggregate
from opencode_events.eventlog.sqlite import SqliteLog
from tests.eventlog.files import other
from tests.eventlog.steps import put
from tests.samples import event, twin

OpenFile = Callable[..., SqliteLog]


def findings(path: Path) -> list[str]:
    with logfile.reading(path) as db:
        return list(audit.findings(db, lambda count: None))


def damage(path: Path, statement: str) -> None:
    with other(path) as db:
        db.execute(statement)


async def test_sequences_that_were_put_elsewhere_are_sound(path: Path, log: SqliteLog) -> None:
    """Up, down, before the beginning, and where they were already; with and without events since then."""
    await put(log, [twin(number, session=name, seq=3) for number, name in enumerate("abcdef")])
    await log.learn({"a": Aggregate(9), "b": Aggregate(1), "c": Aggregate(-1), "d": Aggregate(3), "new": Aggregate(-1)})
    await put(log, [twin(10, session="a", seq=10), twin(11, session="b", seq=2), twin(12, session="d", seq=4)])
    await log.learn({"e": Aggregate(7), "f": Aggregate(0)})

    assert findings(path) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE aggregate SET last = 12", "the sync events of ses_1 are 3 to 10, but were counted as 3 to 12"),
        ("UPDATE aggregate SET first = 4", "the sync events of ses_1 are 3 to 10, but were counted as 4 to 10"),
        ("UPDATE aggregate SET last = 8", "the aggregate ses_1 was counted as 3 to 8"),
        ("UPDATE aggregate SET first = 12, last = 10, learned = 9", "the aggregate ses_1 was counted as 12 to 10"),
    ],
    ids=["too far", "from too late", "not so far as was learned", "ends before it begins"],
)
async def test_a_sequence_that_was_learned_can_be_wrong_all_the_same(
    path: Path, log: SqliteLog, statement: str, found: str
) -> None:
    await put(log, [twin(1, seq=3)])
    await log.learn({"ses_1": Aggregate(9)})
    await put(log, [twin(2, seq=10)])
    damage(path, statement)

    assert found in findings(path)


async def test_gaps_are_sound(path: Path, log: SqliteLog) -> None:
    await put(log, [event(1), events.gap(None, 1, 0), events.gap(1_800_000_000_000, 1_800_000_030_000, 7)])

    assert findings(path) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE event SET id = 'evt_2'", "row and envelope differ in id"),
        ("UPDATE event SET type = 'a'", "row and envelope differ in type"),
        ("UPDATE event SET directory = '/srv/a'", "row and envelope differ in directory"),
        ("UPDATE event SET payload_end = payload_end - 1", "its payload is not where the row says"),
        (
            "UPDATE event SET envelope = CAST(replace(envelope, 'stream.gap', 'stream.live') AS BLOB)",
            "it is a server's own frame",
        ),
    ],
    ids=["id", "type", "directory", "payload", "another frame"],
)
async def test_what_is_wrong_with_a_gap_is_found(path: Path, log: SqliteLog, statement: str, found: str) -> None:
    await put(log, [events.gap(None, 1, 0)])
    damage(path, statement)

    assert findings(path) == [f"the event at 1: {found}"]
