"""What was acknowledged to publishers, what the log's file holds, and whether the two and a stream agree."""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

# An event's id, and whether it is the sync twin: what it is told apart by.
Key = tuple[str, bool]


class Logged(NamedTuple):
    """A row of the log. `envelope` and `payload` are the bytes that streams carry."""

    position: int
    cursor: str
    key: Key
    type: str
    directory: str | None
    envelope: bytes
    payload: bytes


# Whether a stream shall have a row.
Wants = Callable[[Logged], bool]


def anything(row: Logged) -> bool:
    return True


def plain(row: Logged) -> bool:
    """All but the sync twins."""
    return not row.key[1]


def of_instance(directory: str) -> Wants:
    """What an instance's stream has."""
    return lambda row: plain(row) and row.directory == directory


def read_log(path: Path, after: int = 0) -> list[Logged]:
    """Return what stands in a log's file behind a position, with the cursors that its table of epochs gives."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        epochs = db.execute("SELECT epoch, first, last FROM epoch ORDER BY first").fetchall()
        rows = db.execute(
            "SELECT position, id, is_sync, type, directory, envelope, payload_start, payload_end FROM event "
            "WHERE position > ? ORDER BY position",
            (after,),
        ).fetchall()
    found = []
    for position, name, is_sync, kind, directory, envelope, start, end in rows:
        (epoch,) = [epoch for epoch, first, last in epochs if first <= position and (last is None or position <= last)]
        key = (name, bool(is_sync))
        found.append(Logged(position, f"{epoch}-{position}", key, kind, directory, envelope, envelope[start:end]))
    return found


class Ledger:
    """Every acknowledgement that publishers were given. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: set[Key] = set()
        self._cursors: dict[str, Key] = {}
        self.refusals = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, keys: Sequence[Key], cursors: Iterable[str] = ()) -> None:
        """Note that events were acknowledged, and at which places, where that was told."""
        with self._lock:
            self._keys.update(keys)
            self._cursors.update(zip(cursors, keys, strict=False))

    def refused(self) -> None:
        """Note that the daemon could not take something for now."""
        with self._lock:
            self.refusals += 1

    def check(self, rows: Sequence[Logged], *, head: int | None = None) -> None:
        """The log holds every acknowledged event once, where that was told, and positions have no gaps."""
        assert [row.position for row in rows] == list(range(1, len(rows) + 1))
        found = {row.key: row.cursor for row in rows}
        assert len(found) == len(rows)
        assert not sorted(self._keys - found.keys())
        wrong = {cursor: (key, found.get(key)) for cursor, key in self._cursors.items() if found.get(key) != cursor}
        assert not wrong


def first_difference(seen: Sequence[object], wanted: Sequence[object]) -> str | None:
    """Tell where two sequences part, in a few words; None if they do not."""
    for at, (one, other) in enumerate(zip(seen, wanted, strict=False)):
        if one != other:
            return f"at {at} of {len(wanted)}: {str(one)[:300]} where {str(other)[:300]} belongs"
    if len(seen) == len(wanted):
        return None
    rest = str((seen if len(seen) > len(wanted) else wanted)[min(len(seen), len(wanted))])[:300]
    return f"{len(seen)} where {len(wanted)} belong; the first one that is over: {rest}"
