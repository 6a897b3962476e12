"""What clients are told that must look anew, because events may be missing: each in the way that it knows.

The web page fetches everything at `server.connected`. The TUI does so when an instance is disposed of that it shows, so
of each that was heard of lately one is told. Nothing of this is in the log, has a cursor or ends a stream.
"""

import time
from collections.abc import Callable, Iterable

from opencode_events import wire
from opencode_events.broker.announcement import Announcement
from opencode_events.events import DISPOSED, NO_INSTANCE

# Instances that are told of; each is a frame to everybody.
INSTANCES = 200
# Seconds after a gap in which those who come without a cursor are told of it: clients come back within half of that.
LATE_S = 60.0


class Resync:
    """Knows which instances clients may show, and when the last gap was."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._instances: dict[str, None] = {}  # by directory, the latest last
        self._gap_at: float | None = None

    @property
    def knows_any(self) -> bool:
        """Whether any instance was heard of."""
        return bool(self._instances)

    def note(self, directories: Iterable[str | None]) -> None:
        """Something came from the instances of these directories."""
        for directory in directories:
            if directory and directory != NO_INSTANCE:
                self._instances.pop(directory, None)
                self._instances[directory] = None
                if len(self._instances) > INSTANCES:
                    del self._instances[next(iter(self._instances))]

    def note_gap(self) -> None:
        """Everybody who is here is being told now."""
        self._gap_at = self._clock()

    def announcements(self) -> list[Announcement]:
        """Return what is told behind a gap."""
        return [Announcement(wire.CONNECTED), *self._disposals()]

    def late_announcements(self) -> list[Announcement]:
        """Return what a fresh stream has to be told: what was said behind a gap a moment ago, while it was not here.

        `server.connected` it has been told anyway.
        """
        is_late = self._gap_at is not None and self._clock() - self._gap_at < LATE_S
        return self._disposals() if is_late else []

    def _disposals(self) -> list[Announcement]:
        return [Announcement(DISPOSED, {"directory": name}, name) for name in self._instances]
