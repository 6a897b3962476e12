"""What every event log must do: `tests/eventlog/test_*.py` run this against each."""

import pytest

from opencode_events.cursor import Cursor
from opencode_events.eventlog.base import Appended, EventLog
from tests.eventlog.contract_gaps import GapsContract
from tests.eventlog.contract_learning import LearningContract
from tests.eventlog.contract_reading import ReadingContract
from tests.eventlog.contract_retention import RetentionContract
from tests.eventlog.contract_sequences import SequencesContract
from tests.eventlog.steps import Clock, OpenLog, put
from tests.samples import event, twin


class EventLogContract(ReadingContract, GapsContract, SequencesContract, LearningContract, RetentionContract):
    """Subclass it as `Test...` and override `open_log`. What outlives being closed has a `LastingContract` too.

    A log may decline every `append_nowait`: nothing here relies on one way or the other.
    """

    @pytest.fixture
    def open_log(self, clock: Clock) -> OpenLog:
        """Return what opens an empty log, with settings, that goes by `clock`."""
        raise NotImplementedError

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def log(self, open_log: OpenLog) -> EventLog:
        return open_log()

    # --- places

    async def test_it_begins_before_the_first_position(self, log: EventLog) -> None:
        assert log.head == 0
        assert log.oldest == 1
        assert await put(log, [event(1)]) == [Appended(1, [event(1)], 0, log.epoch)]
        assert log.head == 1
        assert log.oldest == 1

    async def test_positions_have_no_gaps_and_each_batch_hears_of_its_own(self, log: EventLog) -> None:
        assert await put(log, [event(1), event(2)], [event(3)]) == [
            Appended(1, [event(1), event(2)], 0, log.epoch),
            Appended(3, [event(3)], 0, log.epoch),
        ]
        assert await put(log, [event(4)]) == [Appended(4, [event(4)], 0, log.epoch)]
        assert log.head == 4

    async def test_what_takes_longer_is_appended_just_the_same(self, log: EventLog) -> None:
        await put(log, [event(1)])
        assert await log.append([[event(2), event(1)], [event(3)]]) == [
            Appended(2, [event(2)], 1, log.epoch),
            Appended(3, [event(3)], 0, log.epoch),
        ]
        assert await put(log, [event(4)]) == [Appended(4, [event(4)], 0, log.epoch)]

    async def test_nothing_has_no_place(self, log: EventLog) -> None:
        assert await put(log) == []
        assert await put(log, [], [event(1)], []) == [
            Appended(0, [], 0, log.epoch),
            Appended(1, [event(1)], 0, log.epoch),
            Appended(0, [], 0, log.epoch),
        ]

    async def test_a_flood_is_taken_one_way_or_the_other(self, log: EventLog) -> None:
        events = [event(number) for number in range(12_000)]
        found = await put(log, events)

        assert found == [Appended(1, events, 0, log.epoch)]
        assert log.head == 12_000

    # --- duplicates

    async def test_an_event_has_one_place_within_a_batch(self, log: EventLog) -> None:
        assert await put(log, [event(1), event(2), event(1), event(3)]) == [
            Appended(1, [event(1), event(2), event(3)], 1, log.epoch)
        ]

    async def test_an_event_has_one_place_across_the_batches_of_a_commit(self, log: EventLog) -> None:
        assert await put(log, [event(1)], [event(1), event(2)], [event(2)]) == [
            Appended(1, [event(1)], 0, log.epoch),
            Appended(2, [event(2)], 1, log.epoch),
            Appended(0, [], 1, log.epoch),
        ]
        assert log.head == 2

    async def test_an_event_has_one_place_across_commits_alone_and_among_others(self, log: EventLog) -> None:
        await put(log, [event(1)])
        assert await put(log, [event(1)]) == [Appended(0, [], 1, log.epoch)]
        assert await put(log, [event(2), event(1)]) == [Appended(2, [event(2)], 1, log.epoch)]
        assert log.head == 2

    async def test_the_id_tells_and_not_what_the_event_says(self, log: EventLog) -> None:
        await put(log, [event(1, "session.idle")])

        assert await put(log, [event(1, "session.error", directory=None)]) == [Appended(0, [], 1, log.epoch)]

    async def test_an_event_and_its_twin_both_have_their_place(self, log: EventLog) -> None:
        assert await put(log, [event(1), twin(1), event(1), twin(1)]) == [
            Appended(1, [event(1), twin(1)], 2, log.epoch)
        ]
        assert await put(log, [twin(1)]) == [Appended(0, [], 1, log.epoch)]

    async def test_a_text_with_a_nul_is_told_from_one_without(self, log: EventLog) -> None:
        one, another = event(1)._replace(id="a\0b"), event(2)._replace(id="a")

        assert await put(log, [one, another, one]) == [Appended(1, [one, another], 1, log.epoch)]

    # --- time

    def test_a_new_log_has_no_newest_event(self, log: EventLog) -> None:
        assert log.newest_ms is None

    # --- cursors

    async def test_a_cursor_is_known_from_before_the_first_event_to_the_head(self, log: EventLog) -> None:
        assert log.is_known(Cursor(log.epoch, 0))
        assert not log.is_known(Cursor(log.epoch, 1))
        await put(log, [event(1), event(2)])

        assert [log.is_known(Cursor(log.epoch, position)) for position in range(4)] == [True, True, True, False]
        assert not log.is_known(Cursor(log.epoch, 10**18))
        assert not log.is_known(Cursor("z" * 10, 1))
        assert not log.is_known(Cursor("", 0))

    async def test_each_place_has_its_cursor(self, log: EventLog) -> None:
        assert log.cursor(0) == Cursor(log.epoch, 0)
        await put(log, [event(1), event(2)])

        assert [log.cursor(position) for position in range(3)] == [Cursor(log.epoch, position) for position in range(3)]

    # --- the end

    async def test_it_may_be_closed_twice(self, log: EventLog) -> None:
        await put(log, [event(1)])
        log.close()
        log.close()

    async def test_what_can_be_counted_is_plain(self, log: EventLog) -> None:
        await put(log, [event(1), event(2)])
        found = log.statistics()

        assert found["head"] == 2
        assert found["oldest"] == 1
        assert found["events"] == 2
        assert found["epoch"] == log.epoch
        assert all(isinstance(value, str | int | float) for value in found.values())
