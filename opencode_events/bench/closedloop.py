"""Publishers who wait: each posts its next event when the one before is acknowledged. Any number of them by one epoll.

What they measure is the daemon's, as long as they have little to do themselves: no thread, no task, no library, and
for each event one send(2) and one recv(2).
"""

import select
import socket
import time
from dataclasses import dataclass
from types import TracebackType

from opencode_events.bench.answers import AnswerParser
from opencode_events.bench.errors import BenchError
from opencode_events.bench.payload import EventMaker
from opencode_events.bench.publishers import ANSWER_S, JSON, PUBLISH, READ_BYTES, check
from opencode_events.bench.sample import Sample
from opencode_events.bench.target import Target


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """What one run gave: acknowledged events, and a sorted sample of the time until an acknowledgement, in ns."""

    events: int
    latencies: list[int]


class Line:
    """One connection, and when its event was posted."""

    __slots__ = ("parser", "posted_ns", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.parser = AnswerParser()
        self.posted_ns = 0


class ClosedLoop:
    """`count` connections that publish what `maker` makes. A context manager: leaving it closes them."""

    def __init__(self, target: Target, maker: EventMaker, count: int) -> None:
        self.maker = maker
        self._head = target.request("POST", PUBLISH, JSON, f"Content-Length: {maker.size}")
        self._epoll = select.epoll()
        self._lines: dict[int, Line] = {}
        try:
            for _ in range(count):
                line = Line(target.connect(ANSWER_S))
                self._lines[line.sock.fileno()] = line
                self._epoll.register(line.sock.fileno(), select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "ClosedLoop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for line in self._lines.values():
            line.sock.close()
        self._epoll.close()

    def run(self, seconds: float) -> Acknowledged:
        """Publish for `seconds`, then wait until all is acknowledged. Raise BenchError where it is not."""
        sample, answered, waiting = Sample(), 0, len(self._lines)
        deadline = time.monotonic_ns() + int(seconds * 1e9)
        for line in self._lines.values():
            self._post(line)
        while waiting:
            ready = self._epoll.poll(ANSWER_S)
            if not ready:
                raise BenchError(f"no answer to what was published within {ANSWER_S:g} s")
            for fd, _ in ready:
                line = self._lines[fd]
                if not self._is_answered(line):
                    continue
                now = time.monotonic_ns()
                sample.add(now - line.posted_ns)
                answered += 1
                if now < deadline:
                    self._post(line)
                else:
                    waiting -= 1
        return Acknowledged(events=answered, latencies=sorted(sample.values))

    def _post(self, line: Line) -> None:
        request = self._head + self.maker.make()
        line.posted_ns = time.monotonic_ns()
        try:
            line.sock.sendall(request)
        except OSError as error:
            raise BenchError(f"the daemon stopped reading what is published: {error}") from error

    def _is_answered(self, line: Line) -> bool:
        """Read what is there; tell whether it completes the answer."""
        try:
            data = line.sock.recv(READ_BYTES)
            answers = line.parser.feed(data)
        except (OSError, ValueError) as error:
            raise BenchError(f"no answer to what was published: {error}") from error
        if not data:
            raise BenchError("the daemon closed a publisher's connection")
        for answer in answers:
            check(answer, 1)
        return bool(answers)
