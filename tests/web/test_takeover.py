"""What must hold when a connection has been taken over from aiohttp, on both loops: nothing of aiohttp's stays, nothing
that the client does is missed, and aiohttp never complains. These tests catch drift between aiohttp's releases.
"""

import asyncio
import gc
import http.client
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.subscriber import Subscriber
from opencode_events.web import subscribe, takeover
from tests.clients import DEADLINE_S, Stream, envelope, until
from tests.servers import LOOPS, Server

pytestmark = pytest.mark.parametrize("loop_name", LOOPS)

Serve = Callable[..., Server]

# A small SO_SNDBUF, so that little more than the transport's own 64 KiB fills a connection.
TIGHT = 4096
# More than a connection's buffers hold then, in one event, and less than the transport's and a segment's limits allow.
FILL = 200_000


def plain_runner(app: web.Application, *, handler_cancellation: bool) -> web.AppRunner:
    """Return aiohttp's own runner, as little set as can be."""
    access = logging.getLogger("test.access")
    return web.AppRunner(
        app, access_log=access, handler_cancellation=handler_cancellation, shutdown_timeout=5, handle_signals=False
    )


EITHER_WAY = pytest.mark.parametrize(
    "make_runner",
    [
        pytest.param(partial(plain_runner, handler_cancellation=True), id="handler cancelled"),
        pytest.param(partial(plain_runner, handler_cancellation=False), id="handler left alone"),
    ],
)


@pytest.fixture
def server(serve: Serve) -> Server:
    """A server whose watchdog looks often: it lets go of who has everything."""
    return serve(tick_s=0.02)


def left_of_aiohttp() -> list[str]:
    """Return what aiohttp keeps of requests, once all that nobody holds is collected."""
    gc.collect()
    kinds = (web.RequestHandler, web.BaseRequest, web.StreamResponse)
    return [repr(each) for each in gc.get_objects() if isinstance(each, kinds)]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # it counts itself, and does so each time


def is_gone(server: Server) -> bool:
    return server.subscribed == 0


def is_parked(server: Server) -> bool:
    return any(each["is_parked"] for each in server.client.subscribers())


def test_nothing_of_aiohttp_stays_with_a_subscriber(server: Server) -> None:
    before = left_of_aiohttp()

    stream = server.client.subscribe()

    until(lambda: server.connections == 0)
    until(lambda: server.tasks() == [])
    until(lambda: len(left_of_aiohttp()) <= len(before))
    server.client.publish(envelope(1))
    assert stream.frame().event == "evt_1"
    assert stream.ended is None


def leave_by_fin(stream: Stream) -> None:
    stream.close()


def leave_by_rst(stream: Stream) -> None:
    stream.reset()


def leave_by_half(stream: Stream) -> None:
    stream.say_goodbye()
    assert stream.rest() == []
    assert stream.ended == "cut"
    stream.close()


@pytest.mark.parametrize("leave", [leave_by_fin, leave_by_rst, leave_by_half])
def test_a_client_that_leaves_is_noticed_at_once(server: Server, leave: Callable[[Stream], None]) -> None:
    server.client.subscribers()
    until(lambda: server.connections == 0)
    before = descriptors()
    stream = server.client.subscribe()

    leave(stream)

    until(lambda: is_gone(server), timeout_s=1)
    until(lambda: descriptors() == before, timeout_s=1)
    assert server.tasks() == []
    closed = [line for line in server.lines if line["event"] == "subscriber.closed"]
    assert [line["reason"] for line in closed] == ["client_reset" if leave is leave_by_rst else "client_closed"]


@EITHER_WAY
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(b"x" * 1_000_000, id="a body"),
        pytest.param(b"GET /global/event HTTP/1.1\r\nHost: h\r\n\r\n" * 40, id="pipelined requests"),
    ],
)
def test_what_follows_the_request_does_not_hide_the_end(
    serve: Serve, make_runner: Callable[[web.Application], web.AppRunner], extra: bytes
) -> None:
    """aiohttp pauses reading for a body that nobody reads, and for many requests in a row."""
    server = serve(make_runner=make_runner)
    fields = ("Content-Length: 1000000",) if extra[0:1] == b"x" else ()
    sock = server.client.connect()
    sock.sendall(server.client.request("/global/event", *fields) + extra)
    stream = Stream(sock)
    assert stream.frame().type == "server.connected"
    until(lambda: server.connections == 0)

    sock.close()

    until(lambda: is_gone(server), timeout_s=1)


def test_a_full_connection_is_parked_and_goes_on_when_it_is_read(serve: Serve) -> None:
    server = serve(send_buffer=TIGHT)
    stream = server.client.stall()
    server.client.publish(*(envelope(number, pad="x" * FILL) for number in range(3)))
    until(lambda: is_parked(server))

    read = stream.events(3)
    server.client.publish(envelope("after"))

    assert [frame.event for frame in read] == ["evt_0", "evt_1", "evt_2"]
    assert stream.frame().event == "evt_after"
    assert not is_parked(server)


def test_a_fin_while_parked_ends_the_connection_there_and_then(serve: Serve) -> None:
    """It would wait in CLOSE_WAIT for a buffer to drain that nobody reads."""
    server = serve(send_buffer=TIGHT)
    stream = server.client.stall()
    server.client.publish(*(envelope(number, pad="x" * FILL) for number in range(3)))
    until(lambda: is_parked(server))

    stream.say_goodbye()

    until(lambda: is_gone(server), timeout_s=1)
    stream.rest()
    assert stream.ended == "reset"


def test_http_1_0_gets_no_chunks(server: Server) -> None:
    stream = server.client.subscribe(version="1.0")
    assert stream.head is not None
    assert stream.head.all("Transfer-Encoding") == []

    server.client.publish(envelope(1), envelope(2))

    assert [frame.event for frame in stream.frames(2)] == ["evt_1", "evt_2"]
    until(lambda: server.connections == 0)


def test_head_is_refused_and_takes_nothing_over(server: Server) -> None:
    answer = server.client.send("HEAD", "/global/event")

    assert (answer.status, answer.body) == (405, b"")
    assert server.subscribed == 0


def test_a_request_before_on_the_same_connection_changes_nothing(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(server.client.request("/global/health"))
    received = b""
    while not received.endswith(b"}"):
        received += sock.recv(65_536)
    sock.sendall(server.client.request("/global/event"))
    stream = Stream(sock)

    assert stream.frame().type == "server.connected"
    server.client.publish(envelope(1))
    assert stream.frame().event == "evt_1"
    until(lambda: server.connections == 0)


@EITHER_WAY
def test_a_client_that_goes_before_the_head_is_out_leaves_nothing(
    serve: Serve, make_runner: Callable[[web.Application], web.AppRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, waiting = subscribe.StreamHead.prepare, asyncio.Event()

    async def late(self: subscribe.StreamHead, request: web.BaseRequest) -> AbstractStreamWriter | None:
        waiting.set()
        while request.transport is not None:  # noqa: ASYNC110  # aiohttp has no event for it
            await asyncio.sleep(0)
        return await prepare(self, request)

    monkeypatch.setattr(subscribe.StreamHead, "prepare", late)
    server = serve(make_runner=make_runner)
    stream = server.client.ask("/global/event")
    until(waiting.is_set)
    assert server.subscribed == 1

    stream.close()

    until(lambda: is_gone(server))
    until(lambda: server.tasks() == [])
    assert server.connections == 0


@EITHER_WAY
def test_aiohttp_sees_one_request_that_went_well(
    serve: Serve, make_runner: Callable[[web.Application], web.AppRunner], caplog: pytest.LogCaptureFixture
) -> None:
    """That nothing was logged from WARNING up, and the loop's exception handler not called, every server checks."""
    server = serve(make_runner=make_runner)
    with caplog.at_level(logging.INFO, "test.access"):
        stream = server.client.subscribe()
        until(lambda: server.connections == 0)
        until(lambda: server.tasks() == [])
        stream.close()
        until(lambda: is_gone(server))

    lines = [record.getMessage() for record in caplog.records if record.name == "test.access"]
    assert len(lines) <= 1
    assert all('"GET /global/event HTTP/1.1" 200 ' in line for line in lines)


def test_shutdown_ends_every_stream_cleanly_and_soon(server: Server) -> None:
    streams = [server.client.subscribe() for _ in range(50)]
    until(lambda: server.connections == 0)

    async def shut_down() -> float:
        began = asyncio.get_running_loop().time()
        await server.shut_down(5)
        return asyncio.get_running_loop().time() - began

    assert server.run(shut_down) < 1
    for stream in streams:
        assert [frame.type for frame in stream.rest()] == ["server.stream.closing"]
        assert stream.ended == "clean"


def test_a_request_during_shutdown_is_told_to_come_again(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(server.client.request("/global/health"))
    assert sock.recv(65_536).startswith(b"HTTP/1.1 200")
    server.run(lambda: server.broker.drain(0))

    sock.sendall(server.client.request("/global/event"))

    stream = Stream(sock)
    assert stream.read_head().status == 200
    assert [frame.type for frame in stream.rest()] == ["server.connected", "server.stream.closing"]


def test_a_subscriber_whose_head_is_not_out_at_shutdown_is_ended_like_the_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, go_on = subscribe.StreamHead.prepare, asyncio.Event()

    async def late(self: subscribe.StreamHead, request: web.BaseRequest) -> AbstractStreamWriter | None:
        await go_on.wait()
        return await prepare(self, request)

    monkeypatch.setattr(subscribe.StreamHead, "prepare", late)
    stream = server.client.ask("/global/event")
    until(lambda: server.subscribed == 1)

    async def shut_down() -> None:
        drain = asyncio.create_task(server.broker.drain(5))
        (subscriber,) = server.broker.subscribers.values()
        while subscriber.state is State.LIVE:  # noqa: ASYNC110  # nor has the handle
            await asyncio.sleep(0)
        go_on.set()
        await drain

    server.run(shut_down)

    assert [frame.type for frame in stream.rest()] == ["server.connected", "server.stream.closing"]
    assert stream.ended == "clean"


# --- our own end: half a close, until the client has all of it, or has closed too


@pytest.fixture(params=[True, False], ids=["taken over", "plain"])
def either(request: pytest.FixtureRequest, serve: Serve) -> Server:
    """A server that takes connections over, or does not, and whose watchdog hardly ever looks."""
    return serve(takeover=request.param, tick_s=30.0)


def end_all(server: Server) -> None:
    """End all subscribers, politely."""

    def end() -> None:
        for subscriber in list(server.broker.subscribers.values()):
            subscriber.close(Reason.OPERATOR)

    server.call(end)


@pytest.mark.parametrize("end", ["clean", "abort"])
def test_a_client_that_reads_to_the_end_and_closes_ends_it(either: Server, end: str) -> None:
    """Nobody waits for the watchdog."""
    stream = either.client.subscribe(f"/global/event?end={end}")
    end_all(either)

    assert [frame.type for frame in stream.rest()] == ["server.stream.closing"]
    assert stream.ended == ("clean" if end == "clean" else "cut")
    stream.close()

    until(lambda: is_gone(either), timeout_s=2)
    until(lambda: either.kernel == {}, timeout_s=2)
    assert [line["reason"] for line in either.told("subscriber.closed")] == ["operator"]


def test_a_client_of_http_1_0_sees_where_the_stream_ends(either: Server) -> None:
    stream = either.client.subscribe(version="1.0")
    end_all(either)

    assert [frame.type for frame in stream.rest()] == ["server.stream.closing"]
    assert stream.ended == "cut"
    stream.close()
    until(lambda: is_gone(either), timeout_s=2)


def test_a_client_that_resets_while_it_is_ended_ends_it(serve: Serve) -> None:
    server = serve(send_buffer=TIGHT)
    stream = server.client.stall()
    server.client.publish(*(envelope(number, pad="x" * FILL) for number in range(3)))
    until(lambda: is_parked(server))
    end_all(server)
    assert server.subscribed == 1

    stream.reset()

    until(lambda: is_gone(server), timeout_s=1)
    until(lambda: server.kernel == {}, timeout_s=2)


def test_a_goodbye_while_it_is_ended_and_has_not_read_ends_it(serve: Serve) -> None:
    server = serve(send_buffer=TIGHT)
    stream = server.client.stall()
    server.client.publish(*(envelope(number, pad="x" * FILL) for number in range(3)))
    until(lambda: is_parked(server))
    end_all(server)

    stream.say_goodbye()

    until(lambda: is_gone(server), timeout_s=1)
    until(lambda: server.kernel == {}, timeout_s=2)
    assert stream.drain() == "reset"


@pytest.mark.parametrize("takeover", [True, False], ids=["taken over", "plain"])
def test_a_client_that_does_not_read_holds_up_the_end_until_its_deadline(serve: Serve, takeover: bool) -> None:
    """What it has not read goes with it, from the kernel too."""
    server = serve(takeover=takeover, send_buffer=TIGHT, tick_s=0.02)
    stream = server.client.stall()
    server.client.publish(*(envelope(number, pad="x" * FILL) for number in range(3)))
    until(lambda: is_parked(server))
    port = stream.sock.getsockname()[1]

    async def shut_down() -> float:
        began = asyncio.get_running_loop().time()
        await server.shut_down(0.5)
        return asyncio.get_running_loop().time() - began

    assert 0.4 < server.run(shut_down) < 2
    assert server.subscribed == 0
    until(lambda: port not in server.kernel, timeout_s=1)
    assert stream.drain() == "reset"


@pytest.mark.parametrize("takeover", [True, False], ids=["taken over", "plain"])
def test_a_client_that_has_everything_and_does_not_close_holds_nothing_up(serve: Serve, takeover: bool) -> None:
    """The watchdog lets go of it: the kernel says that all is acknowledged, our goodbye included."""
    server = serve(takeover=takeover, tick_s=0.02)
    server.client.subscribers()
    until(lambda: server.connections == 0)
    before = descriptors()
    stream = server.client.subscribe()
    opened = descriptors() - before
    end_all(server)

    until(lambda: is_gone(server), timeout_s=2)
    until(lambda: descriptors() < before + opened, timeout_s=2)
    until(lambda: server.kernel == {}, timeout_s=5)
    assert [frame.type for frame in stream.rest()] == ["server.stream.closing"]
    assert stream.ended == "clean"


def test_half_a_close_that_comes_too_late_is_no_error(server: Server) -> None:
    """The client has reset the connection after the last byte was written, and the loop has not been told."""

    class Late:
        def write_eof(self) -> None:
            raise OSError(107, "Transport endpoint is not connected")

    with socket.socket() as own:
        connection = takeover.TakenOver(cast(Subscriber, None), own)
        connection._transport = cast(asyncio.Transport, Late())
        connection.close()


def test_a_library_that_reads_to_the_end_can_ask_again(server: Server) -> None:
    connection = http.client.HTTPConnection(server.client.host, server.client.port, timeout=DEADLINE_S)
    try:
        connection.request("GET", "/event?directory=/d")
        response = connection.getresponse()
        server.client.publish(envelope(1, kind="server.instance.disposed"))
        body = response.read()
        connection.request("GET", "/global/health")
        again = connection.getresponse()

        assert body.count(b"\n\n") == 2
        assert again.status == 200
        assert b"healthy" in again.read()
    finally:
        connection.close()


def test_many_that_come_and_go_leave_nothing_behind(server: Server) -> None:
    """Each fourth goes in its own way. The first hundred fill caches and pools."""

    def cycle(count: int) -> tuple[int, int]:
        for number in range(count):
            stream = server.client.subscribe()
            (leave_by_fin, leave_by_rst, leave_by_half, leave_by_fin)[number % 4](stream)
        until(lambda: is_gone(server) and server.connections == 0 and server.tasks() == [])
        until(lambda: len(server.web_connections) == 0)  # the watchdog has seen that they are over
        server.lines.clear()
        server.client.close()
        gc.collect()
        return descriptors(), len(gc.get_objects())

    files, objects = cycle(100)
    files_after, objects_after = cycle(500)

    assert files_after == files
    assert objects_after - objects < 250  # one for each that came would be 500
