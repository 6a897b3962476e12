"""Subscribers by the hundred: one forked process that reads their sockets by epoll, and does what it is told.

No HTTP library, no event loop, no object per event: what a read means is looked up in the run's `Trail`. The
process obeys one pipe. It answers each order there, counts deliveries in memory shared with the coordinator, and
leaves when the pipe is closed, whatever became of the process at its other end.
"""

import os
import resource
import select
import signal
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from opencode_events.bench.sample import Sample
from opencode_events.bench.sequence import Position
from opencode_events.bench.target import Target
from opencode_events.bench.trail import CLOSING, CONNECTED, EXPIRED, LAGGING, REFUSED, BrokenFrame, Cut, Trail

BUFFER_BYTES = 262_144  # one read: a whole segment of the daemon's
EVENTS = 4_096  # sockets taken from one epoll_wait
HANDSHAKES = 64  # connections being opened at a time: a sane pace, far below the daemon's listen backlog
REASONS = 10  # why streams ended: more of them say the same
# Close by RST, so that thousands of ports need not sit in TIME_WAIT.
RESET_ON_CLOSE = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@dataclass(frozen=True, kw_only=True)
class Open:
    """Order: connect `count` subscribers to `path`, within `timeout_s`. One in `sampled_every` measures latency.

    Subscribers with `reads` False never read a byte; `receive_buffer` is their SO_RCVBUF in bytes, 0 the system's.
    At most `at_once` are being connected at a time. One that has come to the number `leaves_at` disconnects, 0: nobody.
    """

    target: Target
    path: str
    count: int
    timeout_s: float
    sampled_every: int = 1
    reads: bool = True
    receive_buffer: int = 0
    at_once: int = HANDSHAKES
    leaves_at: int = 0


@dataclass(frozen=True)
class Leave:
    """Order: disconnect all subscribers. What they have seen counts in the findings."""


@dataclass(frozen=True)
class Forget:
    """Order: drop the latencies measured so far."""


@dataclass(frozen=True)
class Tell:
    """Order: answer with a `Findings`."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a process' subscribers have seen: how many stand at which position, and the sampled latencies in ns."""

    positions: Counter[Position] = field(default_factory=Counter)
    latencies: list[int] = field(default_factory=list)
    ended: int = 0
    lagging: int = 0
    reasons: tuple[str, ...] = ()


Order = Open | Leave | Forget | Tell
Reply = Findings | str | None  # None: done; a text: why it was not


class Subscriber:
    """One connection and where it stands."""

    __slots__ = ("cut", "is_sampled", "leaves_at", "recv_into", "sock")

    def __init__(self, sock: socket.socket, cut: Cut, *, is_sampled: bool, leaves_at: int) -> None:
        self.sock = sock
        self.recv_into = sock.recv_into
        self.cut = cut
        self.is_sampled = is_sampled
        self.leaves_at = leaves_at


class Readers:
    """The subscribers of one process. `counters` is shared.

    [0] are deliveries of `run`, [1] streams that the daemon ended, [2] subscribers that left at their number.
    """

    def __init__(self, run: str, counters: memoryview) -> None:
        self._counters = counters
        self._epoll = select.epoll()
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._subscribers: dict[int, Subscriber] = {}
        self._mute: dict[int, socket.socket] = {}
        self._trail = Trail(run)
        self._sample = Sample()
        self._connected = 0
        self._lagging = 0
        self._positions: Counter[Position] = Counter()  # of subscribers that are gone
        self._reasons: list[str] = []

    def turn(self, timeout_s: float) -> bool:
        """Read once from each socket that has something, waiting up to `timeout_s`; tell whether an order is there."""
        buffer, subscribers, sample = self._buffer, self._subscribers, self._sample
        received, ordered = 0, False
        for fd, _ in self._epoll.poll(timeout_s, EVENTS):
            subscriber = subscribers.get(fd)
            if subscriber is None:
                ordered = not self._greet_mute(fd) or ordered
                continue
            try:
                size = subscriber.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError as error:
                self._end(fd, str(error))
                continue
            cut = subscriber.cut
            step = cut.steps.get(size)
            if step is None or not buffer.startswith(step.data):
                if not size:
                    self._end(fd, "the daemon ended the stream")
                    continue
                try:
                    step = self._trail.read(cut, bytes(self._view[:size]))
                except BrokenFrame as error:
                    self._end(fd, str(error))
                    continue
            subscriber.cut = step.then
            received += step.count
            if step.news:
                self._hear(fd, step.news)
            if subscriber.is_sampled and step.count:
                now = time.monotonic_ns()
                for sent in step.sent:
                    sample.add(now - sent)
            if 0 < subscriber.leaves_at <= step.then.position.due:
                self._take_leave(fd)
                self._counters[2] += 1
        self._counters[0] += received
        return ordered

    def watch(self, pipe: Connection) -> None:
        """Let `turn` tell when `pipe` has an order."""
        self._epoll.register(pipe.fileno(), select.EPOLLIN)

    def obey(self, order: Order) -> Reply:
        """Do what is ordered."""
        if isinstance(order, Open):
            return self._open(order)
        if isinstance(order, Leave):
            for fd in (*self._subscribers, *self._mute):
                self._take_leave(fd)
            return None
        if isinstance(order, Forget):
            self._sample.clear()
            return None
        positions = self._positions + Counter(subscriber.cut.position for subscriber in self._subscribers.values())
        return Findings(
            positions=positions,
            latencies=self._sample.values,
            ended=self._counters[1],
            lagging=self._lagging,
            reasons=tuple(self._reasons),
        )

    def close(self) -> None:
        """Close every connection, by RST."""
        self.obey(Leave())
        self._epoll.close()

    def _open(self, order: Open) -> str | None:
        """Connect the subscribers of an order; those that are there already are read meanwhile."""
        request = order.target.request("GET", order.path, "Accept: text/event-stream", "Cache-Control: no-cache")
        deadline = time.monotonic() + order.timeout_s
        self._connected = started = 0
        while self._connected < order.count:
            while started < order.count and started - self._connected < order.at_once:
                try:
                    self._connect(order, request, is_sampled=started % order.sampled_every == 0)
                except OSError as error:
                    return f"subscriber {started + 1} cannot connect: {error}"
                started += 1
            self.turn(0.1)
            if self._counters[1]:
                return f"subscriber {self._connected + 1}: {self._reasons[0]}"
            if time.monotonic() > deadline:
                return f"{self._connected} of {order.count} subscribers connected in {order.timeout_s:g} s"
        return None

    def _connect(self, order: Open, request: bytes, *, is_sampled: bool) -> None:
        sock = socket.socket(order.target.family, socket.SOCK_STREAM)
        try:
            if order.receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, order.receive_buffer)
            sock.settimeout(order.timeout_s)
            sock.connect(order.target.address)
            sock.sendall(request)
            sock.setblocking(False)
        except OSError:
            sock.close()
            raise
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        if order.reads:
            self._subscribers[sock.fileno()] = Subscriber(
                sock, self._trail.start(), is_sampled=is_sampled, leaves_at=order.leaves_at
            )
        else:
            self._mute[sock.fileno()] = sock

    def _greet_mute(self, fd: int) -> bool:
        """Take note that one who never reads has something to read, which is all it will do; False if it is nobody."""
        if fd not in self._mute:
            return False
        self._epoll.unregister(fd)
        self._connected += 1
        return True

    def _hear(self, fd: int, news: tuple[str, ...]) -> None:
        if news[0] == REFUSED:
            self._end(fd, news[1])
            return
        self._connected += news.count(CONNECTED)
        self._lagging += news.count(LAGGING)
        if CLOSING in news:
            self._note("the daemon closed the stream (server.stream.closing)")
        if EXPIRED in news:
            self._note("the daemon could not resume after the cursor (server.stream.expired)")

    def _take_leave(self, fd: int) -> None:
        """Disconnect one, by RST; what a reader has seen stays known."""
        subscriber = self._subscribers.pop(fd, None)
        if subscriber is not None:
            self._positions[subscriber.cut.position] += 1
        sock = self._mute.pop(fd) if subscriber is None else subscriber.sock
        sock.setsockopt(*RESET_ON_CLOSE)
        sock.close()

    def _end(self, fd: int, reason: str) -> None:
        subscriber = self._subscribers.pop(fd)
        subscriber.sock.close()
        self._positions[subscriber.cut.position] += 1
        self._note(reason)
        self._counters[1] += 1

    def _note(self, reason: str) -> None:
        if len(self._reasons) < REASONS:
            self._reasons.append(reason)


def serve(run: str, pipe: Connection, counters: memoryview, foreign: tuple[Connection, ...], *, niceness: int) -> None:
    """Be a reader process: read and obey until the other end of `pipe` is closed. `foreign` are ends to let go of.

    Each order is answered once. Ctrl-C is left to the coordinator, whose going away closes the pipe.
    `niceness` is how far it stands back for others on its core: see nice(2).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.nice(niceness)
    for end in foreign:
        end.close()
    readers = Readers(run, counters)
    readers.watch(pipe)
    try:
        while True:
            if readers.turn(1.0):
                pipe.send(readers.obey(pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    finally:
        readers.close()
        pipe.close()
