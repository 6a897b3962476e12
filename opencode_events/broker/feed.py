"""One feed: what everybody with the same selection gets, and who they are.

An event is matched once here, whatever the number of subscribers; what was gathered is joined once into an immutable
`Segment`, which all of them share. Pure.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from opencode_events.broker.selection import Selection

if TYPE_CHECKING:
    from opencode_events.broker.subscriber import Subscriber


class Segment:
    """One chunk of a stream (RFC 9112, section 7.1), as it goes to any number of connections.

    `data` is the chunk with its size line and line end; `head` is the length of the size line, so that
    `data[head:-2]` is what an HTTP/1.0 client gets. `events` counts logged events, `last` is the last position that
    its feed had looked at: whoever has read the segment resumes after it. `holders` counts the backlogs it is in;
    `since` is when the first of them took it, by the handles' clock, 0 before that.
    """

    __slots__ = ("data", "events", "head", "holders", "last", "since", "size")

    def __init__(self, frames: Sequence[bytes], events: int, last: int) -> None:
        head = b"%x\r\n" % sum(map(len, frames))
        self.data = b"".join((head, *frames, b"\r\n"))
        self.size = len(self.data)
        self.head = len(head)
        self.events = events
        self.last = last
        self.holders = 0
        self.since = 0.0


class Sealed:
    """What becomes a segment, and who shall get it. `ends` tells that it is the last one of their stream.

    The frames are joined when `segment` is first asked for, which is when it is written: until then they are shared
    with all other feeds, and a thousand feeds that wait to be flushed hold an event once.
    """

    __slots__ = ("_events", "_frames", "_last", "_segment", "ends", "feed", "members", "size")

    def __init__(
        self, feed: "Feed", frames: list[bytes], events: int, last: int, members: Sequence["Subscriber"], *, ends: bool
    ) -> None:
        self.feed = feed
        self.members = members
        self.ends = ends
        self.size = sum(map(len, frames))
        self._frames = frames
        self._events = events
        self._last = last
        self._segment: Segment | None = None

    @property
    def segment(self) -> Segment:
        """The frames, joined."""
        if self._segment is None:
            self._segment = Segment(self._frames, self._events, self._last)
            self._frames = []
        return self._segment


class Feed:
    """A selection's subscribers, and the frames gathered for them since the last flush.

    Whoever joins while frames are waiting gets those that come after it, and none before: it is a newcomer until
    the next seal, which makes a shorter segment for it. `away` are those who read from the log, and come back here.
    `events` and `bytes` are what is gathered; `sealed` and `written` count what was closed and what of that is out:
    who was away may come back when all that was sealed with it is out.
    """

    __slots__ = (
        "_frames",
        "_members",
        "_newcomers",
        "_snapshot",
        "away",
        "bytes",
        "events",
        "matches",
        "sealed",
        "selection",
        "written",
    )

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.matches: Callable[..., bool] | None = selection.matcher()
        self._members: dict[Subscriber, None] = {}
        self._snapshot: tuple[Subscriber, ...] | None = ()
        self._newcomers: dict[Subscriber, tuple[int, int]] = {}  # -> how many frames, and events, it came after
        self._frames: list[bytes] = []
        self.away: dict[Subscriber, None] = {}
        self.events = 0
        self.bytes = 0
        self.sealed = 0
        self.written = 0

    def __len__(self) -> int:
        return len(self._members) + len(self._newcomers) + len(self.away)

    @property
    def is_heard(self) -> bool:
        """Whether anybody gets what is appended."""
        return bool(self._members or self._newcomers)

    def join(self, subscriber: "Subscriber") -> None:
        """Give `subscriber` everything that is appended from now on."""
        self.away.pop(subscriber, None)
        if self._frames:
            self._newcomers[subscriber] = (len(self._frames), self.events)
        else:
            self._members[subscriber] = None
            self._snapshot = None

    def leave(self, subscriber: "Subscriber") -> None:
        """Give `subscriber` nothing more; those who left already are no error."""
        if subscriber in self._members:
            del self._members[subscriber]
            self._snapshot = None
        self._newcomers.pop(subscriber, None)
        self.away.pop(subscriber, None)

    def append(self, frame: bytes, *, is_event: bool = True) -> None:
        """Gather one frame."""
        self._frames.append(frame)
        self.bytes += len(frame)
        self.events += is_event

    def seal(self, last: int, *, ends: bool = False) -> Iterator[Sealed]:
        """Close what was gathered; yield it with those who shall get it. `last` is the last position looked at."""
        frames, events = self._frames, self.events
        if not frames:
            return
        self._frames, self.events, self.bytes = [], 0, 0
        if self._members:
            if self._snapshot is None:
                self._snapshot = tuple(self._members)
            self.sealed += 1
            yield Sealed(self, frames, events, last, self._snapshot, ends=ends)
        if self._newcomers:
            groups: dict[tuple[int, int], list[Subscriber]] = {}
            for subscriber, came_after in self._newcomers.items():
                groups.setdefault(came_after, []).append(subscriber)
            self._members.update(dict.fromkeys(self._newcomers))
            self._snapshot = None
            self._newcomers = {}
            for (skipped, before), members in groups.items():
                if skipped < len(frames):
                    self.sealed += 1
                    yield Sealed(self, frames[skipped:], events - before, last, members, ends=ends)
