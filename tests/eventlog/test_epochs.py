"""No cursor ever means another event, whatever becomes of the file between two starts."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from opencode_events.cursor import Cursor
from opencode_events.eventlog import retention
from opencode_events.eventlog.epochs import FOR_EVER, Epoch, Epochs
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.eventlog.files import beside, other
from tests.samples import event

# --- the table


def epochs(*shares: tuple[str, int, int | None]) -> Epochs:
    *past, current = (Epoch(*share) for share in shares)
    return Epochs(reversed(past), current)  # they are found in any order


THREE = epochs(("a", 1, 4), ("b", 5, 5), ("c", 6, None))


def test_each_position_belongs_to_one_epoch() -> None:
    found = [THREE.share(position) for position in range(8)]

    assert [name.decode() for name, _ in found] == list("aaaaabcc")
    assert [last for _, last in found] == [4, 4, 4, 4, 4, 5, FOR_EVER, FOR_EVER]


def test_the_place_between_two_epochs_belongs_to_the_one_before_unless_the_next_is_the_current_one() -> None:
    """What comes next after the head has the current epoch's name, so its own start knows it by that."""
    assert [THREE.cursor(position) for position in range(8)] == [
        Cursor(name, position) for position, name in enumerate("aaaaaccc")
    ]


def test_a_cursor_is_known_within_its_epoch() -> None:
    known = {
        name: [position for position in range(-1, 10) if THREE.is_known(Cursor(name, position), head=7)]
        for name in "abcd"
    }

    assert known == {"a": [0, 1, 2, 3, 4], "b": [4, 5], "c": [5, 6, 7], "d": []}


def test_epochs_without_events_own_the_place_where_they_were() -> None:
    several = epochs(("a", 1, 2), ("b", 3, 2), ("c", 3, 2), ("d", 3, 3), ("e", 4, None))
    known = {
        name: [position for position in range(6) if several.is_known(Cursor(name, position), head=3)]
        for name in "abcde"
    }

    assert known == {"a": [0, 1, 2], "b": [2], "c": [2], "d": [2, 3], "e": [3]}
    assert several.share(3) == (b"d", 3)
    assert several.current.name == "e"


@hypothesis.given(st.lists(st.integers(0, 4), min_size=1, max_size=8))
def test_the_cursor_of_every_place_is_known(sizes: list[int]) -> None:
    shares: list[tuple[str, int, int | None]] = []
    head = 0
    for number, size in enumerate(sizes):
        shares.append((str(number), head + 1, head + size if number < len(sizes) - 1 else None))
        head += size
    table = epochs(*shares)

    for position in range(head + 1):
        cursor = table.cursor(position)
        assert cursor.position == position
        assert table.is_known(cursor, head)
    owners = [name for name, size in enumerate(sizes) for _ in range(size)]
    assert [int(table.share(position)[0]) for position in range(1, head + 1)] == owners


# --- the file


class Starts(RuleBasedStateMachine):
    """Starts, ends, and what happens to a file in between.

    The model is what clients remember: for each cursor that they were given, all that they had seen by then.
    """

    copies: Bundle[dict[str, bytes]] = Bundle("copies")

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "events.sqlite3"
        self.seen: dict[Cursor, dict[int, str]] = {}
        self.given: dict[str, Cursor] = {}
        self.numbers = iter(range(1_000_000))
        self.start()

    def start(self) -> None:
        self.log = log = SqliteLog(self.path, EventLogSettings())
        self.seen.setdefault(log.cursor(log.head), self.content())
        self.check()

    def teardown(self) -> None:
        try:
            self.check()
        finally:
            self.log.close()
            shutil.rmtree(self.directory)

    def content(self) -> dict[int, str]:
        return dict(self.log._database.writer.execute("SELECT position, id FROM event"))

    def check(self) -> None:
        content = self.content()
        for cursor, seen in self.seen.items():
            if self.log.is_known(cursor):  # then the log goes on from there: before it stands what was seen
                assert content.items() - seen.items() <= {one for one in content.items() if one[0] > cursor.position}
        for position, id_ in content.items():
            given = self.given[id_]
            assert given.position == position
            assert self.log.is_known(given)
            assert self.log._epochs.share(position)[0].decode() == given.epoch
        for position in range(self.log.head + 1):
            assert self.log.is_known(self.log.cursor(position))

    def keep(self) -> dict[str, bytes]:
        return {suffix: file.read_bytes() for suffix in ("", "-wal") if (file := beside(self.path, suffix)).exists()}

    @rule(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def append(self, counts: Iterable[int]) -> None:
        for count in counts:
            batch = [event(next(self.numbers)) for _ in range(count)]
            first = self.log.head + 1
            assert self.log.append_nowait([batch]) is not None
            for position, one in enumerate(batch, first):
                self.given[one.id] = Cursor(self.log.epoch, position)
            self.seen[Cursor(self.log.epoch, self.log.head)] = self.content()

    @rule(count=st.integers(1, 5))
    def trim(self, count: int) -> None:
        retention.delete_to(self.log._database.writer, self.log.oldest + count, self.log.head)

    @rule()
    def restart(self) -> None:
        self.log.close()
        self.start()

    @rule(target=copies)
    def copy(self) -> dict[str, bytes]:
        return self.keep()

    @rule(target=copies, counts=st.lists(st.integers(1, 3), min_size=1, max_size=2))
    def copy_and_go_on(self, counts: Iterable[int]) -> dict[str, bytes]:
        copy = self.keep()
        self.append(counts)
        return copy

    @rule(copy=copies)
    def go_back_to_a_copy(self, copy: dict[str, bytes]) -> None:
        """A backup is restored; if it is of this start, it is as if a power cut had taken the newest rows."""
        self.log.close()
        for suffix in ("", "-wal"):
            beside(self.path, suffix).unlink(missing_ok=True)
            if suffix in copy:
                beside(self.path, suffix).write_bytes(copy[suffix])
        self.start()

    @rule(count=st.integers(1, 6))
    def lose_the_newest_rows(self, count: int) -> None:
        """Somebody deletes them by hand."""
        self.log.close()
        with other(self.path) as db:
            db.execute("DELETE FROM event WHERE position > (SELECT max(position) FROM event) - ?", (count,))
        self.start()


def test_no_cursor_ever_means_another_event() -> None:
    hypothesis.stateful.run_state_machine_as_test(
        Starts, settings=hypothesis.settings(max_examples=25, stateful_step_count=12, deadline=None)
    )
