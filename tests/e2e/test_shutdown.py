"""How a daemon ends: asked to, asked twice, or killed; and what the next one on the same state directory knows."""

import json
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.clients import NDJSON, Client, Stream, dumps, envelope, parse_head, payload, until
from tests.servers import LOOPS, Daemon, Server

StartDaemon = Callable[..., Daemon]

PAD = "x" * 1_000
INFO = "daemon.json"


def stored(log: Path) -> list[tuple[int, str]]:
    """Return position and id of what stands in a log's file."""
    with closing(sqlite3.connect(f"file:{log}?mode=ro", uri=True)) as opened:
        return opened.execute("SELECT position, id FROM event ORDER BY position").fetchall()


def stall(client: Client) -> Stream:
    """Return a subscriber for whom the daemon holds more than the kernel takes."""
    stream = client.stall()
    published = 0
    while not client.subscribers()[-1]["queued_events"]:
        client.publish(*(envelope(f"fill{published}_{number}", pad=PAD) for number in range(1_000)))
        published += 1
    return stream


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("options", [{}, {"takeover": False}, {"uvloop": False}], ids=["", "plain path", "asyncio"])
def test_subscribers_are_told_and_ended_cleanly(
    start_daemon: StartDaemon, number: signal.Signals, options: dict[str, bool]
) -> None:
    daemon = start_daemon(**options)
    client = daemon.client
    streams = [
        client.subscribe(),
        client.subscribe("/event?directory=/d", f"Accept: {NDJSON}"),
        client.subscribe("/global/event?types=nothing"),
    ]
    cut = client.subscribe("/global/event?types=nothing&end=abort")
    last = client.publish(envelope(1), envelope(2))["last"]
    streams[0].frames(2)
    streams[1].frames(2)

    daemon.signal(number)

    for stream in (*streams, cut):
        (closing_frame,) = stream.rest()
        assert closing_frame.type == "server.stream.closing"
        assert closing_frame.properties["reason"] == "shutdown"
        assert stream.ended == ("clean" if stream is not cut else "cut")
        if stream in streams[:2]:
            assert closing_frame.properties["cursor"] == last
    assert daemon.wait() == 0
    assert not (daemon.state_dir / INFO).exists()
    lines = daemon.lines()
    assert [line["event"] for line in lines if line["event"].startswith("daemon.")] == [
        "daemon.started", "daemon.stopping", "daemon.stopped",
    ]  # fmt: skip
    assert sum(line["event"] == "subscriber.closed" for line in lines) == 4
    assert daemon.errors().count("\n") == 2  # where it listens; nothing else


def test_what_is_buffered_is_read_before_the_end(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(drain_s=30)
    stream = stall(daemon.client)
    head = daemon.client.status()["broker"]["head"]

    daemon.signal(signal.SIGTERM)
    frames = stream.rest()

    assert stream.ended == "clean"
    assert frames[-1].properties == {"reason": "shutdown", "cursor": head}
    events = [frame for frame in frames if not frame.is_control]
    assert len(events) == int(head.split("-")[1])
    assert events[-1].id == head
    assert daemon.wait() == 0


def test_who_does_not_read_is_not_waited_for_beyond_the_limit(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(drain_s=2)
    client = daemon.client
    stalled = stall(client)
    reader = client.subscribe()

    began = time.monotonic()
    daemon.signal(signal.SIGTERM)
    assert [frame.type for frame in reader.rest()] == ["server.stream.closing"]
    told = time.monotonic() - began
    assert daemon.wait() == 0
    took = time.monotonic() - began

    assert told < 1.8
    assert 1.9 < took < 6
    assert stalled.drain() == "reset"
    (line,) = [line for line in daemon.lines() if line.get("subscriber") == 1 and line["event"] == "subscriber.closed"]
    assert line["reason"] == "shutdown"


def test_a_second_signal_ends_it_at_once(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(drain_s=60)
    stalled = stall(daemon.client)

    daemon.signal(signal.SIGTERM)
    until(lambda: any(line["event"] == "daemon.stopping" for line in daemon.lines()))
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    assert time.monotonic() - began < 5
    assert stalled.drain() == "reset"
    assert not (daemon.state_dir / INFO).exists()


def test_who_comes_meanwhile_is_told_to_come_again_and_where_to_go_on(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(drain_s=60)
    client = daemon.client
    client.publish(envelope(1))
    stall(client)
    kept = client.connect()
    kept.sendall(client.request("/global/health"))
    assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")

    daemon.signal(signal.SIGTERM)
    until(lambda: any(line["event"] == "daemon.stopping" for line in daemon.lines()))
    kept.sendall(client.request("/global/event?after=earliest"))

    stream = Stream(kept)
    assert stream.read_head().status == 200
    connected, last = stream.rest()
    assert (connected.type, last.type) == ("server.connected", "server.stream.closing")
    assert last.properties == {"reason": "shutdown", "cursor": connected.id}
    with pytest.raises(ConnectionError):
        client.connect()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_who_keeps_a_connection_open_is_answered_and_sent_away(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(drain_s=60)
    client = daemon.client
    stall(client)
    kept = client.connect()
    kept.sendall(client.request("/global/health"))
    assert b"Connection: close" not in kept.recv(65_536)

    daemon.signal(signal.SIGTERM)
    until(lambda: any(line["event"] == "daemon.stopping" for line in daemon.lines()))
    kept.sendall(client.request("/-/ready"))

    raw, _, _ = kept.recv(65_536).partition(b"\r\n\r\n")
    head = parse_head(raw)
    assert (head.status, head["Connection"]) == (503, "close")
    assert kept.recv(1) == b""
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0


@pytest.mark.parametrize("uvloop", [False, True])
def test_publishers_in_the_middle_of_a_stream_do_not_hold_it_up_and_are_told(
    start_daemon: StartDaemon, uvloop: bool
) -> None:
    daemon = start_daemon(uvloop=uvloop)
    client = daemon.client
    sock = client.connect()
    sock.sendall(client.request("/global/event", f"Content-Type: {NDJSON}", "Content-Length: 99999", method="POST"))
    sock.sendall(dumps(envelope(1)) + b"\n")
    until(lambda: stored(daemon.log_path))

    began = time.monotonic()
    daemon.signal(signal.SIGTERM)

    raw, _, body = sock.recv(65_536).partition(b"\r\n\r\n")
    head = parse_head(raw)
    assert (head.status, head["Retry-After"]) == (503, "1")
    assert b'"accepted":1' in body
    assert daemon.wait() == 0
    assert time.monotonic() - began < 5
    assert stored(daemon.log_path) == [(1, "evt_1")]
    assert not [line for line in daemon.lines() if line["event"] == "library.complained"]


def test_a_publisher_that_goes_on_sending_is_told_too(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    client = daemon.client
    sock = client.connect()
    sock.sendall(client.request("/global/event", f"Content-Type: {NDJSON}", "Content-Length: 99999999", method="POST"))
    over = threading.Event()

    def send() -> None:
        number = 0
        while not over.is_set():
            number += 1
            try:
                sock.sendall(dumps(envelope(number)) + b"\n")
            except OSError:
                return

    sender = threading.Thread(target=send)
    sender.start()
    until(lambda: len(stored(daemon.log_path)) > 10)
    daemon.signal(signal.SIGTERM)

    try:
        raw, _, body = sock.recv(65_536).partition(b"\r\n\r\n")
        assert parse_head(raw).status == 503
        accepted = json.loads(body)["accepted"]
    finally:
        over.set()
        sender.join()
    assert daemon.wait() == 0
    assert accepted == len(stored(daemon.log_path))


def test_under_load_every_event_that_was_acknowledged_is_in_the_log(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    reader = daemon.client.subscribe()
    acknowledged: list[str] = []

    def publish(name: str) -> None:
        own = Client(daemon.url)
        number = 0
        try:
            while own.post("/global/event", dumps(envelope(f"{name}{number}"))).status == 200:
                acknowledged.append(f"evt_{name}{number}")
                number += 1
        except OSError:
            pass

    threads = [threading.Thread(target=publish, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    until(lambda: len(acknowledged) > 200)
    daemon.signal(signal.SIGTERM)
    for thread in threads:
        thread.join()

    assert daemon.wait() == 0
    found = [event for _, event in stored(daemon.log_path)]
    seen = [frame.event for frame in reader.rest() if not frame.is_control]
    assert set(acknowledged) <= set(found)
    assert seen == found
    assert reader.ended == "clean"


# --- the next one


def test_after_a_kill_everything_acknowledged_is_there_and_positions_go_on(start_daemon: StartDaemon) -> None:
    first = start_daemon()
    stream = first.client.subscribe()
    receipt = first.client.publish(*(envelope(number) for number in range(1_000)))
    assert receipt["accepted"] == 1_000
    stream.events(1_000)
    last = first.client.post("/event?directory=/d", dumps(payload("x"))).json["last"]

    first.kill()
    assert len(stream.rest()) <= 1
    assert stream.ended == "cut"
    second = start_daemon()

    assert [event for _, event in stored(second.log_path)] == [
        *(f"evt_{number}" for number in range(1_000)), "evt_x",
    ]  # fmt: skip
    resumed = second.client.subscribe("/global/event", f"Last-Event-ID: {last}")
    assert resumed.connected is not None
    assert resumed.connected.properties["resumed"] is True
    again = second.client.publish(envelope(0), envelope("new"))
    assert (again["accepted"], again["duplicates"]) == (1, 1)
    old, new = (cursor.split("-") for cursor in (last, again["last"]))
    assert int(new[1]) == int(old[1]) + 1
    assert new[0] != old[0]
    assert [frame.type for frame in resumed.frames(1)] == ["server.stream.live"]
    assert resumed.frame().id == again["last"]


def test_a_cursor_of_an_earlier_run_stays_good(start_daemon: StartDaemon) -> None:
    first = start_daemon()
    oldest = first.client.publish(envelope(1))["last"]
    last = first.client.publish(envelope(2))["last"]
    assert first.stop() == 0
    second = start_daemon()

    fresh, resumed, behind, beyond = (
        second.client.subscribe("/global/event", *fields)
        for fields in ((), (f"Last-Event-ID: {last}",), (f"Last-Event-ID: {oldest}",), (f"Last-Event-ID: {last}0",))
    )

    assert fresh.connected is not None
    assert fresh.connected.id == second.client.status()["broker"]["head"]
    assert resumed.connected is not None
    assert resumed.connected.properties["resumed"] is True
    missed, live = behind.frames(2)
    assert (missed.event, missed.id) == ("evt_2", last)
    assert live.properties == {"replayed": 1}
    assert resumed.frame().properties == {"replayed": 0}
    assert beyond.frame().properties["reason"] == "epoch"


def test_after_a_backup_is_restored_no_cursor_means_another_event(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon, backup = start_daemon(), tmp_path / "backup"
    kept = daemon.client.publish(*(envelope(number) for number in range(10)))["last"]
    assert daemon.stop() == 0
    shutil.copyfile(daemon.log_path, backup)
    daemon = start_daemon()
    lost = [daemon.client.publish(envelope(f"lost{number}"))["last"] for number in range(5)]
    daemon.kill()
    for suffix in ("", "-wal", "-shm"):
        daemon.log_path.with_name(daemon.log_path.name + suffix).unlink(missing_ok=True)
    shutil.copyfile(backup, daemon.log_path)

    daemon = start_daemon()
    new = [daemon.client.publish(envelope(f"new{number}"))["last"] for number in range(5)]

    assert [cursor.split("-")[1] for cursor in new] == [cursor.split("-")[1] for cursor in lost]
    resumed = daemon.client.subscribe("/global/event", f"Last-Event-ID: {kept}")
    assert [frame.event for frame in resumed.events(5)] == [f"evt_new{number}" for number in range(5)]
    for cursor in lost:
        expired = daemon.client.subscribe("/global/event", f"Last-Event-ID: {cursor}").frame()
        assert (expired.type, expired.properties["reason"]) == ("server.stream.expired", "epoch")
        assert expired.properties["newest"] == new[-1]


def test_a_second_daemon_on_one_state_directory_is_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()

    with pytest.raises(AssertionError, match="already running"):
        start_daemon()

    assert daemon.client.get("/-/healthy").status == 200


def test_a_taken_port_is_told(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon()

    with pytest.raises(AssertionError, match=f"port {daemon.client.port} of 127.0.0.1 is taken"):
        Daemon(tmp_path / "other", port=daemon.client.port)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_thousand_are_ended_as_one(serve: Callable[..., Server]) -> None:
    server = serve()
    streams = [server.client.subscribe() for _ in range(1_000)]

    server.run(lambda: server.broker.drain(60))

    for stream in streams:
        assert [frame.type for frame in stream.rest()] == ["server.stream.closing"]
        assert stream.ended == "clean"
