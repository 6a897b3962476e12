"""Responses to what is posted, cut out of a connection's bytes: status and body, pipelined or not. Pure.

Bodies must be framed by Content-Length (RFC 9112, section 6.3), as the daemon's answers to a POST are.
"""

import re
from typing import NamedTuple

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r|$)")
_LENGTH = re.compile(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r?$")
_ACCEPTED = re.compile(rb'"accepted"\s*:\s*(\d+)')


class Answer(NamedTuple):
    """One response."""

    status: int
    body: bytes

    def accepted(self) -> int:
        """Return how many events the daemon says that it took; -1 if it does not say."""
        found = _ACCEPTED.search(self.body)
        return int(found[1]) if found else -1


class AnswerParser:
    """Takes the bytes of one connection as they come, and gives whole responses, interim ones (1xx) left out."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[Answer]:
        """Return the responses that `data` completes. Raise ValueError if this is not HTTP, or framed otherwise."""
        held, answers = self._held + data, []
        while True:
            head, separator, body = held.partition(b"\r\n\r\n")
            if not separator:
                break
            status, length = _STATUS.match(head), _LENGTH.search(head)
            if status is None:
                raise ValueError(f"not HTTP: {head[:60]!r}")
            if status[1].startswith(b"1"):
                held = body
                continue
            if length is None:
                raise ValueError(f"no Content-Length: {head[:200]!r}")
            size = int(length[1])
            if len(body) < size:
                break
            answers.append(Answer(int(status[1]), body[:size]))
            held = body[size:]
        self._held = held
        return answers
