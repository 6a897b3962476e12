"""What is on its way to one connection: its backlog, the segment that is half written, and what its transport holds.

Owns the writing and the counting of what waits. Who may be given what, and what happens at a cap, is the handle's.
"""

from collections.abc import Callable

from opencode_events.broker.backlog import Backlog
from opencode_events.broker.budget import Budget
from opencode_events.broker.connection import Connection
from opencode_events.broker.feed import Segment
from opencode_events.settings import BrokerSettings

# The most that a connection is given at a time. On asyncio of Python 3.11 the transport copies what it cannot send,
# so this bounds what one stalled subscriber costs beyond the transport's own high-water mark.
WRITE_BYTES = 64 * 1024


class Outbox:
    """Paused until it has a connection. `backlog` is None until something has waited: most never need one."""

    __slots__ = ("_budget", "_is_chunked", "_offset", "_settings", "backlog", "connection", "is_paused", "parked_bytes")

    def __init__(self, settings: BrokerSettings, budget: Budget, *, is_chunked: bool) -> None:
        self._settings = settings
        self._budget = budget
        self._is_chunked = is_chunked
        self._offset = 0  # bytes of the backlog's first segment that are written already
        self.connection: Connection | None = None
        self.backlog: Backlog | None = None
        self.is_paused = True
        self.parked_bytes = 0  # what the transport held when it paused

    def pause(self) -> None:
        """The connection takes no more for now."""
        self.is_paused = True
        if self.connection is not None and not self.parked_bytes:
            self.parked_bytes = self.connection.buffered()
            self._budget.buffered(self.parked_bytes)

    def resume(self) -> None:
        """The connection takes again."""
        self.is_paused = False
        self.forget_parked()

    def forget_parked(self) -> None:
        """Count no more what the transport held."""
        self._budget.buffered(-self.parked_bytes)
        self.parked_bytes = 0

    def opened(self) -> Backlog:
        """Return the backlog, which is there from now on."""
        if self.backlog is None:
            self.backlog = Backlog(self._settings, self._budget)
        return self.backlog

    def give_back(self) -> None:
        """Give up what waits. None of it is lost: the log has it. Half a segment cannot be taken back."""
        if self.backlog is not None:
            self.backlog.discard(keep=1 if self._offset else 0)

    def drop(self) -> None:
        """Give up all of it: the connection is over."""
        self._offset = 0
        if self.backlog is not None:
            self.backlog.discard()

    def send(self, sent: Callable[[Segment | None, int], None]) -> bool:
        """Write what waits until the connection pauses; tell whether all is out.

        `sent` is told of each segment whose last byte is written, and (None) of the bytes of each write, before it.
        """
        backlog, connection = self.backlog, self.connection
        assert connection is not None
        while backlog and not self.is_paused:
            pieces, room = [], WRITE_BYTES
            while backlog and room > 0:
                segment, piece = self._next_piece(backlog, room)
                pieces.append(piece)
                room -= len(piece)
                if segment is not None:
                    sent(segment, 0)
            sent(None, WRITE_BYTES - room)
            connection.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if backlog is not None:
            backlog.caught_up()
        return not backlog

    def _next_piece(self, backlog: Backlog, room: int) -> tuple[Segment | None, memoryview]:
        """Take at most `room` bytes off the backlog's first segment, and the segment with its last byte."""
        segment = backlog.first
        start, end = (0, segment.size) if self._is_chunked else (segment.head, segment.size - 2)
        start += self._offset
        piece = memoryview(segment.data)[start : min(start + room, end)]
        self._offset += len(piece)
        if start + len(piece) < end:
            return None, piece
        self._offset = 0
        return backlog.popleft(), piece
