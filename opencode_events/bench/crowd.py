"""The subscribers of one scenario, spread over forked reader processes, as the coordinator sees them.

Processes are forked rather than spawned: the readers need none of the command line's imports, and one shared page
of counters is all that the coordinator looks at while a measurement runs, so looking costs nobody a system call.
"""

import mmap
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from types import TracebackType

from opencode_events.bench.errors import BenchError
from opencode_events.bench.procfs import Process
from opencode_events.bench.readers import HANDSHAKES, Findings, Forget, Leave, Open, Order, Reply, Tell, serve
from opencode_events.bench.sequence import Position
from opencode_events.bench.target import Target

ANSWER_S = 10.0
CONNECT_S = 10.0  # for any number of subscribers; each of them adds CONNECT_EACH_S
CONNECT_EACH_S = 0.01
QUIET_S = 2.0
DRAIN_S = 30.0
LEAVE_S = 5.0
LOOK_S = 0.0005
SPARE_FILES = 64
COUNTERS = 3  # of 8 bytes, for each process; see Readers


def check_file_limit(needed: int) -> None:
    """Raise BenchError if a reader process, which lifts its soft limit to the hard one, may not open `needed` files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise BenchError(f"{needed} open files are needed, {hard} allowed (ulimit -Hn): use more --processes")


class Crowd:
    """Subscribers of one run in `processes` processes. A context manager: leaving it closes them all.

    `niceness` is how far the processes stand back for others on their core: see nice(2).
    """

    def __init__(self, target: Target, run: str, *, processes: int = 1, niceness: int = 0) -> None:
        self._opened = [0] * processes
        self._target = target
        self._map = mmap.mmap(-1, processes * COUNTERS * 8)
        self._counters = memoryview(self._map).cast("q")
        self._pipes: list[Connection] = []
        self._processes: list[ForkProcess] = []
        self._answer_by: float | None = None  # when `begin` must have been answered
        context = multiprocessing.get_context("fork")
        for number in range(processes):
            ours, theirs = context.Pipe()
            self._pipes.append(ours)
            counters = self._counters[number * COUNTERS : (number + 1) * COUNTERS]
            process = context.Process(
                target=serve,
                args=(run, theirs, counters, tuple(self._pipes)),
                kwargs={"niceness": niceness},
                daemon=True,
            )
            process.start()
            theirs.close()
            self._processes.append(process)

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, path: str, count: int, *, reads: bool = True, receive_buffer: int = 0, sampled: int = 10) -> None:
        """Connect `count` subscribers to `path` and return when each has its first frame.

        About `sampled` of them measure latency. Raise BenchError with the first reason if one is refused.
        """
        self.begin(path, count, reads=reads, receive_buffer=receive_buffer, sampled=sampled)
        while not self.is_open(ANSWER_S):
            pass

    def begin(
        self,
        path: str,
        count: int,
        *,
        reads: bool = True,
        receive_buffer: int = 0,
        sampled: int = 10,
        at_once: int = HANDSHAKES,
        leaves_at: int = 0,
    ) -> None:
        """Do as `open` does, but return at once; ask `is_open` before anything else that they answer.

        `at_once` are being connected at a time in each process; `leaves_at` is as in `readers.Open`.
        """
        shares = [count // len(self._pipes) + (i < count % len(self._pipes)) for i in range(len(self._pipes))]
        opened = [before + share for before, share in zip(self._opened, shares, strict=True)]
        check_file_limit(SPARE_FILES + max(all_ - gone for all_, gone in zip(opened, self._gone(), strict=True)))
        timeout_s = CONNECT_S + CONNECT_EACH_S * count
        orders = [
            Open(
                target=self._target,
                path=path,
                count=share,
                timeout_s=timeout_s,
                sampled_every=max(1, count // max(1, sampled)),
                reads=reads,
                receive_buffer=receive_buffer,
                at_once=at_once,
                leaves_at=leaves_at,
            )
            for share in shares
        ]
        self._tell(orders)
        self._answer_by = time.monotonic() + timeout_s + ANSWER_S
        self._opened = opened

    def is_open(self, wait_s: float = 0.0) -> bool:
        """Tell whether all of `begin` have their first frame, or have left; wait for it up to `wait_s`.

        Raise BenchError with the first reason if one was refused, or when it takes too long.
        """
        if self._answer_by is None:
            return True
        if not all(pipe.poll(wait_s) for pipe in self._pipes):
            if time.monotonic() > self._answer_by:
                raise BenchError("a reader process does not answer")
            return False
        self._answer_by = None
        for refusal in self._replies(ANSWER_S):
            if isinstance(refusal, str):
                raise BenchError(refusal)
        return True

    def leave(self) -> None:
        """Disconnect all; what they have seen counts in the findings, and others may be connected."""
        self._ask([Leave()] * len(self._pipes), ANSWER_S)
        self._opened = self._gone()

    def received(self) -> int:
        """Return how many events were delivered to all subscribers together so far."""
        return sum(self._counters[::COUNTERS])

    def ended(self) -> int:
        """Return how many streams the daemon has ended."""
        return sum(self._counters[1::COUNTERS])

    def left(self) -> int:
        """Return how many have left because they had come to their number."""
        return sum(self._counters[2::COUNTERS])

    def cpu_s(self) -> float:
        """Return the seconds of CPU time that the processes have used."""
        return sum(Process(process.pid).cpu_s() or 0.0 for process in self._processes)

    def wait_received(self, count: int) -> bool:
        """Wait until `count` events were delivered; tell whether they were.

        Give up after QUIET_S seconds without a delivery, after DRAIN_S seconds, or when a stream has ended.
        """
        moved_at = start = time.monotonic()
        last = -1
        while (received := self.received()) < count:
            now = time.monotonic()
            if received != last:
                last, moved_at = received, now
            if self.ended() or now - moved_at > QUIET_S or now - start > DRAIN_S:
                return False
            time.sleep(LOOK_S)
        return True

    def forget_latencies(self) -> None:
        """Start the latencies afresh: what was warm-up does not count."""
        self._ask([Forget()] * len(self._pipes), ANSWER_S)

    def findings(self) -> Findings:
        """Return what the subscribers of all processes have seen."""
        replies = self._ask([Tell()] * len(self._pipes), ANSWER_S)
        parts = [reply for reply in replies if isinstance(reply, Findings)]
        positions: Counter[Position] = Counter()
        for part in parts:
            positions += part.positions
        return Findings(
            positions=positions,
            latencies=sorted(latency for part in parts for latency in part.latencies),
            ended=sum(part.ended for part in parts),
            lagging=sum(part.lagging for part in parts),
            reasons=tuple(reason for part in parts for reason in part.reasons),
        )

    def close(self) -> None:
        """Close all connections and end the processes, by force after a few seconds. May be called again."""
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + LEAVE_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes.clear()
        self._processes.clear()

    def _gone(self) -> list[int]:
        """Return how many were ended or have left, of each process."""
        pairs = zip(self._counters[1::COUNTERS], self._counters[2::COUNTERS], strict=True)
        return [ended + left for ended, left in pairs]

    def _ask(self, orders: Sequence[Order], timeout_s: float) -> list[Reply]:
        """Give each process its order and return all replies."""
        self._tell(orders)
        return self._replies(timeout_s)

    def _tell(self, orders: Sequence[Order]) -> None:
        """Give each process its order."""
        try:
            for pipe, order in zip(self._pipes, orders, strict=True):
                pipe.send(order)
        except OSError as error:
            raise BenchError("a reader process died") from error

    def _replies(self, timeout_s: float) -> list[Reply]:
        """Return what each process answers to its order."""
        deadline = time.monotonic() + timeout_s
        replies: list[Reply] = []
        try:
            for pipe in self._pipes:
                if not pipe.poll(max(0.0, deadline - time.monotonic())):
                    raise BenchError(f"a reader process did not answer within {timeout_s:g} s")
                replies.append(pipe.recv())
        except (EOFError, OSError) as error:
            raise BenchError("a reader process died") from error
        return replies
