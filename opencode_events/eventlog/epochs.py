"""The table of epochs: which start of the daemon gave which positions their cursors. Pure.

Each start mints an epoch and closes the one before it at the newest event that it finds. So whatever was lost behind
that event (a power cut, a restored backup, rows that somebody deleted) leaves cursors that lie beyond their epoch's
end: they are expired, and the positions that are given anew belong to another epoch.
"""

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from opencode_events.cursor import Cursor

FOR_EVER = 2**63 - 1  # no position is larger: SQLite's integers end there


class Epoch(NamedTuple):
    """One start's share of the positions. `last` is None only of the current one, and may be `first - 1`."""

    name: str
    first: int
    last: int | None


class Epochs:
    """All epochs of one log, in order. Their shares touch, and none is given away twice."""

    def __init__(self, past: Iterable[Epoch], current: Epoch) -> None:
        # Of epochs that had no event several begin at one position; bisecting finds the last of them, which has it.
        self._all = [*sorted(past, key=lambda epoch: (epoch.first, epoch.last)), current]
        self._firsts = [epoch.first for epoch in self._all]
        self._by_name = {epoch.name: epoch for epoch in self._all}

    @property
    def current(self) -> Epoch:
        """The epoch of what is appended now."""
        return self._all[-1]

    def share(self, position: int) -> tuple[bytes, int]:
        """Return the name of the epoch in which the event at `position` was appended, and the last one of its share.

        What lies before the first epoch, such as position 0, counts to that. The current one's share has no end.
        """
        epoch = self._all[max(bisect_right(self._firsts, position) - 1, 0)]
        return epoch.name.encode(), FOR_EVER if epoch.last is None else epoch.last

    def cursor(self, position: int) -> Cursor:
        """Return the place after `position`: in the current epoch, if that begins there."""
        current = self._all[-1]
        return Cursor(current.name if position >= current.first - 1 else self.share(position)[0].decode(), position)

    def is_known(self, cursor: Cursor, head: int) -> bool:
        """Tell whether `cursor` stands within its epoch, which is one of these; the current one ends at `head`."""
        epoch = self._by_name.get(cursor.epoch)
        if epoch is None:
            return False
        return epoch.first - 1 <= cursor.position <= (head if epoch.last is None else epoch.last)
