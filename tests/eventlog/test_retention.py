"""One step of trimming: which events go, how many at a time, and what stays of them."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.eventlog import retention, schema
from opencode_events.eventlog.retention import STEP_BYTES, STEP_EVENTS, Limits, Trimmed, delete_to, trim

NONE = Limits(10**9, 10**15, 0)
USED = 10_000_000


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(db, None)
    yield db
    db.close()


def fill(db: sqlite3.Connection, *events: tuple[int, int, int]) -> None:
    """Store events: position, milliseconds, bytes."""
    db.executemany(
        "INSERT INTO event VALUES (?1, 'id' || ?1, 0, 'a', NULL, NULL, NULL, NULL, NULL, ?2, 0, 2, zeroblob(?3))",
        events,
    )


def places(db: sqlite3.Connection) -> list[int]:
    return [position for (position,) in db.execute("SELECT position FROM event ORDER BY position")]


def mark(db: sqlite3.Connection) -> int:
    (value,) = db.execute("SELECT value FROM mark WHERE name = 'head'").fetchone()
    return int(value)


# --- which


def test_nothing_goes_from_an_empty_log(db: sqlite3.Connection) -> None:
    assert trim(db, 7, Limits(1, 1, 10**15), USED) == Trimmed(0, 0)
    assert mark(db) == 0


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        (NONE, [3, 4, 5, 6]),
        (NONE._replace(events=4), [3, 4, 5, 6]),
        (NONE._replace(events=3), [4, 5, 6]),
        (NONE._replace(events=0), []),
        (NONE._replace(since_ms=30), [3, 4, 5, 6]),
        (NONE._replace(since_ms=31), [4, 5, 6]),
        (NONE._replace(since_ms=61), []),
        (NONE._replace(size=USED), [3, 4, 5, 6]),
        (NONE._replace(size=USED - 1), [4, 5, 6]),
        (NONE._replace(size=USED - 100), [4, 5, 6]),
        (NONE._replace(size=USED - 101), [5, 6]),
        (NONE._replace(events=3, since_ms=51), [6]),
    ],
)
def test_the_oldest_go_that_are_beyond_a_limit(db: sqlite3.Connection, limits: Limits, left: list[int]) -> None:
    fill(db, (3, 30, 100), (4, 40, 100), (5, 50, 100), (6, 60, 100))
    gone = 4 - len(left)

    assert trim(db, 6, limits, USED) == Trimmed(gone, 100 * gone)
    assert places(db) == left
    assert mark(db) == (6 if gone else 0)


def test_one_that_may_stay_keeps_those_behind_it(db: sqlite3.Connection) -> None:
    """A clock that was set back: what goes is always the beginning of the log."""
    fill(db, (1, 10, 1), (2, 50, 1), (3, 20, 1))
    trim(db, 3, NONE._replace(since_ms=40), USED)

    assert places(db) == [2, 3]


def test_places_count_and_not_rows(db: sqlite3.Connection) -> None:
    """Where a damaged log has holes, nobody counts them."""
    fill(db, (1, 0, 1), (5, 0, 1), (9, 0, 1))
    trim(db, 10, NONE._replace(events=6), USED)

    assert places(db) == [5, 9]


# --- how many at a time


@pytest.mark.parametrize("count", [STEP_EVENTS - 1, STEP_EVENTS, STEP_EVENTS + 1])
def test_a_step_is_of_so_many_events(db: sqlite3.Connection, count: int) -> None:
    fill(db, *((position, 0, 1) for position in range(1, count + 1)))

    assert trim(db, count, NONE._replace(events=0), USED) == Trimmed(min(count, STEP_EVENTS), min(count, STEP_EVENTS))
    assert len(places(db)) == max(count - STEP_EVENTS, 0)


@pytest.mark.parametrize(
    ("sizes", "gone"),
    [
        ([STEP_BYTES - 1, 5, 5], 2),
        ([STEP_BYTES, 5, 5], 1),
        ([STEP_BYTES // 2, STEP_BYTES // 2, 5], 2),
        ([3 * STEP_BYTES, 5], 1),
    ],
    ids=["almost", "as many as may", "in two", "one that is larger"],
)
def test_a_step_ends_at_so_many_bytes(db: sqlite3.Connection, sizes: list[int], gone: int) -> None:
    fill(db, *((position, 0, size) for position, size in enumerate(sizes, 1)))

    assert trim(db, len(sizes), NONE._replace(events=0), USED) == Trimmed(gone, sum(sizes[:gone]))
    assert places(db) == list(range(gone + 1, len(sizes) + 1))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=40),
    st.integers(0, 45), st.integers(0, 55), st.integers(0, 250), st.integers(1, 7), st.integers(1, 30),
)  # fmt: skip
def test_steps_come_to_the_same_as_one_look(
    rows: list[tuple[int, int]], events: int, since_ms: int, size: int, step_events: int, step_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "STEP_EVENTS", step_events)
        patch.setattr(retention, "STEP_BYTES", step_bytes)
        db = sqlite3.connect(":memory:", isolation_level=None)
        schema.prepare(db, None)
        fill(db, *((position, stored, length) for position, (stored, length) in enumerate(rows, 1)))
        head, used = len(rows), sum(length for _, length in rows)
        limits = Limits(events, size, since_ms)
        while (trimmed := trim(db, head, limits, used)).events:
            assert trimmed.events <= step_events
            assert trimmed.size <= step_bytes + 9
            used -= trimmed.size
        left = places(db)
        db.close()

    expected = list(enumerate(rows, 1))
    while expected and (
        len(expected) > events or expected[0][1][0] < since_ms or sum(length for _, (_, length) in expected) > size
    ):
        del expected[0]
    assert left == [position for position, _ in expected]


# --- what stays


def test_the_head_is_noted_with_the_deletion_and_only_grows(db: sqlite3.Connection) -> None:
    fill(db, (1, 0, 1), (2, 0, 1), (3, 0, 1))
    assert delete_to(db, 2, 3) == 2
    assert mark(db) == 3
    assert delete_to(db, 3, 2) == 1
    assert mark(db) == 3
    assert places(db) == []


def test_what_fails_deletes_nothing(db: sqlite3.Connection) -> None:
    fill(db, (1, 0, 1), (2, 0, 1))
    db.execute("CREATE TRIGGER refuse BEFORE DELETE ON event WHEN old.position = 2 BEGIN SELECT raise(FAIL, 'no'); END")
    with pytest.raises(sqlite3.IntegrityError, match="no"):
        trim(db, 2, NONE._replace(events=0), USED)

    assert places(db) == [1, 2]
    assert mark(db) == 0
    assert not db.in_transaction


def test_a_row_that_is_damaged_goes_like_the_others(db: sqlite3.Connection) -> None:
    db.execute("DROP TABLE event")
    db.execute("CREATE TABLE event (position INTEGER PRIMARY KEY, stored_ms, envelope)")
    db.execute("INSERT INTO event VALUES (1, NULL, NULL), (2, 'text', 'text'), (3, 40, x'00')")

    assert trim(db, 3, NONE._replace(since_ms=30), USED) == Trimmed(2, 4)
    assert places(db) == [3]
