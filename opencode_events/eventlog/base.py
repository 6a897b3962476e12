"""What the broker needs of an event log. Implementations stand beside this file and know nothing of the broker."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from opencode_events.cursor import Cursor
from opencode_events.errors import OutOfSequence
from opencode_events.events import Event


class EventLog(Protocol):
    """One total order of events. Positions grow by one, without gaps, over all epochs.

    Appending is atomic: all of a batch's events have their place when it returns, or none has. An event whose
    (id, is_sync) the log holds already is a duplicate and gets no second place. A sync event must be the next of its
    aggregate; the first one seen of an aggregate is its baseline.

    There is one writer: a call of `append_nowait`, `append`, `learn` or `maintain` may start only when the one before
    it is over. The broker sees to that. Everything else may be called at any time, beside them.

    `newest_ms` is when the newest event that it held was stored, in milliseconds of Unix time, as it was when the log
    was opened; None if it held none.
    """

    epoch: str
    head: int
    newest_ms: int | None

    def append_nowait(self, batches: Sequence[Sequence[Event]]) -> list["Outcome"] | None:
        """Append at once, or return None when that could hold the loop for more than a moment; then use `append`.

        Tells of each batch what became of it. Raises LogUnavailable, with nothing of any stored.
        """

    async def append(self, batches: Sequence[Sequence[Event]]) -> list["Outcome"]:
        """Append all batches in one transaction and tell of each. Raises LogUnavailable, with nothing stored.

        Must not be cancelled: the events may be in the log although nobody was told.
        """

    async def learn(self, places: Mapping[str, "Aggregate"]) -> None:
        """Set where sequences stand, whatever was counted before; from now on the log is one that has learned.

        Aggregates that are not in `places` stay. The next event of one at `last` has the number behind that; an event
        at or before it is a duplicate, unless that number is held under another id, or is before the first one seen. Of
        an aggregate that was not seen yet all of them count as seen; `last` is -1 where there is none. What is None in
        a place does not erase what is known. Must not be cancelled. Raises LogUnavailable, with nothing changed.
        """

    async def maintain(self) -> bool:
        """Do one small step of the log's own work, such as trimming; return whether there is more to do at once.

        Called every second or so. Raises LogUnavailable when nothing could be appended now; a log that could not be
        written is tried again here, so that it is known to be well without anybody publishing.
        """

    @property
    def oldest(self) -> int:
        """The oldest position that is retained; `head + 1` when there is none."""

    async def read(self, after: int, until: int, query: "Query") -> "Page":
        """Return the first of the events after position `after` and up to `until` that `query` asks for.

        Raises LogUnavailable when nothing can be read now.
        """

    def history(self, known: Mapping[str, int]) -> AsyncIterator[Sequence["SyncRow"]]:
        """Yield the sync events, a page at a time, that lie behind the sequence numbers in `known`.

        All of those aggregates that are not in `known`. Aggregates come in the order in which they were first seen, the
        events of each by their sequence. Raises LogUnavailable.
        """

    async def aggregates(self) -> dict[str, "Aggregate"] | None:
        """Return where each aggregate stands, trimmed or not; None if `learn` was never called on this log.

        Raises LogUnavailable.
        """

    def cursor(self, position: int) -> Cursor:
        """Return the place after `position`, which is 0, the head, or between them."""

    def is_known(self, cursor: Cursor) -> bool:
        """Tell whether `cursor` stands within an epoch of this log: its epoch is known and not beyond its end."""

    def close(self) -> None:
        """Give the files back. Nothing may be appended afterwards; closing twice is fine."""

    def statistics(self) -> dict[str, object]:
        """Return what can be counted: for `/-/status`."""


class Appended(NamedTuple):
    """What became of one batch: its events that are new, and the position of the first of them.

    Those of one batch stand contiguously, in the epoch of that name. `first` is 0 when there are none.
    """

    first: int
    events: Sequence[Event]
    duplicates: int
    epoch: str


# A batch has its place, or breaks the sequence of an aggregate and is left out.
Outcome = Appended | OutOfSequence


class Aggregate(NamedTuple):
    """Where one sequence stands: the number that came `last`, and under which envelope its events come.

    An event tells that at its aggregate's first sight, and whenever its directory is another one.
    """

    last: int
    directory: str | None = None
    project: str | None = None
    workspace: str | None = None


class Query(NamedTuple):
    """What a page shall hold. `max_events` and `max_bytes` (of envelopes) end it; one event may be larger than that.

    `directory` asks for the plain events of one instance, and for the gaps, which concern them all; None for
    everything. `matches` looks at an event's fields, not at its text, which may be missing.
    """

    directory: str | None
    matches: Callable[[Event], bool] | None
    max_events: int
    max_bytes: int


class Stored(NamedTuple):
    """An event at its place; `cursor` is the text that it has had from the beginning."""

    position: int
    cursor: bytes
    event: Event


class Page(NamedTuple):
    """Everything that was asked for up to `last`, which is beyond the last event where others did not match.

    `oldest` is the oldest position that was retained at that moment: if it is above the place that was asked for,
    events are missing before the first of these.
    """

    events: Sequence[Stored]
    last: int
    oldest: int


class SyncRow(NamedTuple):
    """One row of opencode's `POST /sync/history`; `data` is JSON, as it was published.

    `directory` is no part of the answer: who may have it is judged by it. None if the event has none, or an opencode
    server sent the row.
    """

    id: str
    aggregate_id: str
    seq: int
    type: str
    data: bytes
    directory: str | None = None
