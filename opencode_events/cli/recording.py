"""Read a recording of a stream, as curl wrote it to a file, back into the lines that are published.

A recording is NDJSON, or the raw text of an event stream, whose `data:` lines are the events: `curl -N` makes either.
Each line is judged by itself, so nothing has to be known before the first byte; pieces may be cut anywhere. What an
event is, the daemon judges.
"""

import array
import json
import re

SSE_NOISE = re.compile(rb"\s*(?:$|:|(?:id|retry|event)(?::|$))")
"""A blank line, a comment, or a field of an event stream that is not data. No JSON text begins like this."""


class Recording:
    """The state between two pieces of one recording.

    What the daemon gets has no line of noise, so its line numbers are not the file's: `source_line` turns them back.
    """

    def __init__(self) -> None:
        self.is_sse = False
        self.cut_short = False
        self._rest = bytearray()
        self._lines = 0
        self._sources = array.array("Q")  # source line of each line handed on: 8 bytes an event

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes and return the lines, each with its line end, that they complete."""
        self._rest += piece
        if b"\n" not in piece:
            return b""  # a long line arrives in many pieces: do not look through it again for each
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return b"".join(map(self._take_line, lines))

    def finish(self) -> bytes:
        """Return what is left when the file ends without a line end.

        The last line of a stopped `curl -N` may be half an event. It is left out, and `cut_short` is set, if this is
        an event stream; the last line of NDJSON is handed on as it is, for the daemon to judge.
        """
        line = bytes(self._rest)
        self._rest.clear()
        if self.is_sse and not _is_whole(line):
            self.cut_short = True
            return b""
        return self._take_line(line)

    def source_line(self, line: int) -> int:
        """Return the line of the file (1-based) that was handed on as `line` (1-based); `line` if that is unknown."""
        return self._sources[line - 1] if 0 < line <= len(self._sources) else line

    def _take_line(self, line: bytes) -> bytes:
        """Return the event of one line with a line end, or nothing."""
        self._lines += 1
        if line.startswith(b"data:"):
            self.is_sse = True
            line = line[5:]
        if SSE_NOISE.match(line):
            return b""
        self._sources.append(self._lines)
        return line.strip(b" \t\r") + b"\n"


def _is_whole(line: bytes) -> bool:
    """Ask whether the last line of an event stream, which has no line end, is all there."""
    if SSE_NOISE.match(line):
        return True
    try:
        json.loads(line.removeprefix(b"data:"))
    except (ValueError, RecursionError):  # not JSON, or cut inside a character
        return False
    return line.startswith(b"data:")
