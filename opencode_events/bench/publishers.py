"""Whoever posts: raw sockets, one keep-alive connection each, everything framed and counted.

`Pipelined` sends requests of one or more events with several unanswered at a time, `Streamed` one endless NDJSON
request, `Paced` one event every so often. Each runs for a time and returns what the daemon acknowledged; an answer
other than 200, or an acknowledgement of less than was sent, raises BenchError with the daemon's own words.
"""

import abc
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from opencode_events.bench.answers import Answer, AnswerParser
from opencode_events.bench.errors import BenchError
from opencode_events.bench.payload import EventMaker
from opencode_events.bench.target import Target

PUBLISH = "/global/event"
JSON = "Content-Type: application/json"
NDJSON = "Content-Type: application/x-ndjson"
ANSWER_S = 30.0
READ_BYTES = 65_536
LINES = 50  # events of one chunk of an NDJSON stream
HOLD_S = 0.001

Gate = Callable[[int], bool]  # given the number of events made: may more be made now?


@dataclass(frozen=True, kw_only=True)
class Published:
    """What one run of a publisher did: acknowledged events, requests, and seconds in which its gate held it back."""

    events: int
    requests: int
    held_s: float = 0.0


def always(made: int) -> bool:
    """Hold nobody back."""
    return True


class Publisher(abc.ABC):
    """A way of publishing, over one connection. A context manager: leaving it closes the connection."""

    def __init__(self, target: Target, maker: EventMaker) -> None:
        self.maker = maker
        self._target = target
        self._socket = target.connect(ANSWER_S)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._parser = AnswerParser()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @abc.abstractmethod
    def run(self, seconds: float, gate: Gate) -> Published:
        """Publish for `seconds` whenever `gate` allows it, then wait until everything is acknowledged."""

    def send(self, data: bytes) -> None:
        """Send all of it. If the daemon hangs up instead of reading, its last answer is the error."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            self.receive(accepted=0, wait_s=0.5)
            raise BenchError(f"the daemon stopped reading what is published: {error}") from error

    def receive(self, *, accepted: int, wait_s: float = ANSWER_S) -> int:
        """Return how many answers came within `wait_s` (the first ends the wait); each must have `accepted` so many."""
        if not self._poll.poll(wait_s * 1000):
            return 0
        try:
            data = self._socket.recv(READ_BYTES)
            answers = self._parser.feed(data)
        except (OSError, ValueError) as error:
            raise BenchError(f"no answer to what was published: {error}") from error
        for answer in answers:
            check(answer, accepted)
        if not data:
            raise BenchError("the daemon closed the publisher's connection")
        return len(answers)


def check(answer: Answer, accepted: int) -> None:
    """Raise BenchError unless `answer` acknowledges exactly `accepted` events."""
    if answer.status != 200:
        raise BenchError(f"publishing was answered {answer.status}: {answer.body[:500].decode(errors='replace')}")
    if answer.accepted() != accepted:
        body = answer.body[:500].decode(errors="replace")
        raise BenchError(f"of {accepted} events published, the daemon took {answer.accepted()}: {body}")


class Pipelined(Publisher):
    """Posts `batch` events a request (1: an object, more: an array), up to `in_flight` requests unanswered."""

    def __init__(self, target: Target, maker: EventMaker, *, batch: int = 1, in_flight: int = 8) -> None:
        super().__init__(target, maker)
        self._batch = batch
        self._in_flight = in_flight
        length = maker.size if batch == 1 else batch * (maker.size + 1) + 1
        self._head = target.request("POST", PUBLISH, JSON, f"Content-Length: {length}")

    def run(self, seconds: float, gate: Gate = always) -> Published:
        """Publish for `seconds`, then wait until everything is acknowledged."""
        deadline = time.monotonic() + seconds
        pending = answered = 0
        held_s = 0.0
        while True:
            is_over = time.monotonic() >= deadline
            if not is_over and pending < self._in_flight and gate(self.maker.made):
                count = self._in_flight - pending
                self.post(count)
                pending += count
            if pending:
                done = self._answers()
                pending -= done
                answered += done
            elif is_over:
                return Published(events=answered * self._batch, requests=answered, held_s=held_s)
            else:
                time.sleep(HOLD_S)
                held_s += HOLD_S

    def post(self, count: int = 1) -> None:
        """Send `count` requests, in one write, without waiting for an answer."""
        make = self.maker.make if self._batch == 1 else lambda: self.maker.make_array(self._batch)
        self.send(b"".join([self._head + make() for _ in range(count)]))

    def exchange(self) -> None:
        """Send one request and wait for its answer. Nothing else may be unanswered."""
        self.post()
        while not self._answers():
            pass  # part of an answer: `_answers` bounds the wait for the rest

    def _answers(self) -> int:
        """Wait for bytes from the daemon and return how many answers they complete."""
        if not self._poll.poll(ANSWER_S * 1000):
            raise BenchError(f"no answer to what was published within {ANSWER_S:g} s")
        return self.receive(accepted=self._batch, wait_s=0)


class Paced(Pipelined):
    """Posts one event every 1/`rate` seconds, whether the one before is answered or not."""

    def __init__(self, target: Target, maker: EventMaker, *, rate: float) -> None:
        super().__init__(target, maker)
        self._period_s = 1 / rate

    def run(self, seconds: float, gate: Gate = always) -> Published:
        """Publish for `seconds`, then wait until everything is acknowledged. Nothing holds the pace back."""
        return self.run_while(lambda elapsed_s: elapsed_s < seconds)

    def run_while(self, goes_on: Callable[[float], bool]) -> Published:
        """Publish until `goes_on`, asked before each event with the seconds since the first one, says no."""
        start = time.monotonic()
        posted = answered = 0
        while goes_on(posted * self._period_s):
            due = start + posted * self._period_s
            while (wait_s := due - time.monotonic()) > 0:
                answered += self.receive(accepted=1, wait_s=wait_s)
            self.post()
            posted += 1
        while answered < posted:
            answered += self._answers()
        return Published(events=answered, requests=answered)


class Streamed(Publisher):
    """Posts one request without end, of one NDJSON line per event; only its end is acknowledged."""

    def run(self, seconds: float, gate: Gate = always) -> Published:
        """Publish for `seconds`, then end the request and wait for the answer. An early answer can only be an error."""
        deadline = time.monotonic() + seconds
        first = self.maker.made
        held_s = 0.0
        size = (self.maker.size + 1) * LINES
        self.send(self._target.request("POST", PUBLISH, NDJSON, "Transfer-Encoding: chunked"))
        while time.monotonic() < deadline:
            if not gate(self.maker.made):
                time.sleep(HOLD_S)
                held_s += HOLD_S
                continue
            lines = b"\n".join([self.maker.make() for _ in range(LINES)])
            self.send(b"%x\r\n%s\n\r\n" % (size, lines))
            self.receive(accepted=-1, wait_s=0)
        self.send(b"0\r\n\r\n")
        events = self.maker.made - first
        waited_until = time.monotonic() + ANSWER_S
        while not self.receive(accepted=events, wait_s=1.0):
            if time.monotonic() > waited_until:
                raise BenchError(f"no answer to an NDJSON stream within {ANSWER_S:g} s of its end")
        return Published(events=events, requests=1, held_s=held_s)
