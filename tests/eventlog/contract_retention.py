"""What every event log must do about its size: keep what the limits say, and forget nothing but events."""

import pytest

from opencode_events.cursor import Cursor
from opencode_events.errors import OutOfSequence
from opencode_events.eventlog.base import Appended, EventLog
from tests.eventlog.steps import EVERYTHING, Clock, OpenLog, history, positions, put, settle
from tests.samples import event, twin

MIB = 1024 * 1024


class RetentionContract:
    """A part of `EventLogContract`."""

    async def test_there_is_nothing_to_do_within_the_limits(self, log: EventLog) -> None:
        assert await log.maintain() is False
        await put(log, [event(number) for number in range(1000)])

        assert await log.maintain() is False
        assert log.oldest == 1

    @pytest.mark.parametrize(
        ("count", "oldest"), [(9, 1), (10, 1), (11, 2), (2000, 1991)], ids=["fewer", "as many", "one more", "many more"]
    )
    async def test_so_many_events_are_kept(self, open_log: OpenLog, count: int, oldest: int) -> None:
        log = open_log(log_max_events=10)
        await put(log, [event(number) for number in range(count)])
        await settle(log)

        assert log.oldest == oldest
        assert log.head == count
        assert await positions(log, oldest - 1) == list(range(oldest, count + 1))
        assert log.statistics()["events"] == min(count, 10)

    @pytest.mark.parametrize(("age_s", "oldest"), [(60.0, 1), (60.001, 3)], ids=["as old as may", "a bit older"])
    async def test_events_are_kept_for_so_long(
        self, open_log: OpenLog, clock: Clock, age_s: float, oldest: int
    ) -> None:
        log, began = open_log(log_max_age_s=60.0), clock.now
        await put(log, [event(1), event(2)])
        clock.now += 30.0
        await put(log, [event(3)])
        clock.now = began + age_s
        await settle(log)

        assert log.oldest == oldest
        assert log.head == 3

    async def test_a_clock_that_is_set_back_loses_nothing(self, open_log: OpenLog, clock: Clock) -> None:
        log = open_log(log_max_age_s=60.0)
        await put(log, [event(1)])
        clock.now -= 86_400.0
        await put(log, [event(2)])
        await settle(log)

        assert log.oldest == 1

    async def test_so_many_bytes_are_kept(self, open_log: OpenLog) -> None:
        log = open_log(log_max_bytes=MIB)
        await put(log, [event(number, pad=10_000) for number in range(50)])
        assert await log.maintain() is False
        for start in range(100, 400, 50):
            await put(log, [event(number, pad=10_000) for number in range(start, start + 50)])
        await settle(log)

        kept = log.head - log.oldest + 1
        assert log.head == 350
        assert 0.5 * MIB < kept * 10_000 <= MIB
        assert await positions(log, log.oldest - 1) == list(range(log.oldest, 351))

    async def test_the_one_limit_that_is_passed_decides(self, open_log: OpenLog, clock: Clock) -> None:
        log = open_log(log_max_events=10, log_max_age_s=60.0)
        await put(log, [event(number) for number in range(12)])
        await settle(log)
        assert log.oldest == 3
        clock.now += 61.0
        await put(log, [event(100)])
        await settle(log)

        assert log.oldest == 13

    async def test_a_page_tells_what_is_the_oldest(self, open_log: OpenLog) -> None:
        log = open_log(log_max_events=2)
        await put(log, [event(number, directory="/srv/b") for number in range(4)])
        await settle(log)

        page = await log.read(0, 4, EVERYTHING)
        assert ([one.position for one in page.events], page.last, page.oldest) == ([3, 4], 4, 3)
        page = await log.read(0, 4, EVERYTHING._replace(directory="/srv/a"))
        assert (page.events, page.last, page.oldest) == ([], 4, 3)

    async def test_what_is_trimmed_may_be_published_anew(self, open_log: OpenLog) -> None:
        log = open_log(log_max_events=1)
        await put(log, [event(1), event(2)])
        await settle(log)

        assert await put(log, [event(1), event(2)]) == [Appended(3, [event(1)], 1, log.epoch)]

    async def test_places_go_on_where_they_were_when_all_is_trimmed(self, open_log: OpenLog, clock: Clock) -> None:
        log = open_log(log_max_age_s=60.0)
        await put(log, [event(1), event(2), event(3)])
        clock.now += 61.0
        await settle(log)

        assert (log.head, log.oldest, log.statistics()["events"]) == (3, 4, 0)
        assert [log.is_known(Cursor(log.epoch, position)) for position in range(5)] == [True] * 4 + [False]
        page = await log.read(0, 3, EVERYTHING)
        assert (page.events, page.last, page.oldest) == ([], 3, 4)
        assert await put(log, [event(4)]) == [Appended(4, [event(4)], 0, log.epoch)]
        assert log.oldest == 4
        assert await positions(log, 3) == [4]

    async def test_a_sequence_outlives_its_events(self, open_log: OpenLog) -> None:
        log = open_log(log_max_events=1)
        await put(log, [twin(number, seq=number) for number in range(5, 8)], [event(100)])
        await settle(log)
        assert await history(log) == []

        assert await put(log, [twin(6, seq=6)], [twin(7, seq=7)]) == [Appended(0, [], 1, log.epoch)] * 2
        refused = await put(log, [twin(4, seq=4)], [twin(9, seq=9)])
        assert [str(one) for one in refused if isinstance(one, OutOfSequence)] == [
            "ses_1 was first seen at 5: 4 is before that",
            "ses_1 has come to 7: 8 is next, not 9",
        ]
        assert await put(log, [twin(8, seq=8)]) == [Appended(5, [twin(8, seq=8)], 0, log.epoch)]
        assert [row.seq for row in await history(log)] == [8]
        assert await history(log, {"ses_1": 8}) == []

    async def test_a_history_is_what_is_left_of_it(self, open_log: OpenLog) -> None:
        log = open_log(log_max_events=3)
        made = [twin(number, session="ab"[number % 2], seq=number // 2) for number in range(8)]
        await put(log, made)
        await settle(log)

        assert [(row.aggregate_id, row.seq) for row in await history(log)] == [("a", 3), ("b", 2), ("b", 3)]
