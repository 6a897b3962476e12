"""Our daemon beside nchan, Redis pub/sub and a C loop of send(): deliveries per second of the server's CPU time.

    python -m tests.peers.compare --subscribers 100 1000

N subscribers each get every event of one connection that publishes one 200-byte event a request, 8 of them in flight.
The server has one core; subscribers and publisher, in this process, have another. All servers are measured in one run,
because the same one differs by a fifth and more from hour to hour. Ours stores every event; Redis and the C loop speak
no HTTP. A server that is not installed has a row that says so.
"""

import argparse
import dataclasses
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from opencode_events.bench.payload import EventMaker, new_run
from opencode_events.bench.procfs import Process
from tests.peers.servers import EVENT_BYTES, PEERS, START_S, Peer, PeerError, last_words, stop

IN_FLIGHT = 8
# Events that the subscribers may be behind, on average: less than the kernel's buffers of a connection hold.
MAX_BEHIND = 400
WARM_UP_S = 1.0
QUIET_S = 0.3  # so long without a byte: the servers have said their welcome
DRAIN_S = 20.0

# Stands in each event once (in its directory), and nowhere in what servers send around events. One byte cannot be cut
# in two by recv().
MARK = b"~"

HEADINGS = ("server", "N", "events", "deliveries/CPU s", "deliveries/s", "lost")
LINE = "{:<7} {:>6} {:>8} {:>17} {:>13} {:>5}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What one server did for `subscribers` subscribers; `note` tells why there are no figures."""

    server: str
    subscribers: int
    events: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    deliveries_per_cpu_s: float = 0.0
    deliveries_per_s: float = 0.0
    lost: int = 0
    note: str | None = None

    def __str__(self) -> str:
        if self.note is not None:
            return f"{self.server:<7} {self.subscribers:>6} {self.note}"
        rates = f"{self.deliveries_per_cpu_s:,.0f}", f"{self.deliveries_per_s:,.0f}"
        return LINE.format(self.server, self.subscribers, self.events, *rates, self.lost)


class Crowd:
    """The subscribers and the publisher of one server, on bare sockets. A context manager, which closes them."""

    def __init__(self, peer: Peer, port: int, subscribers: int) -> None:
        self.sent = 0
        self._peer = peer
        self._maker = EventMaker(new_run(), directory="/" + MARK.decode(), size=EVENT_BYTES)
        self._buffer = bytearray(1 << 20)
        self._epoll = select.epoll()
        self._open: list[socket.socket | select.epoll] = [self._epoll]
        self._readers: dict[int, socket.socket] = {}
        self._got: dict[int, int] = {}  # events, by descriptor as well
        self._total = 0
        self._accepted = 0
        self._tail = b""  # of the publisher's answers: the beginning of one that is not complete
        try:
            for _ in range(subscribers):
                reader = self._connect(port)
                reader.sendall(peer.subscribe)
                self._readers[reader.fileno()] = reader
            self._got = dict.fromkeys(self._readers, 0)
            self._welcome()
            self._publisher = self._connect(port)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for each in self._open:
            each.close()

    def run(self, seconds: float) -> None:
        """Publish for `seconds`, then wait until everything has arrived; not for ever."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._publish()
            self._read(0.01)
        deadline = time.monotonic() + DRAIN_S
        while (self._accepted < self.sent or self.wrong) and time.monotonic() < deadline:
            self._read(0.01)

    @property
    def wrong(self) -> int:
        """How many deliveries are missing, or too many."""
        return sum(abs(self.sent - got) for got in self._got.values())

    def _connect(self, port: int) -> socket.socket:
        """Connect, and wait for a server that does not listen yet."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", port), START_S)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                connection.setblocking(False)
                self._open.append(connection)
                self._epoll.register(connection, select.EPOLLIN)
                return connection

    def _welcome(self) -> None:
        """Read what comes before the first event, until each subscriber had something and no more comes."""
        silent = set(self._readers)
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            ready = self._epoll.poll(QUIET_S)
            if not ready and not silent:
                return
            for descriptor, _ in ready:
                self._receive(descriptor)
                silent.discard(descriptor)
        raise PeerError(f"{len(silent)} subscribers were not answered")

    def _publish(self) -> None:
        """Send what may be in flight. It fits into the socket's buffer, so sendall() has no reason to wait."""
        behind = self._total < (self.sent - MAX_BEHIND) * len(self._readers)
        while not behind and self.sent - self._accepted < IN_FLIGHT:
            self._publisher.sendall(self._peer.publish(self._maker.make()))
            self.sent += 1

    def _read(self, timeout_s: float) -> None:
        for descriptor, _ in self._epoll.poll(timeout_s):
            if descriptor in self._readers:
                events = self._buffer.count(MARK, 0, self._receive(descriptor))
                self._got[descriptor] += events
                self._total += events
            else:
                self._take_answers()

    def _receive(self, descriptor: int) -> int:
        """Read into the buffer, and return how many bytes."""
        size = self._readers[descriptor].recv_into(self._buffer)
        if size == 0:
            raise PeerError(f"ended a subscriber after {self._got[descriptor]} events")
        return size

    def _take_answers(self) -> None:
        data = self._publisher.recv(1 << 16)
        if not data:
            raise PeerError(f"ended the publisher after {self._accepted} events")
        answers = self._tail + data
        self._accepted += answers.count(self._peer.accepted)
        self._tail = answers[len(answers) - len(self._peer.accepted) + 1 :]


def measure(name: str, subscribers: int, seconds: float, cores: tuple[int, int]) -> Row:
    """Start a server on the first of `cores`, measure it from the second, and end it."""
    peer = PEERS[name]
    if not peer.is_installed():
        return Row(server=name, subscribers=subscribers, note="not installed")
    process: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        try:
            os.sched_setaffinity(0, {cores[0]})  # inherited by the server and all its threads
            process, port = peer.start(Path(folder), subscribers)
            os.sched_setaffinity(0, {cores[1]})
            with Crowd(peer, port, subscribers) as crowd:
                crowd.run(WARM_UP_S)
                return _sample(name, crowd, subscribers, seconds, Process(process.pid))
        except (PeerError, OSError, subprocess.CalledProcessError) as error:
            said = last_words(Path(folder)) if process is None or process.poll() is not None else ""
            return Row(server=name, subscribers=subscribers, note=f"failed: {error}{said and f'; it said: {said}'}")
        finally:
            if process is not None:
                stop(process)


def _sample(name: str, crowd: Crowd, subscribers: int, seconds: float, server: Process) -> Row:
    before, sent, started = server.cpu_s(), crowd.sent, time.monotonic()
    crowd.run(seconds)
    wall_s, after, events = time.monotonic() - started, server.cpu_s(), crowd.sent - sent
    if before is None or after is None or after == before:
        raise PeerError("used no CPU time that can be seen")
    deliveries = events * subscribers
    return Row(
        server=name,
        subscribers=subscribers,
        events=events,
        cpu_s=after - before,
        wall_s=wall_s,
        deliveries_per_cpu_s=deliveries / (after - before),
        deliveries_per_s=deliveries / wall_s,
        lost=crowd.wrong,
    )


def main() -> int:
    """Return 1 if a server failed or lost something."""
    parser = argparse.ArgumentParser(description="Compare the fan-out of our daemon with that of others.")
    parser.add_argument("--subscribers", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long to publish to each server (default: 4)")
    parser.add_argument("--servers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--json", action="store_true", help="write JSON instead of a table")
    options = parser.parse_args()
    if min(options.subscribers) < 1 or options.seconds <= 0:
        parser.error("--subscribers and --seconds must be positive")

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `finally`
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # inherited by the servers
    available = sorted(os.sched_getaffinity(0))
    rows = []
    if not options.json:
        print(LINE.format(*HEADINGS))
    for subscribers in options.subscribers:
        for name in options.servers:
            rows.append(measure(name, subscribers, options.seconds, (available[-1], available[0])))
            if not options.json:
                print(rows[-1], flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    return int(any(row.lost or (row.note or "").startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
