"""What the broker needs of an event log. Implementations stand beside this file and know nothing of the broker."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from opencode_events.cursor import Cursor
from opencode_events.events import Event


class EventLog(Protocol):
    """One total order of events. Positions grow by one, without gaps, over all epochs.

    Appending is atomic: all of a call's events have their place when it returns, or none has. An event whose
    (id, is_sync) the log holds already is a duplicate and gets no second place. There is one writer, and a call may
    start only when the one before it is over; the broker sees to that.
    """

    epoch: str
    head: int

    def append_nowait(self, batches: Sequence[Sequence[Event]]) -> list["Appended"] | None:
        """Append at once, or return None when that could hold the loop for more than a moment; then use `append`.

        Raises LogUnavailable, with nothing stored.
        """

    async def append(self, batches: Sequence[Sequence[Event]]) -> list["Appended"]:
        """Append all batches in one transaction and tell of each. Raises LogUnavailable, with nothing stored.

        Must not be cancelled: the events may be in the log although nobody was told.
        """

    def is_known(self, cursor: Cursor) -> bool:
        """Tell whether `cursor` stands within an epoch of this log: its epoch is known and not beyond its end."""

    def close(self) -> None:
        """Give the files back. Nothing may be appended afterwards; closing twice is fine."""

    def statistics(self) -> dict[str, object]:
        """Return what can be counted: for `/-/status`."""


class Appended(NamedTuple):
    """What became of one batch: its events that are new, and the position of the first of them.

    Those of one batch stand contiguously. `first` is 0 when there are none.
    """

    first: int
    events: Sequence[Event]
    duplicates: int
