"""What is served differently by a daemon that stands in front of an opencode server: the shield.

Streams are cut out of upstream's one; everything that is not the daemon's own is passed through. Who does that is the
relay's business: here is what the web part needs of it.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from opencode_events.broker.announcement import Announcement
from opencode_events.web.problems import Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Shield:
    """The server behind, as far as it concerns those who ask.

    `pass_through` answers what is not ours. `find_directory` returns the directory whose events a subscription to one
    gets, upstream's own for an empty one; it may raise Busy. `trouble` tells why events may be missing now, None when
    none are. `is_locked_out`: upstream wants a password that is not held; then no stream is served. `announcements`
    returns what a fresh global stream has to be told: its client may have been here before a gap, and come too late for
    what was said then.
    """

    pass_through: Handler
    find_directory: Callable[[str], Awaitable[str]]
    trouble: Callable[[], str | None]
    is_locked_out: Callable[[], bool]
    announcements: Callable[[], Sequence[Announcement]]
    allow_publish: bool


def spelled_out(path: str) -> str:
    """Return the path that upstream takes `path` for: without empty segments, parameters, a fragment, and capitals.

    A stream that was asked for by another spelling would be upstream's own, which nobody bounds.
    """
    segments = (segment.partition(";")[0] for segment in path.partition("#")[0].lower().split("/"))
    return "/" + "/".join(segment for segment in segments if segment)
