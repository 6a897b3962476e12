"""Statements over the tables: pages that end where they should, texts of any kind, and rows that damage has changed."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import events
from opencode_events.errors import OutOfSequence
from opencode_events.eventlog import rows, schema
from opencode_events.eventlog.base import Page, Query
from opencode_events.eventlog.epochs import Epoch, Epochs
from opencode_events.eventlog.rows import HISTORY_BYTES, HISTORY_ROWS, SCAN_ROWS, Place, read_history, read_page
from opencode_events.events import Event
from tests.eventlog.steps import EVERYTHING
from tests.samples import event, make, twin
from tests.strategies import TEXTS

EPOCHS = Epochs([], Epoch("0123456789", 1, None))


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with_tables = empty()
    yield with_tables
    with_tables.close()


def empty() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(db, None)
    return db


def insert(db: sqlite3.Connection, *events: Event) -> None:
    db.execute("BEGIN")
    for position, one in enumerate(events, 1):
        assert rows.insert(db, position, one, 0)
    db.execute("COMMIT")


def read(db: sqlite3.Connection, until: int, query: Query = EVERYTHING) -> Page:
    return read_page(db, 0, until, query, EPOCHS)


def is_wanted(one: Event) -> bool:
    return one.type == "wanted"


# --- pages


@pytest.mark.parametrize(
    ("count", "last"),
    [(SCAN_ROWS - 1, 9000), (SCAN_ROWS, SCAN_ROWS), (SCAN_ROWS + 1, SCAN_ROWS)],
    ids=["fewer than it looks at", "as many", "one more"],
)
@pytest.mark.parametrize("directory", [None, "/srv/a"])
def test_a_page_looks_at_so_many_rows(db: sqlite3.Connection, directory: str | None, count: int, last: int) -> None:
    insert(db, *(event(number) for number in range(count)))
    page = read(db, 9000, Query(directory, is_wanted, 100, 10**6))

    assert (page.events, page.last) == ([], last)


def test_the_last_one_that_is_looked_at_may_be_the_one(db: sqlite3.Connection) -> None:
    insert(db, *(event(number) for number in range(SCAN_ROWS - 1)), event(9000, "wanted"), event(9001, "wanted"))
    query = Query(None, is_wanted, 100, 10**6)

    page = read(db, SCAN_ROWS + 1, query)
    assert ([one.position for one in page.events], page.last) == ([SCAN_ROWS], SCAN_ROWS)
    page = read_page(db, page.last, SCAN_ROWS + 1, query, EPOCHS)
    assert ([one.position for one in page.events], page.last) == ([SCAN_ROWS + 1], SCAN_ROWS + 1)


def test_an_empty_log_has_its_oldest_behind_what_was_asked_for(db: sqlite3.Connection) -> None:
    assert read(db, 7) == Page([], 7, 8)


def statements(db: sqlite3.Connection, act: Callable[[], object]) -> list[str]:
    """Return how SQLite goes about what `act` has it do."""
    said: list[str] = []
    db.set_trace_callback(said.append)
    act()
    db.set_trace_callback(None)
    return [
        step for text in said if text.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        for *_, step in db.execute(f"EXPLAIN QUERY PLAN {text}")
    ]  # fmt: skip


def test_nothing_looks_at_more_than_it_must(db: sqlite3.Connection) -> None:
    """Each statement goes by an index, however long the log: none scans the events, and none sorts them."""
    insert(db, *(one for number in range(20) for one in (event(number), twin(number, seq=number))))
    look = EVERYTHING._replace(matches=lambda one: True)

    def work() -> None:
        for query in (EVERYTHING, look, EVERYTHING._replace(directory="/srv/a"), look._replace(directory="/srv/a")):
            read_page(db, 5, 40, query, EPOCHS)
        read_history(db, {"ses_1": 3}, Place())
        rows.insert(db, 41, event(100), 0)
        rows.insert(db, 42, twin(100, seq=20), 0)
        with pytest.raises(OutOfSequence):
            rows.insert(db, 43, twin(101, seq=4), 0)

    plan = statements(db, work)
    assert len(plan) >= 16
    assert [step for step in plan if step.startswith("SCAN event") or "TEMP B-TREE" in step] == []
    assert "SEARCH event USING INDEX event_by_directory (directory=? AND rowid>? AND rowid<?)" in plan
    assert "SEARCH event USING INDEX event_gap (type=? AND rowid>? AND rowid<?)" in plan
    assert "MERGE (UNION ALL)" in plan
    assert "SEARCH event USING INDEX event_by_aggregate (aggregate=? AND seq>?)" in plan


def test_of_an_instance_no_more_is_read_than_its_page_has(db: sqlite3.Connection) -> None:
    """However many come behind it, of its own events or of gaps."""
    insert(db, *(one for number in range(3000) for one in (event(number), events.gap(None, number, 0))))

    def cost(query: Query) -> int:
        steps = 0

        def step() -> int:
            nonlocal steps
            steps += 1
            return 0

        db.set_progress_handler(step, 1)
        assert len(read(db, 6000, query).events) == query.max_events
        db.set_progress_handler(None, 0)
        return steps

    instance = Query("/srv/a", None, 20, 10**6)
    assert cost(instance) < 3 * cost(instance._replace(directory=None))


# --- texts


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS | st.none(), TEXTS | st.none()), unique_by=lambda one: one[0]))
def test_any_text_is_had_back(texts: list[tuple[str, str, str | None, str | None]]) -> None:
    db = empty()
    events = [
        event(number)._replace(id=id_, type=kind, directory=directory, session=session)
        for number, (id_, kind, directory, session) in enumerate(texts)
    ]
    insert(db, *events)

    assert [one.event for one in read(db, len(events)).events] == events
    for directory in {one.directory for one in events} - {None}:
        page = read(db, len(events), EVERYTHING._replace(directory=directory))
        assert [one.event for one in page.events] == [one for one in events if one.directory == directory]
    db.close()


@given(st.lists(st.tuples(TEXTS, st.integers(1, 3)), unique_by=lambda one: one[0], max_size=6))
def test_any_text_may_name_an_aggregate(aggregates: list[tuple[str, int]]) -> None:
    db = empty()
    names = [(name, seq) for name, count in aggregates for seq in range(count)]
    insert(db, *(twin(n, session=name, seq=seq)._replace(aggregate=name) for n, (name, seq) in enumerate(names)))
    found, place = read_history(db, {}, Place())

    assert place is None
    assert [(row.aggregate_id, row.seq) for row in found] == names
    found, _ = read_history(db, {name: 0 for name, _ in aggregates}, Place())
    assert [(row.aggregate_id, row.seq) for row in found] == [(name, seq) for name, seq in names if seq > 0]
    db.close()


@pytest.mark.parametrize(
    "data",
    [
        b'{"t":"\\ud800"}',
        b'"\\udfff\\ud800"',
        b'{"\\ud83d":[1.0,null]}',
        b"null",
        b"[]",
        b'"\\u0000"',
        b'{"syncEvent":{}}',
    ],
)
def test_data_is_had_as_it_was_published(db: sqlite3.Connection, data: bytes) -> None:
    """Also where a decoder would refuse it: half a surrogate pair is JSON, and nobody's business here."""
    inner = b'{"seq":3,"type":"a.b.2","data":%b,"aggregateID":"agg"}' % data
    insert(db, make(b'{"payload":{"syncEvent":{},"type":"sync","id":"evt_1","syncEvent":%b},"x":"\\ud800"}' % inner))

    assert read_history(db, {}, Place()) == ([("evt_1", "agg", 3, "a.b.2", data, None)], None)


# --- sequences


def test_a_long_name_is_cut_off_in_a_refusal(db: sqlite3.Connection) -> None:
    insert(db, twin(1, session="a" * 100, seq=1)._replace(id="i" * 100))

    with pytest.raises(OutOfSequence, match=f"^{'a' * 64} has come to 1: 2 is next, not 5$"):
        rows.insert(db, 2, twin(2, session="a" * 100, seq=5), 0)
    with pytest.raises(OutOfSequence, match=f"^{'a' * 64} has 1 already, under the id {'i' * 64}$"):
        rows.insert(db, 2, twin(2, session="a" * 100, seq=1), 0)


# --- history


@pytest.mark.parametrize("count", [HISTORY_ROWS - 1, HISTORY_ROWS, HISTORY_ROWS + 1])
def test_a_page_of_history_is_of_so_many_rows(db: sqlite3.Connection, count: int) -> None:
    insert(db, *(twin(number, seq=number) for number in range(count)))
    page, place = read_history(db, {}, Place())

    assert len(page) == min(count, HISTORY_ROWS)
    assert place == (None if count <= HISTORY_ROWS else Place(1, HISTORY_ROWS - 1))


def test_a_page_of_history_may_end_with_an_aggregate(db: sqlite3.Connection) -> None:
    a = [twin(number, session="a", seq=number) for number in range(HISTORY_ROWS)]
    b = [twin(1000 + number, session="b", seq=number) for number in range(3)]
    insert(db, *a, *b)
    page, place = read_history(db, {}, Place())
    assert [row.aggregate_id for row in page] == ["a"] * HISTORY_ROWS
    assert place == Place(2, -1)
    page, place = read_history(db, {}, place)

    assert [(row.aggregate_id, row.seq) for row in page] == [("b", 0), ("b", 1), ("b", 2)]
    assert place is None


@pytest.mark.parametrize("less", [1, 0], ids=["almost full", "full"])
def test_a_page_of_history_ends_at_so_many_bytes(db: sqlite3.Connection, less: int) -> None:
    sizes = [HISTORY_BYTES - less, 2, 2]
    text = b'{"payload":{"type":"sync","id":"evt_%d","syncEvent":{"type":"a","seq":%d,"aggregateID":"a","data":"%b"}}}'
    insert(db, *(make(text % (seq, seq, b"x" * (size - 2))) for seq, size in enumerate(sizes)))
    page, place = read_history(db, {}, Place())

    assert [row.seq for row in page] == ([0, 1] if less else [0])
    assert place == Place(1, page[-1].seq)


# --- damage

CHANGES = [
    "envelope = NULL", "envelope = 'text'", "envelope = x'7b00007d'", "envelope = x'7b0a7d'", "envelope = x''",
    "envelope = zeroblob(500)", "payload_start = NULL", "payload_end = NULL", "payload_end = 'text'",
    "payload_end = 10000", "payload_start = payload_start + 1", "payload_end = payload_end - 4",
]  # fmt: skip


def loosened(db: sqlite3.Connection, *events: Event) -> None:
    """Insert events, and let columns hold anything, as damage does."""
    insert(db, *events)
    db.execute("ALTER TABLE event RENAME TO strict")
    db.execute("CREATE TABLE event AS SELECT * FROM strict")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("matches", [None, lambda one: True], ids=["all", "some"])
def test_a_damaged_row_is_not_handed_out(
    db: sqlite3.Connection, change: str, matches: Callable[[Event], bool] | None
) -> None:
    loosened(db, event(1), event(2), event(3))
    db.execute(f"UPDATE event SET {change} WHERE position = 2")
    query = EVERYTHING._replace(matches=matches)

    with pytest.raises(sqlite3.DatabaseError, match="a row is damaged: "):
        read(db, 3, query)
    assert [one.position for one in read_page(db, 2, 3, query, EPOCHS).events] == [3]


def test_a_filter_that_meets_damage_ends_the_page(db: sqlite3.Connection) -> None:
    loosened(db, event(1))
    db.execute("UPDATE event SET type = NULL")

    with pytest.raises(sqlite3.DatabaseError, match="a row is damaged: "):
        read(db, 1, EVERYTHING._replace(matches=lambda one: len(one.type) > 3))


@pytest.mark.parametrize(
    "change",
    [
        *CHANGES,
        "envelope = replace(envelope, '\"data\":{}', '\"data\":{]')",
        "envelope = replace(envelope, 'type', 'typo')",
    ],
)
def test_a_damaged_row_is_not_in_a_history(db: sqlite3.Connection, change: str) -> None:
    loosened(db, twin(1, seq=0), twin(2, seq=1))
    db.execute(f"UPDATE event SET {change} WHERE position = 2")

    with pytest.raises(sqlite3.DatabaseError, match="a row is damaged: "):
        read_history(db, {}, Place())


def test_a_damaged_sequence_takes_nothing(db: sqlite3.Connection) -> None:
    db.execute("DROP TABLE aggregate")
    db.execute("CREATE TABLE aggregate (number, id, first, last, directory)")
    db.execute("INSERT INTO aggregate VALUES (1, 'ses_1', 0, NULL, NULL)")

    with pytest.raises(sqlite3.DatabaseError, match="the row of ses_1 is damaged"):
        rows.insert(db, 1, twin(1, seq=1), 0)
