"""What the shield costs: CPU of each relayed event, and what passing through adds to a request, in one run.

    python -m tests.peers.shield --rate 1300

A stand-in for the real server says recorded events to the shield, which has a core to itself and `--subscribers` curls;
then the same small request is sent, and the same large answer read, bare and through the shield.
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from opencode_events import statedir
from opencode_events.bench.procfs import Process
from tests.peers.servers import START_S, PeerError, stop

PIECE_BYTES = 1024 * 1024


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def stand(rate: float, seconds: float) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run the stand-in, and give its process and port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.peers.upstream", str(port), str(rate), str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process, port
        finally:
            process.kill()


@contextlib.contextmanager
def shield(upstream: int, folder: Path, core: int) -> Iterator[tuple[int, int]]:
    """Run the shield on a core of its own, and give its pid and port."""
    state = folder / "state"
    command = [
        *("taskset", "--cpu-list", str(core), sys.executable, "-m", "opencode_events", "run", "--port", "0"),
        *("--state-dir", str(state), "--upstream", f"http://127.0.0.1:{upstream}"),
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while (info := statedir.read(state)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerError("the shield did not start")
            time.sleep(0.02)
        port = urlsplit(info.url).port
        assert port is not None
        yield process.pid, port
    finally:
        stop(process)


def relayed(pid: int, port: int, server: "subprocess.Popen[str]", subscribers: int, seconds: float) -> None:
    """Have the flood begin, and say what each of its events cost."""
    curl = ["curl", "--silent", "--no-buffer", "--output", os.devnull, f"http://127.0.0.1:{port}/global/event"]
    curls = [subprocess.Popen(curl) for _ in range(subscribers)]
    try:
        time.sleep(1)
        process = Process(pid)
        before = process.cpu_s()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("begin\n")
        server.stdin.flush()
        said = int(server.stdout.readline())
        time.sleep(0.5)
        after = process.cpu_s()
        assert before is not None
        assert after is not None
        cost = after - before
        print(f"relay: {said} events to {subscribers} subscribers in {seconds:g} s: ", end="")
        print(f"{cost / said * 1e6:.1f} us of CPU an event, {cost / seconds:.1%} of a core")
    finally:
        for each in curls:
            each.send_signal(signal.SIGKILL)
            each.wait()


def small(port: int, count: int) -> float:
    """Return the median time of a small request on one connection, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        connection.request("GET", "/path")
        connection.getresponse().read()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def large(port: int, mib: int) -> float:
    """Return how many MB/s of a large answer arrive."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"/large/{mib}")
    response, buffer, got, began = connection.getresponse(), bytearray(PIECE_BYTES), 0, time.perf_counter()
    while count := response.readinto(buffer):
        got += count
    assert got == mib * PIECE_BYTES
    return got / (time.perf_counter() - began) / 1e6


def copied(mib: int) -> float:
    """Return how many MB/s a plain copy over the loopback has: what no server here can pass."""
    listener = socket.create_server(("127.0.0.1", 0))
    left, right = socket.create_connection(listener.getsockname()), listener.accept()[0]
    if os.fork() == 0:
        piece = bytes(PIECE_BYTES)
        for _ in range(mib):
            left.sendall(piece)
        os._exit(0)
    buffer, got, began = bytearray(PIECE_BYTES), 0, time.perf_counter()
    left.close()
    while count := right.recv_into(buffer):
        got += count
    os.wait()
    return got / (time.perf_counter() - began) / 1e6


def alternately(measure: Callable[[int], float], bare: int, through: int, rounds: int = 3) -> tuple[float, float]:
    """Return the medians of both, measured in turns, because machines drift."""
    pairs = [(measure(bare), measure(through)) for _ in range(rounds)]
    return statistics.median(one for one, _ in pairs), statistics.median(other for _, other in pairs)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1300.0, help="events a second (default: the real server's most)")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--subscribers", type=int, default=10)
    parser.add_argument("--mib", type=int, default=1024, help="size of the large answer")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1]) or set(cores))
    with (
        tempfile.TemporaryDirectory() as folder,
        stand(options.rate, options.seconds) as (server, upstream),
        shield(upstream, Path(folder), cores[-1]) as (pid, port),
    ):
        relayed(pid, port, server, options.subscribers, options.seconds)
        bare, through = alternately(lambda at: small(at, 1000), upstream, port)
        print(
            f"small request: {bare * 1e3:.3f} ms bare, {through * 1e3:.3f} ms through: +{(through - bare) * 1e3:.3f} ms"
        )
        bare, through = alternately(lambda at: large(at, options.mib), upstream, port)
        print(
            f"large answer: {bare:.0f} MB/s bare, {through:.0f} MB/s through; a plain copy: {copied(options.mib):.0f}"
        )


if __name__ == "__main__":
    main()
