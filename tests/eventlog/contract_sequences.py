"""What every event log must do with sync events: each aggregate's sequence is kept, and can be asked for."""

import itertools
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.errors import OutOfSequence
from opencode_events.eventlog.base import Appended, EventLog, Outcome, SyncRow
from opencode_events.events import Event
from tests.eventlog.steps import MANY_EXAMPLES, history, positions, put
from tests.samples import event, make, twin

NUMBERS = itertools.count(1)
STEPS = st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 1))


def rows(*twins: Event) -> list[tuple[str, str, int | None]]:
    return [(one.id, one.aggregate or "", one.seq) for one in twins]


def told(row: SyncRow) -> tuple[str, str, int]:
    return row.id, row.aggregate_id, row.seq


def refused(outcome: Outcome) -> OutOfSequence:
    assert isinstance(outcome, OutOfSequence)
    return outcome


class Model:
    """Sequences, as slow and plain as can be."""

    def __init__(self) -> None:
        self.held: dict[str, dict[int, str]] = {}  # aggregate -> seq -> id

    def append(self, batch: Sequence[Event]) -> list[Event] | int:
        """Return those that are new, or the index of the one that breaks a sequence."""
        before = {name: dict(seqs) for name, seqs in self.held.items()}
        new = []
        for index, one in enumerate(batch):
            assert one.aggregate is not None
            assert one.seq is not None
            if any(one.id in seqs.values() for seqs in self.held.values()):
                continue
            seqs = self.held.setdefault(one.aggregate, {})
            if seqs and one.seq != max(seqs) + 1:
                self.held = before
                return index
            seqs[one.seq] = one.id
            new.append(one)
        return new


class SequencesContract:
    """A part of `EventLogContract`."""

    # --- sequences

    @pytest.mark.parametrize("baseline", [0, 1, 41, 2**53 - 2])
    async def test_the_first_number_seen_is_the_baseline_and_the_next_one_is_next(
        self, log: EventLog, baseline: int
    ) -> None:
        first, second = twin(1, seq=baseline), twin(2, seq=baseline + 1)

        assert await put(log, [first]) == [Appended(1, [first], 0, log.epoch)]
        assert await put(log, [second]) == [Appended(2, [second], 0, log.epoch)]

    async def test_each_aggregate_has_a_sequence_of_its_own(self, log: EventLog) -> None:
        batch = [twin(1, session="a", seq=5), twin(2, session="b", seq=0), twin(3, session="a", seq=6)]

        assert await put(log, batch) == [Appended(1, batch, 0, log.epoch)]

    async def test_a_number_held_already_under_the_same_id_is_a_duplicate(self, log: EventLog) -> None:
        await put(log, [twin(1, seq=5), twin(2, seq=6), twin(3, seq=7)])

        assert await put(log, [twin(2, seq=6)]) == [Appended(0, [], 1, log.epoch)]
        assert await put(log, [twin(1, seq=5), twin(4, seq=8)]) == [Appended(4, [twin(4, seq=8)], 1, log.epoch)]

    @pytest.mark.parametrize(
        ("seq", "sentence"),
        [
            (6, "ses_1 has 6 already, under the id evt_2"),
            (9, "ses_1 has come to 7: 8 is next, not 9"),
            (4, "ses_1 was first seen at 5: 4 is before that"),
        ],
        ids=["held under another id", "behind a gap", "before the baseline"],
    )
    async def test_another_number_is_refused(self, log: EventLog, seq: int, sentence: str) -> None:
        await put(log, [twin(1, seq=5), twin(2, seq=6), twin(3, seq=7)])
        (outcome,) = await put(log, [twin(9, seq=seq)])

        error = refused(outcome)
        assert str(error) == sentence
        assert error.status == 409
        assert error.members() == {"field": "payload.syncEvent.seq", "index": 0}
        assert log.head == 3
        assert await put(log, [twin(4, seq=8)]) == [Appended(4, [twin(4, seq=8)], 0, log.epoch)]

    @pytest.mark.parametrize("how", ["at once", "on a thread"])
    async def test_of_a_batch_that_breaks_a_sequence_nothing_is_left_and_the_others_live(
        self, log: EventLog, how: str
    ) -> None:
        await put(log, [twin(1, session="a", seq=5)])
        good = [event(10), twin(11, session="a", seq=6)]
        bad = [event(20), twin(21, session="a", seq=7), twin(22, session="new", seq=3), event(23), twin(24, seq=9)]
        broken = [*bad, event(25), twin(26, session="new", seq=5)]
        last = [twin(30, session="a", seq=7), twin(31, session="new", seq=8), event(20)]
        batches = [good, broken, last]
        outcomes = await put(log, *batches) if how == "at once" else await log.append(batches)

        assert outcomes[0] == Appended(2, good, 0, log.epoch)
        assert refused(outcomes[1]).index == 6
        assert outcomes[2] == Appended(4, last, 0, log.epoch)
        assert log.head == 6
        assert await positions(log) == [1, 2, 3, 4, 5, 6]
        assert [told(row) for row in await history(log)] == rows(twin(1, session="a", seq=5), good[1], last[0], last[1])

    async def test_a_batch_that_is_refused_may_be_the_only_one(self, log: EventLog) -> None:
        (outcome,) = await put(log, [event(1), twin(2, seq=1), twin(3, seq=3)])

        assert refused(outcome).index == 2
        assert log.head == 0
        assert await history(log) == []
        assert await put(log, [twin(3, seq=3)]) == [Appended(1, [twin(3, seq=3)], 0, log.epoch)]

    async def test_the_index_counts_duplicates_too(self, log: EventLog) -> None:
        await put(log, [twin(1, seq=5), event(1)])
        (outcome,) = await put(log, [twin(1, seq=5), event(1), twin(2, seq=7)])

        assert refused(outcome).index == 2

    async def test_plain_events_have_no_sequence(self, log: EventLog) -> None:
        batch = [event(1, session="a"), event(2, session="a"), twin(3, session="a", seq=7)]

        assert await put(log, batch) == [Appended(1, batch, 0, log.epoch)]

    @MANY_EXAMPLES
    @given(commits=st.lists(st.lists(st.lists(STEPS, min_size=1, max_size=4), max_size=3), max_size=8))
    async def test_sequences_are_kept_whatever_comes(
        self, log: EventLog, commits: list[list[list[tuple[int, int, int]]]]
    ) -> None:
        """A step is an aggregate, a number, and which of two ids it comes under."""
        run, model, base = next(NUMBERS), Model(), log.head
        kept: list[Event] = []
        for commit in commits:
            batches = [[twin_of(run, *step) for step in batch] for batch in commit]
            for outcome, batch in zip(await put(log, *batches), batches, strict=True):
                expected = model.append(batch)
                if isinstance(expected, int):
                    assert refused(outcome).index == expected
                else:
                    first = base + len(kept) + 1 if expected else 0
                    assert outcome == Appended(first, expected, len(batch) - len(expected), log.epoch)
                    kept += expected

        found = [told(row) for row in await history(log) if row.aggregate_id.startswith(f"{run}:")]
        assert found == [(id_, name, seq) for name, seqs in model.held.items() for seq, id_ in sorted(seqs.items())]

    # --- history

    async def test_the_history_of_an_empty_log_has_no_pages(self, log: EventLog) -> None:
        await put(log, [event(1)])

        assert [page async for page in log.history({"a": 3})] == []

    async def test_a_history_is_in_order_of_aggregates_as_first_seen_and_of_numbers(self, log: EventLog) -> None:
        b = [twin(number, session="b", seq=number) for number in range(3)]
        a = [twin(number, session="a", seq=number) for number in range(7, 9)]
        await put(log, [b[0], event(50), a[0]])
        await put(log, [b[1]], [a[1], b[2]])

        assert [told(row) for row in await history(log)] == rows(*b, *a)

    async def test_a_row_is_what_was_published(self, log: EventLog) -> None:
        data = b'{"n":1.50,"t":"\\ud800 \\u0000 \xc3\xa4","none":null}'
        inner = b'"syncEvent":{"data":%b,"seq":4,"aggregateID":"a\\u0000b","type":"session.updated.12","x":1}' % data
        await put(log, [make(b'{"directory":"/d","payload":{"type":"sync","id":"evt_1",%b}}' % inner)])

        assert await history(log) == [SyncRow("evt_1", "a\0b", 4, "session.updated.12", data, "/d")]

    async def test_what_is_known_is_left_out(self, log: EventLog) -> None:
        a = [twin(number, session="a", seq=number) for number in range(5)]
        b = [twin(100 + number, session="b", seq=number) for number in range(10, 13)]
        await put(log, a, b)

        for known, expected in (
            ({"a": 2}, [*a[3:], *b]),
            ({"a": 0, "b": 10}, [*a[1:], *b[1:]]),
            ({"a": 4}, b),
            ({"b": 2**53 - 1}, a),
            ({"b": 0, "c": 7}, [*a, *b]),
            ({"a": 4, "b": 12}, []),
        ):
            assert [told(row) for row in await history(log, known)] == rows(*expected)

    async def test_a_long_history_comes_in_pages(self, log: EventLog) -> None:
        counts = {"a": 300, "b": 1, "c": 250, "d": 199, "e": 201}
        made = [
            twin(number, session=name, seq=seq)
            for number, (seq, name) in enumerate(
                (seq, name) for seq in range(300) for name, count in counts.items() if seq < count
            )
        ]
        await put(log, made)
        ordered = sorted(made, key=lambda one: (one.aggregate, one.seq))
        pages = [page async for page in log.history({})]

        assert [told(row) for page in pages for row in page] == rows(*ordered)
        assert min(len(page) for page in pages) > 0
        assert max(len(page) for page in pages) < len(made) / 2
        behind = await history(log, {"a": 99, "c": 248})
        assert [told(row) for row in behind] == rows(
            *(one for one in ordered if (one.seq or 0) > {"a": 99, "c": 248}.get(one.aggregate or "", -1))
        )

    async def test_large_rows_come_a_few_at_a_time(self, log: EventLog) -> None:
        for seq in range(12):
            inner = {"type": "a.1", "seq": seq, "aggregateID": "a", "data": {"pad": "x" * 100_000}}
            payload = {"type": "sync", "id": f"evt_{seq}", "syncEvent": inner}
            await put(log, [make(msgspec.json.encode({"payload": payload}))])
        pages = [page async for page in log.history({})]

        assert [row.seq for page in pages for row in page] == list(range(12))
        assert max(len(page) for page in pages) <= 6

    async def test_a_history_is_not_disturbed_by_what_comes_meanwhile(self, log: EventLog) -> None:
        await put(log, [twin(number, session="a", seq=number) for number in range(500)])
        found: list[SyncRow] = []
        seq = 500
        async for page in log.history({}):
            found += page
            if len(found) < 1000:
                await put(log, [twin(seq, session="a", seq=seq), twin(9000 + seq, session=f"b{seq}", seq=0)])
                seq += 1

        of_a = [row.seq for row in found if row.aggregate_id == "a"]
        assert of_a == list(range(len(of_a)))
        assert len(of_a) >= 500


def twin_of(run: int, aggregate: int, seq: int, which: int) -> Event:
    """Return a twin of one run. The same number under the same id is the same one."""
    name = f"{run}:{aggregate}"
    return twin(1, session=name, seq=seq)._replace(id=f"{name}-{seq}-{which}")
