"""What every event log must do: `tests/eventlog/test_*.py` run this against each."""

import pytest

from opencode_events.cursor import Cursor
from opencode_events.eventlog.base import Appended, EventLog
from tests.samples import event, twin


class EventLogContract:
    """Subclass it as `Test...` and override `log` with a fixture of an empty log."""

    @pytest.fixture
    def log(self) -> EventLog:
        raise NotImplementedError

    # --- places

    def test_it_begins_before_the_first_position(self, log: EventLog) -> None:
        assert log.head == 0
        assert log.append_nowait([[event(1)]]) == [Appended(1, [event(1)], 0)]
        assert log.head == 1

    def test_positions_have_no_gaps_and_each_batch_hears_of_its_own(self, log: EventLog) -> None:
        assert log.append_nowait([[event(1), event(2)], [event(3)]]) == [
            Appended(1, [event(1), event(2)], 0),
            Appended(3, [event(3)], 0),
        ]
        assert log.append_nowait([[event(4)]]) == [Appended(4, [event(4)], 0)]
        assert log.head == 4

    async def test_what_takes_longer_is_appended_just_the_same(self, log: EventLog) -> None:
        log.append_nowait([[event(1)]])
        assert await log.append([[event(2), event(1)], [event(3)]]) == [
            Appended(2, [event(2)], 1),
            Appended(3, [event(3)], 0),
        ]
        assert log.append_nowait([[event(4)]]) == [Appended(4, [event(4)], 0)]

    def test_nothing_has_no_place(self, log: EventLog) -> None:
        assert log.append_nowait([]) == []
        assert log.append_nowait([[], [event(1)], []]) == [
            Appended(0, [], 0),
            Appended(1, [event(1)], 0),
            Appended(0, [], 0),
        ]

    async def test_a_flood_is_taken_one_way_or_the_other(self, log: EventLog) -> None:
        events = [event(number) for number in range(12_000)]
        found = log.append_nowait([events]) or await log.append([events])

        assert found == [Appended(1, events, 0)]
        assert log.head == 12_000

    # --- duplicates

    def test_an_event_has_one_place_within_a_batch(self, log: EventLog) -> None:
        assert log.append_nowait([[event(1), event(2), event(1), event(3)]]) == [
            Appended(1, [event(1), event(2), event(3)], 1)
        ]

    def test_an_event_has_one_place_across_the_batches_of_a_commit(self, log: EventLog) -> None:
        assert log.append_nowait([[event(1)], [event(1), event(2)], [event(2)]]) == [
            Appended(1, [event(1)], 0),
            Appended(2, [event(2)], 1),
            Appended(0, [], 1),
        ]
        assert log.head == 2

    def test_an_event_has_one_place_across_commits_alone_and_among_others(self, log: EventLog) -> None:
        log.append_nowait([[event(1)]])
        assert log.append_nowait([[event(1)]]) == [Appended(0, [], 1)]
        assert log.append_nowait([[event(2), event(1)]]) == [Appended(2, [event(2)], 1)]
        assert log.head == 2

    def test_the_id_tells_and_not_what_the_event_says(self, log: EventLog) -> None:
        log.append_nowait([[event(1, "session.idle")]])

        assert log.append_nowait([[event(1, "session.error", directory=None)]]) == [Appended(0, [], 1)]

    def test_an_event_and_its_twin_both_have_their_place(self, log: EventLog) -> None:
        assert log.append_nowait([[event(1), twin(1), event(1), twin(1)]]) == [Appended(1, [event(1), twin(1)], 2)]
        assert log.append_nowait([[twin(1)]]) == [Appended(0, [], 1)]

    # --- cursors

    def test_a_cursor_is_known_from_before_the_first_event_to_the_head(self, log: EventLog) -> None:
        assert log.is_known(Cursor(log.epoch, 0))
        assert not log.is_known(Cursor(log.epoch, 1))
        log.append_nowait([[event(1), event(2)]])

        assert [log.is_known(Cursor(log.epoch, position)) for position in range(4)] == [True, True, True, False]
        assert not log.is_known(Cursor(log.epoch, 10**18))
        assert not log.is_known(Cursor("z" * 10, 1))
        assert not log.is_known(Cursor("", 0))

    # --- the end

    def test_it_may_be_closed_twice(self, log: EventLog) -> None:
        log.append_nowait([[event(1)]])
        log.close()
        log.close()

    def test_what_can_be_counted_is_plain(self, log: EventLog) -> None:
        log.append_nowait([[event(1)]])
        found = log.statistics()

        assert found["head"] == 1
        assert found["epoch"] == log.epoch
        assert all(isinstance(value, str | int | float) for value in found.values())
