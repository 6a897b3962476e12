"""No subscriber, however broken, costs the publisher or another subscriber anything."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Client, Frame, Stream, dumps, envelope, until
from tests.servers import LOOPS, Daemon, Server

PAD = "x" * 1_000
# Beyond what the kernel takes for a connection that nobody reads, by thousands of events.
FLOOD = 16_000
BATCH = 1_000


def flood(client: Client, readers: list[Stream]) -> list[list[Frame]]:
    """Publish and read by turns; return what each reader got."""
    seen: list[list[Frame]] = [[] for _ in readers]
    for start in range(0, FLOOD, BATCH):
        client.publish(*(envelope(start + number, pad=PAD) for number in range(BATCH)))
        for frames, reader in zip(seen, readers, strict=True):
            frames += reader.events(BATCH)
    return seen


def assert_complete(frames: list[Frame]) -> None:
    assert [frame.event for frame in frames] == [f"evt_{number}" for number in range(FLOOD)]


@pytest.fixture
def curl(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[bytes]"]]:
    """Start curls on a stream; they have subscribed when the call returns."""
    running: list[subprocess.Popen[bytes]] = []

    def start(url: str) -> "subprocess.Popen[bytes]":
        path = tmp_path / f"curl{len(running)}"
        with path.open("wb") as output:
            running.append(
                subprocess.Popen(["curl", "-sN", "--noproxy", "*", url], stdout=output, stderr=subprocess.DEVNULL)
            )
        until(lambda: b"server.connected" in path.read_bytes())
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_stopped_curl_hurts_nobody(daemon: Daemon, curl: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    client = daemon.client
    stopped = curl(f"{daemon.url}/global/event")
    stopped.send_signal(signal.SIGSTOP)
    reader = client.subscribe()

    (seen,) = flood(client, [reader])

    assert_complete(seen)
    (handle, _) = client.subscribers()
    assert handle["is_parked"] is True
    assert handle["queued_events"] > 0 or handle["reason"] == "overflow_events"
    stopped.send_signal(signal.SIGCONT)
    until(lambda: not client.subscribers()[0]["is_parked"] or len(client.subscribers()) == 1)


def test_a_stopped_curl_does_not_slow_the_publisher(
    daemon: Daemon, curl: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    client = daemon.client

    def take() -> float:
        """Return the seconds that a hundred publishes take, one after the other."""
        best = float("inf")
        for _ in range(5):
            began = time.monotonic()
            for _ in range(20):
                client.publish(envelope(os.urandom(8).hex(), pad=PAD * 20))
            best = min(best, time.monotonic() - began)
        return best

    alone = take()
    for _ in range(3):
        curl(f"{daemon.url}/global/event").send_signal(signal.SIGSTOP)
    while not all(each["is_parked"] for each in client.subscribers()):
        client.publish(*(envelope(os.urandom(8).hex(), pad=PAD) for _ in range(BATCH)))
    beside_them = take()

    # Waiting for one that has stopped would take for ever; this leaves room for whatever else the machine does.
    assert beside_them < 5 * alone + 0.2


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("takeover", [True, False], ids=["taken over", "plain"])
def test_twenty_that_never_read_are_nobodys_business(serve: Callable[..., Server], takeover: bool) -> None:
    client = serve(takeover=takeover).client
    targets = ["/global/event", "/event?directory=/d", "/global/event?sync=none", "/global/event?end=abort"]
    for number in range(20):
        client.stall(targets[number % len(targets)])
    readers = [client.subscribe(target) for target in targets]

    seen = flood(client, readers)

    for frames in seen:
        assert_complete(frames)
    stalled = client.subscribers()[:20]
    assert all(each["is_parked"] for each in stalled)
    healthy = client.subscribers()[20:]
    assert [(each["state"], each["queued_events"]) for each in healthy] == [("live", 0)] * len(readers)
    assert client.status()["broker"]["held_bytes_peak"] < 64 * 1024 * 1024


def test_memory_stays_within_the_budget_whoever_stalls(start_daemon: Callable[..., Daemon]) -> None:
    """Twenty that want different things share no piece of what is held for them."""
    budget = 16 * 1024 * 1024
    daemon = start_daemon(budget_bytes=budget)
    client = daemon.client
    for number in range(20):
        client.stall(f"/global/event?session=ses_{number}&session=all")
    reader = client.subscribe()
    before = daemon.peak_kib()

    for start in range(0, FLOOD, BATCH):
        client.publish(*(envelope(start + number, sessionID="all", pad=PAD) for number in range(BATCH)))
        reader.events(BATCH)

    broker: dict[str, Any] = client.status()["broker"]
    assert broker["held_bytes"] <= budget
    assert broker["held_bytes_peak"] < budget + 8 * 1024 * 1024
    assert daemon.peak_kib() - before < 3 * budget // 1024
    assert reader.ended is None


def test_one_that_fails_inside_takes_nobody_with_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = server.client
    streams = [client.subscribe() for _ in range(3)]

    def broken(data: bytes) -> None:
        raise ValueError("broken")

    def spoil() -> None:
        server.broker.subscribers[2].direct = broken

    server.call(spoil)
    client.publish(envelope(1))

    assert [streams[0].frame().event, streams[2].frame().event] == ["evt_1", "evt_1"]
    assert streams[1].rest() == []
    assert streams[1].ended == "reset"
    until(lambda: len(client.subscribers()) == 2)
    assert [line["subscriber"] for line in server.lines if line["event"] == "subscriber.failed"] == [2]


def test_a_storm_of_subscribers_is_thinned_in_the_log(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(log_burst=10)

    for _ in range(500):
        daemon.client.subscribe().close()
    until(lambda: daemon.client.subscribers() == [])

    assert len(daemon.lines()) < 200


def test_nonsense_neither_fills_the_log_nor_puts_secrets_there(daemon: Daemon) -> None:
    for _ in range(100):
        sock = daemon.client.connect()
        sock.sendall(daemon.client.request("/global/event", "Authorization: Bearer secret\x01"))
        assert b" 400 Bad Request\r\n" in sock.recv(65_536)
        sock.close()

    assert daemon.client.post("/global/event", dumps(envelope(1))).status == 200
    written = daemon.errors() + str(daemon.lines())
    assert "secret" not in written
    assert written.count("Traceback") == 0
