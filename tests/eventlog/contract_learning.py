"""What every event log must do about where sequences stand: it can be told, and it tells, whatever was trimmed."""

import itertools
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.errors import OutOfSequence
from opencode_events.eventlog.base import Aggregate, Appended, EventLog, Outcome
from opencode_events.events import Event
from tests.eventlog.steps import MANY_EXAMPLES, Clock, OpenLog, history, put, settle
from tests.samples import event, make, twin

NUMBERS = itertools.count(1)
NAMES = st.sampled_from("ab")
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.integers(0, 6), st.integers(0, 1)),
    st.tuples(st.just("learn"), NAMES, st.integers(-1, 6), st.just(0)),
)


def placed(number: int, seq: int, directory: str | None, project: str | None, workspace: str | None) -> Event:
    """Return a twin of `ses_1` under an envelope."""
    inner = {"type": "session.updated.1", "seq": seq, "aggregateID": "ses_1", "data": {}}
    where = {"directory": directory, "project": project, "workspace": workspace}
    payload = {"type": "sync", "id": f"evt_{number}", "syncEvent": inner}
    return make(msgspec.json.encode({key: value for key, value in where.items() if value} | {"payload": payload}))


def refusals(outcomes: Sequence[Outcome]) -> list[str]:
    return [str(one) for one in outcomes if isinstance(one, OutOfSequence)]


class Sequences:
    """Two sequences and what they hold, as slow and plain as can be."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.held: set[tuple[str, int, int]] = set()

    def learn(self, name: str, last: int) -> None:
        self.first[name] = min(self.first.get(name, 0), last + 1)
        self.last[name] = last

    def put(self, name: str, seq: int, which: int) -> str:
        """Return "new", "duplicate" or "refused"."""
        last = self.last.get(name)
        is_next = last is None or seq == last + 1
        if (name, seq, which) in self.held:
            self.last[name] = seq if is_next else self.last[name]
            return "duplicate"
        if not is_next:
            assert last is not None
            is_held = any((name, seq, other) in self.held for other in (0, 1))
            return "refused" if seq > last or seq < self.first[name] or is_held else "duplicate"
        self.first.setdefault(name, seq)
        self.last[name] = seq
        self.held.add((name, seq, which))
        return "new"


class LearningContract:
    """A part of `EventLogContract`."""

    # --- what is asked

    async def test_a_log_that_never_learned_says_so_whatever_it_counted(self, log: EventLog) -> None:
        assert await log.aggregates() is None
        await put(log, [twin(1, seq=4)])

        assert await log.aggregates() is None

    async def test_one_that_was_taught_nothing_has_learned_and_knows_what_it_counted(self, log: EventLog) -> None:
        await put(log, [twin(1, session="b", seq=4), twin(2, session="a", seq=0)])
        await log.learn({})
        assert await log.aggregates() == {"b": Aggregate(4, "/srv/a"), "a": Aggregate(0, "/srv/a")}

        await put(log, [twin(3, session="b", seq=5)])
        assert await log.aggregates() == {"b": Aggregate(5, "/srv/a"), "a": Aggregate(0, "/srv/a")}

    async def test_an_empty_log_that_has_learned_knows_none(self, log: EventLog) -> None:
        await log.learn({})

        assert await log.aggregates() == {}

    async def test_a_thousand_are_learned_at_a_time_and_in_their_order(self, log: EventLog) -> None:
        places = {f"ses_{number * 7 % 1000}": Aggregate(number, f"/srv/{number}", "p", "w") for number in range(1000)}
        await log.learn(places)

        found = await log.aggregates()
        assert found == places
        assert list(found or ()) == list(places)

    async def test_what_is_trimmed_is_known_all_the_same(self, open_log: OpenLog, clock: Clock) -> None:
        log = open_log(log_max_age_s=60.0)
        await log.learn({"a": Aggregate(5, "/srv/x", "p", "w")})
        await put(log, [twin(1, session="b", seq=3), twin(2, session="a", seq=6, directory=None)])
        clock.now += 61.0
        await settle(log)

        assert log.oldest == 3
        assert await log.aggregates() == {"a": Aggregate(6, "/srv/x", "p", "w"), "b": Aggregate(3, "/srv/a")}

    # --- what is learned

    async def test_a_sequence_goes_on_from_where_it_was_put(self, log: EventLog) -> None:
        await log.learn({"ses_1": Aggregate(5)})
        refused, duplicate, oldest, following = await put(
            log, [twin(1, seq=7)], [twin(2, seq=5)], [twin(3, seq=0)], [twin(4, seq=6)]
        )

        assert refusals([refused]) == ["ses_1 has come to 5: 6 is next, not 7"]
        assert [duplicate, oldest] == [Appended(0, [], 1, log.epoch)] * 2
        assert following == Appended(1, [twin(4, seq=6)], 0, log.epoch)
        assert [row.seq for row in await history(log)] == [6]

    async def test_one_that_has_nothing_yet_begins_with_0(self, log: EventLog) -> None:
        await log.learn({"ses_1": Aggregate(-1)})
        assert await log.aggregates() == {"ses_1": Aggregate(-1)}
        refused, following = await put(log, [twin(1, seq=1)], [twin(2, seq=0)])

        assert refusals([refused]) == ["ses_1 has come to -1: 0 is next, not 1"]
        assert following == Appended(1, [twin(2, seq=0)], 0, log.epoch)

    async def test_what_was_counted_gives_way(self, log: EventLog) -> None:
        await put(log, [twin(1, seq=3), twin(2, seq=4)])
        await log.learn({"ses_1": Aggregate(9)})
        outcomes = await put(log, [twin(3, seq=4)], [twin(4, seq=2)], [twin(5, seq=5)], [twin(2, seq=4)])

        assert refusals(outcomes) == [
            "ses_1 has 4 already, under the id evt_2",
            "ses_1 was first seen at 3: 2 is before that",
        ]
        assert outcomes[2:] == [Appended(0, [], 1, log.epoch)] * 2
        assert await put(log, [twin(6, seq=10)]) == [Appended(3, [twin(6, seq=10)], 0, log.epoch)]

    async def test_a_lower_number_is_learned_too_and_what_is_held_stays(self, log: EventLog) -> None:
        await put(log, [twin(1, seq=3), twin(2, seq=4), twin(3, seq=5)])
        await log.learn({"ses_1": Aggregate(1)})
        assert await log.aggregates() == {"ses_1": Aggregate(1, "/srv/a")}
        again = [twin(12, seq=2), twin(13, seq=3), twin(14, seq=4)]

        assert await put(log, again) == [Appended(4, again, 0, log.epoch)]
        assert await put(log, [twin(3, seq=5)]) == [Appended(0, [], 1, log.epoch)]
        assert await put(log, [twin(16, seq=6)]) == [Appended(7, [twin(16, seq=6)], 0, log.epoch)]

    async def test_those_that_are_not_named_stay(self, log: EventLog) -> None:
        await put(log, [twin(1, session="a", seq=3), twin(2, session="b", seq=4)])
        await log.learn({"b": Aggregate(9), "c": Aggregate(2, "/srv/c")})

        assert await log.aggregates() == {
            "a": Aggregate(3, "/srv/a"), "b": Aggregate(9, "/srv/a"), "c": Aggregate(2, "/srv/c"),
        }  # fmt: skip

    async def test_what_a_place_does_not_say_is_not_forgotten(self, log: EventLog) -> None:
        await log.learn({"a": Aggregate(1, "/srv/x", "p", "w")})
        await log.learn({"a": Aggregate(2)})
        assert await log.aggregates() == {"a": Aggregate(2, "/srv/x", "p", "w")}

        await log.learn({"a": Aggregate(3, project="q")})
        assert await log.aggregates() == {"a": Aggregate(3, "/srv/x", "q", "w")}

    async def test_of_what_is_refused_and_what_is_learned_behind_it_the_second_stays(self, log: EventLog) -> None:
        await put(log, [twin(1, session="a", seq=3), twin(2, session="new", seq=0), twin(3, session="a", seq=9)])
        await log.learn({})

        assert await log.aggregates() == {}

    # --- where an aggregate's events belong

    async def test_an_aggregate_belongs_where_its_first_event_came_from(self, log: EventLog) -> None:
        await put(log, [event(1), placed(2, 4, "/srv/x", "p", "w"), placed(3, 5, "/srv/x", "other", "other")])
        await log.learn({})

        assert await log.aggregates() == {"ses_1": Aggregate(5, "/srv/x", "p", "w")}

    @pytest.mark.parametrize(
        ("project", "workspace"), [("q", "v"), (None, None)], ids=["with all of it", "with nothing else"]
    )
    async def test_one_that_moves_takes_everything_along(
        self, log: EventLog, project: str | None, workspace: str | None
    ) -> None:
        await put(log, [placed(1, 4, "/srv/x", "p", "w")], [placed(2, 5, "/srv/y", project, workspace)])
        await log.learn({})

        assert await log.aggregates() == {"ses_1": Aggregate(5, "/srv/y", project, workspace)}

    async def test_an_event_from_nowhere_moves_nothing(self, log: EventLog) -> None:
        await put(log, [placed(1, 4, "/srv/x", "p", "w")], [placed(2, 5, None, "q", "v")])
        await log.learn({})

        assert await log.aggregates() == {"ses_1": Aggregate(5, "/srv/x", "p", "w")}

    async def test_one_that_was_learned_without_a_place_is_placed_by_its_next_event(self, log: EventLog) -> None:
        await log.learn({"ses_1": Aggregate(4)})
        await put(log, [placed(1, 5, "/srv/x", "p", "w")])

        assert await log.aggregates() == {"ses_1": Aggregate(5, "/srv/x", "p", "w")}

    @pytest.mark.parametrize(
        ("project", "expected"),
        [(b'"p"', "p"), (b"null", None), (b'"\xc3\xa4\\u00e4"', "\xe4\xe4"), (b'"\\ud800"', None)],
        ids=["plain", "null", "not ascii", "half a surrogate pair"],
    )
    async def test_a_project_is_found_beside_any_text(
        self, log: EventLog, project: bytes, expected: str | None
    ) -> None:
        inner = b'"syncEvent":{"data":{"t":"\\ud800"},"seq":4,"aggregateID":"a","type":"a.1"}'
        text = b'{"directory":"/d","payload":{"type":"sync","id":"evt_1",%b},"project":%b}' % (inner, project)
        await put(log, [make(text)])
        await log.learn({})

        assert await log.aggregates() == {"a": Aggregate(4, "/d", expected)}

    # --- all of it

    @MANY_EXAMPLES
    @given(steps=st.lists(STEPS, max_size=20))
    async def test_sequences_are_kept_whatever_is_learned(
        self, log: EventLog, steps: list[tuple[str, str, int, int]]
    ) -> None:
        """A step puts an event, under one of two ids, or teaches a number."""
        run, model = next(NUMBERS), Sequences()
        await log.learn({})
        for what, short, number, which in steps:
            name = f"{run}:{short}"
            if what == "learn":
                model.learn(name, number)
                await log.learn({name: Aggregate(number)})
                continue
            one = twin(1, session=name, seq=number)._replace(id=f"{name}-{number}-{which}")
            (outcome,) = await put(log, [one])
            if isinstance(outcome, Appended):
                found = "new" if outcome.events else "duplicate"
            else:
                found = "refused"
            assert found == model.put(name, number, which), (what, short, number, which)

        stand = {name: place.last for name, place in (await log.aggregates() or {}).items()}
        assert {name: last for name, last in stand.items() if name.startswith(f"{run}:")} == model.last
