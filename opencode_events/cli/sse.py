"""Read a text/event-stream piece by piece, as WHATWG HTML, "9.2.6 Interpreting an event stream", says.

Owns the parsing only: bytes in, whole events out. Connecting, and connecting again, is `follow`'s.
"""

import dataclasses
import re

BOM = b"\xef\xbb\xbf"
RETRY_DIGITS = 15  # milliseconds: 30 000 years. int() refuses very long texts
LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclasses.dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event. `last_id` is the id to resume after it: the last one seen, on this event or an earlier one."""

    data: str
    type: str = "message"
    last_id: str = ""


class Parser:
    """The state between two pieces of one stream. `last_id` and `retry_s` are what a reconnection needs.

    `retry_s` is None until the server names a time.
    """

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._id_buffer = last_id
        self._type = ""
        self._data: list[str] = []
        self._rest = bytearray()  # of the line that has not ended
        self._at_start = True
        self._after_cr = False

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, cut anywhere, and return the events that they complete."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")  # the second half of a CRLF whose CR has already ended the line
        self._rest += piece
        if b"\n" not in piece and b"\r" not in piece:
            return []  # a long line arrives in many pieces: do not look through it again for each
        if self._at_start:
            self._at_start = False
            if self._rest.startswith(BOM):
                del self._rest[: len(BOM)]
        *lines, rest = LINE_END.split(self._rest)
        self._after_cr = self._rest.endswith(b"\r")
        self._rest = bytearray(rest)
        found = (self._take_line(line.decode("utf-8", "replace")) for line in lines)
        return [event for event in found if event is not None]

    def _take_line(self, line: str) -> ServerSentEvent | None:
        """Process one line; return the event that it ends."""
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")  # a comment is a field without a name
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._type = value
        elif field == "id" and "\0" not in value:
            self._id_buffer = value
        elif field == "retry" and value.isascii() and value.isdigit() and len(value) <= RETRY_DIGITS:
            self.retry_s = int(value) / 1000
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        """Return the event that a blank line ends. One without data only sets the id."""
        self.last_id = self._id_buffer
        data, kind = self._data, self._type
        self._data, self._type = [], ""
        return ServerSentEvent("\n".join(data), kind or "message", self.last_id) if data else None
