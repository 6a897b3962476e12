"""What an event log must do when it is opened again: a part of the contract of those that outlive the process."""

from opencode_events.cursor import Cursor
from opencode_events.errors import OutOfSequence
from opencode_events.eventlog.base import Aggregate, Appended
from tests.eventlog.steps import EVERYTHING, Clock, OpenLog, history, positions, put, read_all, settle
from tests.samples import event, twin


class LastingContract:
    """Subclass it beside `EventLogContract`. Here `open_log` opens the same log again."""

    async def test_the_next_start_goes_on_where_the_last_one_ended(self, open_log: OpenLog) -> None:
        first = open_log()
        await put(first, [event(1), event(2)])
        first.close()
        second = open_log()

        assert (second.head, second.oldest) == (2, 1)
        assert second.epoch != first.epoch
        assert await put(second, [event(1), event(2), event(3)]) == [Appended(3, [event(3)], 2, second.epoch)]

    async def test_an_earlier_start_s_cursors_are_good_within_its_bounds(self, open_log: OpenLog) -> None:
        logs = []
        for numbers in ([1, 2], [], [3]):
            logs.append(open_log())
            await put(logs[-1], [event(number) for number in numbers])
            logs[-1].close()
        last = open_log()
        known = [
            [position for position in range(6) if last.is_known(Cursor(log.epoch, position))] for log in (*logs, last)
        ]

        assert known == [[0, 1, 2], [2], [2, 3], [3]]
        await put(last, [event(4)])
        assert last.is_known(Cursor(last.epoch, 4))
        assert not last.is_known(Cursor(logs[2].epoch, 4))

    async def test_an_event_is_read_under_the_cursor_that_it_was_given_first(self, open_log: OpenLog) -> None:
        given = []
        for numbers in ([1, 2], [], [3], [4, 5]):
            log = open_log()
            await put(log, [event(number) for number in numbers])
            given += [str(Cursor(log.epoch, number)).encode() for number in numbers]
            log.close()
        log = open_log()
        await put(log, [event(6)])
        given.append(str(Cursor(log.epoch, 6)).encode())

        for query in (EVERYTHING, EVERYTHING._replace(max_events=2), EVERYTHING._replace(directory="/srv/a")):
            assert [one.cursor for page in await read_all(log, 0, query) for one in page.events] == given
        for after in range(6):
            page = await log.read(after, 6, EVERYTHING._replace(matches=lambda one: True))
            assert [one.cursor for one in page.events] == given[after:]

    async def test_every_place_has_a_cursor_that_is_known(self, open_log: OpenLog) -> None:
        for numbers in ([], [1, 2], [], [3]):
            log = open_log()
            await put(log, [event(number) for number in numbers])
            log.close()
        log = open_log()
        found = [log.cursor(position) for position in range(4)]

        assert [cursor.position for cursor in found] == [0, 1, 2, 3]
        assert all(log.is_known(cursor) for cursor in found)
        assert found[3].epoch == log.epoch

    async def test_sequences_go_on(self, open_log: OpenLog) -> None:
        first = open_log()
        await put(first, [twin(1, session="b", seq=3), twin(2, session="a", seq=0), twin(3, session="b", seq=4)])
        first.close()
        log = open_log()
        (duplicate, gap, following) = await put(
            log, [twin(1, session="b", seq=3)], [twin(9, session="b", seq=6)], [twin(4, session="b", seq=5)]
        )

        assert duplicate == Appended(0, [], 1, log.epoch)
        assert isinstance(gap, OutOfSequence)
        assert following == Appended(4, [twin(4, session="b", seq=5)], 0, log.epoch)
        assert [(row.aggregate_id, row.seq) for row in await history(log)] == [("b", 3), ("b", 4), ("b", 5), ("a", 0)]

    async def test_the_limits_of_the_new_start_hold(self, open_log: OpenLog, clock: Clock) -> None:
        first = open_log()
        await put(first, [event(number) for number in range(10)])
        first.close()
        clock.now += 30.0
        second = open_log(log_max_events=4)
        await settle(second)
        assert (second.head, second.oldest) == (10, 7)
        second.close()
        third = open_log(log_max_age_s=29.0)
        await put(third, [event(100)])
        await settle(third)

        assert (third.head, third.oldest) == (11, 11)

    async def test_places_go_on_where_they_were_when_all_was_trimmed_before(
        self, open_log: OpenLog, clock: Clock
    ) -> None:
        first = open_log(log_max_age_s=60.0)
        await put(first, [event(1), twin(2, seq=7), event(3)])
        clock.now += 61.0
        await settle(first)
        first.close()
        second = open_log()

        assert (second.head, second.oldest, second.statistics()["events"]) == (3, 4, 0)
        assert [second.is_known(Cursor(first.epoch, position)) for position in range(5)] == [True] * 4 + [False]
        assert [second.is_known(Cursor(second.epoch, position)) for position in range(5)] == [False] * 3 + [True, False]
        assert second.cursor(3) == Cursor(second.epoch, 3)
        assert await put(second, [twin(2, seq=7)], [twin(4, seq=8)]) == [
            Appended(0, [], 1, second.epoch),
            Appended(4, [twin(4, seq=8)], 0, second.epoch),
        ]
        assert await positions(second, 3) == [4]
        second.close()
        third = open_log()
        assert (third.head, third.oldest) == (4, 4)

    async def test_what_was_trimmed_in_part_goes_on(self, open_log: OpenLog) -> None:
        first = open_log(log_max_events=2)
        await put(first, [event(number) for number in range(5)])
        await settle(first)
        await put(first, [event(10)])
        first.close()
        second = open_log()

        assert (second.head, second.oldest) == (6, 4)
        assert await positions(second, 3) == [4, 5, 6]

    # --- sequences and time

    async def test_where_sequences_stand_and_that_it_was_learned_is_known_to_the_next_start(
        self, open_log: OpenLog
    ) -> None:
        first = open_log()
        await put(first, [twin(1, session="a", seq=3)])
        first.close()
        second = open_log()
        assert await second.aggregates() is None
        await second.learn({"b": Aggregate(7, "/srv/b", "p", "w")})
        second.close()

        third = open_log()
        assert await third.aggregates() == {"a": Aggregate(3, "/srv/a"), "b": Aggregate(7, "/srv/b", "p", "w")}
        assert await put(third, [twin(2, session="b", seq=8)]) == [
            Appended(2, [twin(2, session="b", seq=8)], 0, third.epoch)
        ]

    async def test_when_the_newest_event_was_stored_is_known_as_of_the_start(
        self, open_log: OpenLog, clock: Clock
    ) -> None:
        first, began = open_log(), int(clock.now * 1000)
        await put(first, [event(1)])
        clock.now += 30.5
        await put(first, [event(2)])
        assert first.newest_ms is None
        first.close()
        clock.now += 100.0
        second = open_log()
        assert second.newest_ms == began + 30_500
        await put(second, [event(3)])

        assert second.newest_ms == began + 30_500

    async def test_of_what_was_trimmed_to_nothing_nobody_knows_when_it_was(
        self, open_log: OpenLog, clock: Clock
    ) -> None:
        first = open_log(log_max_age_s=60.0)
        await put(first, [event(1)])
        clock.now += 61.0
        await settle(first)
        first.close()

        assert open_log().newest_ms is None
