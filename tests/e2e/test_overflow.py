"""What happens at a backlog's cap, over real sockets: who does not read is ended, told why, and loses nothing that was
buffered; who reads never meets the cap, and nobody else notices.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import NDJSON, Client, Frame, Stream, envelope, payload, until
from tests.servers import LOOPS, Daemon, Server

Serve = Callable[..., Server]
StartDaemon = Callable[..., Daemon]

on_both_loops = pytest.mark.parametrize("loop_name", LOOPS)
on_both_paths = pytest.mark.parametrize("takeover", [True, False], ids=["taken over", "plain"])

# A small SO_SNDBUF, so that little more than the transport's own 64 KiB fills a connection.
TIGHT = 4096
PAD = "x" * 1_000


def handle(client: Client, number: int = 1) -> dict[str, Any]:
    """Return what the server shows of a handle."""
    return next(each for each in client.subscribers() if each["id"] == number)


def flood(client: Client, number: int = 1, *, batch: int = 100, pad: str = PAD, limit: int = 60_000) -> int:
    """Publish until the handle `number` is closing; return how many events it took."""
    published = 0
    while handle(client, number)["state"] == "live":
        assert published < limit
        client.publish(*(envelope(published + at, pad=pad) for at in range(batch)))
        published += batch
    return published


def told(frames: list[Frame]) -> tuple[list[Frame], Frame]:
    """Return the events, and the frame that ends the stream."""
    last = frames.pop()
    assert last.type == "server.stream.closing"
    assert last.id is None
    return [frame for frame in frames if not frame.is_control], last


def assert_in_order(events: list[Frame]) -> None:
    assert [frame.event for frame in events] == [f"evt_{number}" for number in range(len(events))]
    places = [int((frame.id or "").split("-")[1]) for frame in events]
    assert places == list(range(1, len(events) + 1))


@on_both_loops
@on_both_paths
@pytest.mark.parametrize("end", ["clean", "abort"])
@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON])
def test_a_connection_that_never_reads_is_ended_and_then_gets_all_that_was_buffered(
    serve: Serve, takeover: bool, end: str, accept: str
) -> None:
    client = serve(takeover=takeover, backlog_events=200, send_buffer=TIGHT).client
    stream = client.stall(f"/global/event?end={end}", f"Accept: {accept}")

    published = flood(client)
    shown = handle(client)
    events, closing = told(stream.rest())

    assert (shown["state"], shown["reason"], shown["is_parked"]) == ("closing", "overflow_events", True)
    assert 0 < shown["queued_events"] <= 200
    assert stream.ended == ("clean" if end == "clean" else "cut")
    assert closing.properties == {"reason": "overflow_events", "cursor": events[-1].id}
    assert_in_order(events)
    assert 100 < len(events) < published
    until(lambda: client.subscribers() == [])


@on_both_paths
def test_with_http_1_0_the_last_frame_is_the_whole_goodbye(serve: Serve, takeover: bool) -> None:
    client = serve(takeover=takeover, backlog_events=200, send_buffer=TIGHT).client
    sock = client.connect(receive_buffer=1)
    sock.sendall(client.request("/event?directory=/d", version="1.0"))
    stream = Stream(sock)
    until(client.subscribers)

    flood(client)
    events, closing = told(stream.rest())

    assert stream.ended == "cut"
    assert closing.json["type"] == "server.stream.closing"
    assert closing.properties["cursor"] == events[-1].id
    assert_in_order(events)


@pytest.mark.parametrize("end", ["clean", "abort"])
def test_the_caps_as_they_are_set(daemon: Daemon, end: str) -> None:
    """10 000 events: with what the kernel holds, a client that never reads misses nothing of more than that."""
    client = daemon.client
    stream = client.stall(f"/global/event?end={end}")

    published = flood(client, batch=2_000)
    assert handle(client)["queued_events"] <= 10_000
    events, closing = told(stream.rest())

    assert stream.ended == ("clean" if end == "clean" else "cut")
    assert closing.properties == {"reason": "overflow_events", "cursor": events[-1].id}
    assert_in_order(events)
    assert 10_000 <= len(events) < published
    stream.close()
    until(lambda: "subscriber.closed" in {line["event"] for line in daemon.lines()})
    (line,) = [line for line in daemon.lines() if line["event"] == "subscriber.closed"]
    assert line["reason"] == "overflow_events"


def test_12_000_events_pass_a_backlog_of_10_000_if_the_client_reads(daemon: Daemon) -> None:
    stream = daemon.client.subscribe()

    events = []
    for batch in range(12):
        daemon.client.publish(*(envelope(batch * 1_000 + number, pad=PAD) for number in range(1_000)))
        events += stream.events(1_000)

    assert_in_order(events)
    assert handle(daemon.client)["state"] == "live"
    assert daemon.client.publish(envelope("after"))["last"] == stream.frame().id


def test_12_000_events_of_one_publish_pass_as_well(daemon: Daemon) -> None:
    """A flush leaves a reading client time to read."""
    client = daemon.client
    streams = [client.subscribe("/event?directory=/d", f"Accept: {NDJSON}"), client.subscribe()]

    client.publish(*(envelope(number) for number in range(9_000)))
    for stream in streams:
        assert_in_order(stream.events(9_000))


@on_both_loops
def test_events_of_any_size_count_one_by_one(serve: Serve) -> None:
    """Published one at a time, the cap is exact: the last one that fits is there, the next one ends it."""
    client = serve(backlog_events=10, send_buffer=TIGHT).client
    stream = client.stall()
    client.publish(envelope("fill", pad="x" * 300_000))
    until(lambda: handle(client)["is_parked"])
    before = handle(client)["queued_events"]

    for number in range(10 - before):
        client.publish(envelope(number))
        assert until(lambda want=before + number + 1: handle(client)["queued_events"] == want)  # type: ignore[misc]
        assert handle(client)["state"] == "live"
    client.publish(envelope("over"))
    until(lambda: handle(client)["state"] == "closing")

    events, closing = told(stream.rest())
    assert [frame.event for frame in events] == ["evt_fill", *(f"evt_{number}" for number in range(10 - before))]
    assert closing.properties["cursor"] == events[-1].id


@on_both_loops
def test_bytes_are_capped_too(serve: Serve) -> None:
    client = serve(backlog_bytes=300_000, send_buffer=TIGHT).client
    stream = client.stall()

    flood(client, batch=10, pad="x" * 5_000)
    assert handle(client)["queued_bytes"] <= 300_000 + 1_000  # the closing frame is behind the cap
    events, closing = told(stream.rest())

    assert closing.properties == {"reason": "overflow_bytes", "cursor": events[-1].id}
    assert stream.ended == "clean"
    assert_in_order(events)


def test_one_event_above_all_caps_is_had_all_the_same(serve: Serve) -> None:
    client = serve(backlog_bytes=10_000, backlog_events=1, send_buffer=TIGHT).client
    stream = client.subscribe()

    client.publish(envelope(0, pad="x" * 1_000_000))

    assert stream.events(1)[0].event == "evt_0"
    until(lambda: handle(client)["queued_events"] == 0)
    client.publish(envelope(1))
    assert stream.events(1)[0].event == "evt_1"


@on_both_loops
def test_who_lags_is_told_at_three_quarters_and_again_after_it_has_caught_up(serve: Serve) -> None:
    client = serve(backlog_events=100, segment_events=1, send_buffer=TIGHT).client
    stream = client.stall()

    for episode in ("a", "b"):
        published = 0
        while handle(client)["queued_events"] <= 80:
            client.publish(envelope(f"{episode}{published}", pad="x" * 2_000))
            published += 1
        frames = stream.until("server.stream.lagging")
        while sum(not frame.is_control for frame in frames) < published:
            frames.append(stream.frame())

        (lagging,) = [frame for frame in frames if frame.type == "server.stream.lagging"]
        assert lagging.id is None
        assert lagging.properties["queued_events"] == 76
        assert lagging.properties["queued_bytes"] > 76 * 2_000
        assert (lagging.properties["limit_events"], lagging.properties["limit_bytes"]) == (100, 32 * 1024 * 1024)
        until(lambda: handle(client)["queued_events"] == 0)
    assert handle(client)["state"] == "live"


def test_the_share_of_bytes_is_told_too(serve: Serve) -> None:
    client = serve(backlog_bytes=100_000, segment_events=1, send_buffer=TIGHT).client
    stream = client.stall()

    number = 0
    while handle(client)["queued_bytes"] <= 76_000:
        client.publish(envelope(number, pad="x" * 2_000))
        number += 1

    lagging = stream.until("server.stream.lagging")[-1]
    assert 75_000 < lagging.properties["queued_bytes"] < 80_000
    assert handle(client)["state"] == "live"


# --- the budget of the process


@on_both_loops
def test_memory_is_taken_from_who_holds_most(serve: Serve) -> None:
    client = serve(budget_bytes=3_000_000, send_buffer=TIGHT).client
    hog = client.stall("/global/event")
    modest = client.stall("/event?directory=/modest")
    reader = client.subscribe("/global/event?sync=none")
    client.publish(*(envelope(f"m{number}", "/modest", pad=PAD) for number in range(200)))
    read = reader.events(200)

    number = 0
    while handle(client, 1)["state"] == "live":
        client.publish(*(envelope(number + at, pad=PAD) for at in range(50)))
        read += reader.events(50)
        number += 50
    hog_frames, closing = told(hog.rest())
    client.publish(envelope("after", "/modest"))

    assert hog.ended == "clean"
    assert closing.properties == {"reason": "overflow_memory", "cursor": hog_frames[-1].id}
    assert [frame.event for frame in read] == [
        *(f"evt_m{at}" for at in range(200)), *(f"evt_{at}" for at in range(number)),
    ]  # fmt: skip
    assert [frame.event for frame in hog_frames] == [frame.event for frame in read[: len(hog_frames)]]
    assert len(hog_frames) < len(read)
    assert [frame.event for frame in modest.events(201)] == [*(f"evt_m{at}" for at in range(200)), "evt_after"]
    hog.close()
    until(lambda: {each["id"] for each in client.subscribers()} == {2, 3})


@on_both_loops
def test_no_more_are_reset_than_must(serve: Serve) -> None:
    """What a transport buffers counts, and is free again with its connection, not some turns of the loop later."""
    server = serve(send_buffer=TIGHT)
    client, budget = server.client, server.broker.budget
    for number in range(10):
        client.stall(f"/event?directory=/{number}")
        client.publish(envelope(number, f"/{number}", pad="x" * 300_000))
    until(lambda: all(each["is_parked"] for each in client.subscribers()))
    held, in_transports = server.call(lambda: (budget.held, budget.transports))
    assert in_transports > 10 * 64 * 1024

    # Each handle has a tenth of what is held. With the room that is made, four of them must go, and no fifth.
    server.call(lambda: setattr(budget, "limit", held - 33 * held // 100))
    client.publish(envelope("more", "/0"))

    until(lambda: len(client.subscribers()) <= 6)
    assert server.call(lambda: budget.held) <= budget.limit
    assert len(client.subscribers()) == 6


# --- the end of waiting


@on_both_loops
@on_both_paths
def test_who_does_not_read_what_was_buffered_is_reset_in_time(serve: Serve, takeover: bool) -> None:
    server = serve(takeover=takeover, backlog_events=200, close_flush_s=0.2, send_buffer=TIGHT)
    stream = server.client.stall()

    flood(server.client)
    until(lambda: server.client.subscribers() == [])

    stream.rest()
    assert stream.ended == "reset"
    until(lambda: server.connections == 0 and server.tasks() == [])
    (line,) = [line for line in server.lines if line["event"] == "subscriber.closed"]
    assert (line["reason"], line["log_level"]) == ("overflow_events", "warning")
    assert line["peak_queued_events"] <= 200


@on_both_loops
@on_both_paths
def test_who_stops_just_before_the_end_is_reset_in_time_too(serve: Serve, takeover: bool) -> None:
    """What is left fits into the transport, so that all is written and the connection closed, but for the reading."""
    server = serve(takeover=takeover, backlog_events=30, close_flush_s=1.0, send_buffer=TIGHT)
    stream = server.client.stall()
    flood(server.client, batch=10)
    queued = handle(server.client)["queued_events"]
    assert 0 < queued <= 30

    # Reads until nothing is queued any more, and not one byte further than it must.
    while server.client.subscribers() and handle(server.client)["queued_events"]:
        stream.read_some(2_000)

    assert server.client.subscribers()
    until(lambda: server.client.subscribers() == [])
    assert stream.drain() == "reset"
    until(lambda: server.connections == 0 and server.tasks() == [])


def test_a_closing_handle_takes_no_more(serve: Serve) -> None:
    client = serve(backlog_events=200, send_buffer=TIGHT).client
    stream = client.stall("/event?directory=/d")
    flood(client)
    before = handle(client)["queued_events"]

    client.publish(*(envelope(f"late{number}") for number in range(50)))

    assert handle(client)["queued_events"] == before
    assert client.status()["broker"]["selections"] == 0
    assert not [frame for frame in stream.rest() if "late" in frame.event]


def test_an_instance_that_ends_while_its_client_stalls_still_gives_it_all(serve: Serve) -> None:
    client = serve(send_buffer=TIGHT).client
    stream = client.stall("/event?directory=/d&end=abort")
    client.publish(*(envelope(number, pad=PAD) for number in range(500)))
    until(lambda: handle(client)["is_parked"])
    ending = payload("end", "server.instance.disposed")

    client.publish({"directory": "/d", "payload": ending})
    until(lambda: handle(client)["state"] == "closing")

    assert handle(client)["reason"] == "disposed"
    assert stream.events(500)
    assert [frame.type for frame in stream.rest()] == ["server.instance.disposed"]
    assert stream.ended == "clean"
