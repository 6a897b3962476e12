"""What the watchdog sees of connections that are no streams, and how they end: silent ones, slow heads, answers that
nobody reads. Limits are scaled down; each holds on both loops.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from opencode_events.broker.watched import Outlook
from opencode_events.web.connections import Connections, HttpConnection
from tests.clients import Client, Stream, dumps, until
from tests.servers import LOOPS, Server
from tests.web.events import synced

Serve = Callable[..., Server]

# Everything is at a hundredth or so of the default; a silent one has half a second.
QUICK = {"tick_s": 0.02, "fin_zombie_s": 0.2, "fin_max_s": 1.0, "stalled_s": 0.5, "head_timeout_s": 0.5}
TIGHT = 4096


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(send_buffer=TIGHT, **QUICK)


def wait_for_end(sock: socket.socket) -> str:
    """Read to the end; return how that was."""
    return Stream(sock).drain()


def evictions(server: Server) -> list[tuple[Any, Any]]:
    return [(line["reason"], line["peer"]) for line in server.told("connection.evicted")]


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def name_of(sock: socket.socket) -> str:
    """Return what the server calls a client."""
    return f"127.0.0.1:{port_of(sock)}"


def fill_history(client: Client) -> None:
    """Publish a history of some 6 MB."""
    for first in range(0, 60, 10):
        batch = [synced(seq, seq, data="x" * 100_000) for seq in range(first, first + 10)]
        assert client.post("/global/event", dumps(batch)).status == 200


def ask_for_history(client: Client, *, receive_buffer: int = 1) -> socket.socket:
    """Send a request for it on a connection of its own, and read nothing."""
    sock = client.connect(receive_buffer=receive_buffer)
    sock.sendall(client.request("/sync/history", "Content-Type: application/json", "Content-Length: 2", method="POST"))
    sock.sendall(b"{}")
    return sock


# --- heads


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET /-/healthy HTTP/1.1\r\nHost: h\r\nX: "], ids=["none", "a byte", "a part"]
)
def test_a_head_that_does_not_come_ends_the_connection(server: Server, sent: bytes) -> None:
    sock = server.client.connect()
    sock.sendall(sent)

    assert wait_for_end(sock) == "reset"
    assert evictions(server) == [("head_timeout", name_of(sock))]
    assert server.told("connection.evicted")[0]["head_s"] >= 0.5
    until(lambda: port_of(sock) not in server.kernel)
    until(lambda: server.watched == 0)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_byte_by_byte_gets_no_more_time(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(b"GET /-/healthy HTTP/1.1\r\nX: ")
    sock.settimeout(0.02)
    with contextlib.suppress(ConnectionError):
        while True:
            sock.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                assert not sock.recv(1)

    assert evictions(server) == [("head_timeout", name_of(sock))]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_between_two_requests_a_connection_may_be_silent_but_not_within_one(server: Server) -> None:
    sock = server.client.connect()
    stream = Stream(sock)
    sock.sendall(server.client.request("/-/healthy"))
    assert stream.read_head().status == 200
    other = server.client.connect()

    assert wait_for_end(other) == "reset"  # it had all the time of a first head
    assert evictions(server) == [("head_timeout", name_of(other))]
    sock.sendall(b"GET /-/heal")
    assert wait_for_end(sock) == "reset"
    assert evictions(server)[1:] == [("head_timeout", name_of(sock))]


@pytest.mark.parametrize("loop_name", LOOPS)
def test_request_after_request_is_no_head_that_does_not_come(server: Server) -> None:
    sock = server.client.connect()
    over_at = time.monotonic() + 3 * QUICK["head_timeout_s"]
    while time.monotonic() < over_at:
        sock.sendall(server.client.request("/-/healthy"))
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200")

    assert evictions(server) == []


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_body_may_take_its_time(server: Server) -> None:
    body = dumps([synced(1, 1)])
    sock = server.client.connect()
    head = (f"Content-Length: {len(body)}", "Content-Type: application/json")
    sock.sendall(server.client.request("/global/event", *head, method="POST") + body[:10])
    silent = server.client.connect()

    assert wait_for_end(silent) == "reset"
    sock.sendall(body[10:])
    assert Stream(sock).read_head().status == 200
    assert evictions(server) == [("head_timeout", name_of(silent))]


# --- answers


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_long_answer_that_nobody_reads_ends_the_connection(server: Server) -> None:
    fill_history(server.client)
    sock = ask_for_history(server.client)

    until(lambda: evictions(server) == [("stalled", name_of(sock))])

    (line,) = server.told("connection.evicted")
    assert line["tcp_state"] == "ESTABLISHED"
    assert line["unacked_bytes"] > 0
    assert line["pending_bytes"] > line["unacked_bytes"]
    assert line["last_progress_s"] >= 0.5
    until(lambda: port_of(sock) not in server.kernel)
    until(lambda: server.tasks() == [])
    assert wait_for_end(sock) == "reset"


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_long_answer_to_who_has_said_goodbye_ends_sooner(serve: Serve) -> None:
    server = serve(send_buffer=TIGHT, **QUICK | {"stalled_s": 60})
    fill_history(server.client)
    sock = ask_for_history(server.client)
    until(lambda: server.client.status()["watchdog"]["kernel_unsent_bytes"])

    sock.shutdown(socket.SHUT_WR)

    until(lambda: evictions(server) == [("fin_zombie", name_of(sock))])
    until(lambda: port_of(sock) not in server.kernel)
    until(lambda: server.tasks() == [])


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_long_answer_is_given_to_who_reads_slowly(server: Server) -> None:
    """It takes three times as long as a stall may, with a little progress all the time."""
    fill_history(server.client)
    sock = ask_for_history(server.client, receive_buffer=65_536)
    began, received = time.monotonic(), b""
    while not received.endswith(b"]\r\n0\r\n\r\n"):
        time.sleep(0.02)  # its pace
        received = received[-20:] + sock.recv(65_536)

    assert time.monotonic() - began > 3 * QUICK["stalled_s"]
    assert evictions(server) == []


@pytest.mark.parametrize("loop_name", LOOPS)
def test_an_answer_that_was_given_and_is_not_read_ends_the_connection(server: Server) -> None:
    """The handler is over, and aiohttp waits for the next request; what was answered is still in the transport."""
    server.come_and_go(1_000)
    sock = server.client.connect(receive_buffer=1)
    sock.sendall(server.client.request("/-/subscribers?closed=1"))

    until(lambda: evictions(server) == [("stalled", name_of(sock))])
    until(lambda: port_of(sock) not in server.kernel)
    assert wait_for_end(sock) == "reset"


# --- who is watched


def test_a_stream_that_is_taken_over_is_the_streams(server: Server) -> None:
    server.client.subscribe()

    until(lambda: server.watched == 0)
    assert server.subscribed == 1


def test_a_stream_on_the_plain_path_is_the_streams(serve: Serve) -> None:
    server = serve(takeover=False, **QUICK)
    server.client.subscribe()

    until(lambda: server.watched == 0)
    assert server.connections == server.subscribed == 1


def test_nothing_is_kept_of_a_connection_that_is_over(server: Server) -> None:
    for _ in range(20):
        server.client.get("/-/healthy")
    server.client.subscribe().close()

    until(lambda: len(server.web_connections) == 0)


def test_each_is_named_by_its_peer(server: Server) -> None:
    sock = server.client.connect()

    def names() -> list[dict[str, object]]:
        return [each.name() for each in server.web_connections.watched()]

    until(lambda: {"peer": name_of(sock)} in server.call(names))


def test_what_is_being_answered_is_told_from_what_was(server: Server) -> None:
    def outlooks() -> list[tuple[bool, int]]:
        seen = [each.outlook() for each in server.web_connections.watched()]
        return [(each.is_answering, each.answered) for each in seen]

    sock = server.client.connect()
    until(lambda: server.call(outlooks) == [(False, 0)])
    for number in (1, 2):
        sock.sendall(server.client.request("/-/healthy"))
        assert sock.recv(65_536)
        until(lambda at=number: server.call(outlooks) == [(False, at)])  # type: ignore[misc]  # lambda's default
    head = ("Content-Length: 9", "Content-Type: application/json")
    sock.sendall(server.client.request("/global/event", *head, method="POST"))

    until(lambda: server.call(outlooks) == [(True, 2)])


# --- one of them, without a server


class FakeTransport:
    """A transport that holds 7 bytes, and notes how it ended."""

    def __init__(self, peer: object) -> None:
        self._extra = {"peername": peer, "socket": SimpleNamespace(fileno=lambda: 5, setsockopt=self._set)}
        self.done: list[str] = []

    def get_extra_info(self, name: str) -> object:
        return self._extra[name]

    def get_write_buffer_size(self) -> int:
        return 7

    def is_closing(self) -> bool:
        return True

    def abort(self) -> None:
        self.done.append("abort")

    def _set(self, level: int, option: int, value: bytes) -> None:
        self.done.append(f"linger {value[4]}" if option == socket.SO_LINGER else "?")


def connection(peer: object = ("127.0.0.1", 5)) -> tuple[HttpConnection, FakeTransport]:
    transport = FakeTransport(peer)
    return HttpConnection(cast(asyncio.Transport, transport)), transport


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        (("192.0.2.1", 5), "192.0.2.1:5"),
        (("2001:db8::1", 5, 0, 0), "[2001:db8::1]:5"),
        (None, "unknown"),
        ("", "unknown"),
    ],
    ids=["IPv4", "IPv6", "gone already", "no name"],
)
def test_a_name_is_an_address(peer: object, name: str) -> None:
    assert connection(peer)[0].name() == {"peer": name}


def test_what_it_knows_of_itself() -> None:
    made, _ = connection()
    made.active, made.answered = 1, 3

    assert made.outlook() == Outlook(buffered=7, is_closing=True, is_answering=True, answered=3)
    assert not made.is_quiet
    assert made.is_open


def test_an_end_leaves_nothing_to_the_kernel() -> None:
    made, transport = connection()
    made.evict("stalled")

    assert transport.done == ["linger 0", "abort"]


def test_one_that_has_everything_is_let_go_without_a_reset() -> None:
    made, transport = connection()
    made.finish()

    assert transport.done == ["abort"]


def test_a_request_whose_connection_is_over_has_none() -> None:
    class Protocol:
        transport = None

    request = SimpleNamespace(protocol=Protocol())

    assert Connections().began(cast(web.BaseRequest, request)) is None
