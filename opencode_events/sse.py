"""Read a text/event-stream piece by piece, as WHATWG HTML, "9.2.6 Interpreting an event stream", says.

Owns the parsing only: bytes in, whole events out. Data stays the bytes that came: the relay hands them on as they are,
and whoever shows them to a person decodes them. Pure; connecting, and connecting again, is others'.
"""

import re
from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
DATA = b"data: "
RETRY = re.compile(rb"[0-9]{1,15}")  # milliseconds: 30 000 years. int() refuses very long texts
OTHER_BYTES = 64 * 1024
"""Bytes that a line other than `data` or a comment may have where events are bounded: no id or type is that long."""


class ServerSentEvent(NamedTuple):
    """One event. `last_id` is the id to resume after it: the last one seen, on this event or an earlier one.

    `is_cut` stands for an event over the limit: its data was not kept.
    """

    data: bytes
    type: str = "message"
    last_id: str = ""
    is_cut: bool = False


class Parser:
    """The state between two pieces of one stream. `last_id` and `retry_s` are what a reconnection needs.

    `retry_s` is None until the server names a time. With `max_bytes` an event whose data is longer is passed over up
    to its blank line, and so is one with another field's line of that length, or of 64 KiB; what is left of it is an
    event without data that `is_cut`. Comments are passed over whatever their length. So no more is held than
    `max_bytes` and a few such lines, whatever comes. None: no limit.
    """

    def __init__(self, last_id: str = "", *, max_bytes: int | None = None) -> None:
        self.last_id = last_id
        self.retry_s: float | None = None
        self._max_bytes = max_bytes
        self._at_start = True
        self._after_cr = False
        self._rest = bytearray()  # of the line that has not ended
        self._skips_line = False  # ...which is too long to be held
        # What the lines of the block so far have said; `_data` has a line feed after each.
        self._is_open = False
        self._is_cut = False
        self._data = bytearray()
        self._type = ""
        self._id_buffer = last_id

    def feed(self, piece: bytes) -> list[ServerSentEvent]:
        """Take the next bytes, cut anywhere, and return the events that they complete."""
        piece = self._with_line_feeds(piece)
        if self._at_start:
            piece = bytes(self._rest) + piece
            self._rest.clear()
            self._at_start = len(piece) < len(BOM) and BOM.startswith(piece)
            if not self._at_start:
                piece = piece.removeprefix(BOM)
        if self._skips_line:
            _, line_feed, piece = piece.partition(b"\n")
            self._skips_line = not line_feed
        end = piece.rfind(b"\n") + 1
        if not end:  # a long line arrives in many pieces: it is not looked through again for each
            self._hold(piece)
            return []
        found = self._read(b"".join((self._rest, piece[:end])))
        self._rest.clear()
        self._hold(piece[end:])
        return found

    def _with_line_feeds(self, piece: bytes) -> bytes:
        """Return `piece` with a line feed for each CR and CRLF, also for one that two pieces share."""
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")  # the second half of a CRLF whose CR has already ended the line
        if b"\r" not in piece:
            return piece
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _hold(self, piece: bytes) -> None:
        """Keep more of the line that has not ended, unless it is too long already."""
        if self._skips_line:
            return
        self._rest += piece
        # Shorter than this a line may still become one of data.
        if self._max_bytes is None or len(self._rest) <= len(DATA) or not self._is_over(self._rest, len(DATA)):
            return
        if not self._rest.startswith(b":"):
            self._cut()
        self._rest.clear()
        self._skips_line = True

    def _is_over(self, line: bytes | bytearray, name_bytes: int) -> bool:
        """Tell whether `line`, or what there is of it, passes the limits. `name_bytes` come before a value of data."""
        if self._max_bytes is None:
            return False
        if line.startswith(b"data:") or line == b"data":
            return self._is_cut or len(self._data) + len(line) - name_bytes > self._max_bytes
        return len(line) > min(self._max_bytes, OTHER_BYTES)

    def _cut(self) -> None:
        """Keep no data of this block. Its id and type still count, if they are not too long themselves."""
        self._is_open = self._is_cut = True
        self._data.clear()

    def _read(self, text: bytes) -> list[ServerSentEvent]:
        """Return the events that whole lines complete."""
        found: list[ServerSentEvent] = []
        longest = len(DATA) + (len(text) if self._max_bytes is None else self._max_bytes)
        # Nearly every block is one line of data, so the first waits for the blank line that makes it an event at once.
        first = b""
        for line in text.split(b"\n")[:-1]:
            if first:
                if not line:
                    found.append(ServerSentEvent(first[len(DATA) :], "message", self.last_id))
                    first = b""
                    continue
                self._take_line(first)
                first = b""
            if not line:
                found += self._dispatch()
            elif line.startswith(DATA) and len(line) <= longest and not self._is_open:
                first = line
            else:
                self._take_line(line)
        if first:
            self._take_line(first)
        return found

    def _take_line(self, line: bytes) -> None:
        """Process one line that is not blank."""
        if line.startswith(b":"):
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        self._is_open = True
        if self._is_over(line, len(line) - len(value)):
            self._cut()
        elif field == b"data":
            self._data += value
            self._data += b"\n"
        elif field == b"event":
            self._type = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self._id_buffer = value.decode("utf-8", "replace")
        elif field == b"retry" and RETRY.fullmatch(value):
            self.retry_s = int(value) / 1000

    def _dispatch(self) -> list[ServerSentEvent]:
        """Return the event that a blank line ends. One without data only sets the id."""
        self.last_id = self._id_buffer
        found = []
        if self._data or self._is_cut:
            found.append(ServerSentEvent(bytes(self._data[:-1]), self._type or "message", self.last_id, self._is_cut))
        self._is_open = self._is_cut = False
        self._data.clear()
        self._type = ""
        return found
