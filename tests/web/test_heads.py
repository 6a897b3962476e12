"""Heads that do not end: how much of one is taken, whatever came before it, and what its sender is told."""

import contextlib
import socket
from collections.abc import Callable

import pytest

from opencode_events.web.heads import END
from tests.clients import dumps, parse_head, until
from tests.servers import LOOPS, Server
from tests.web.events import synced

Serve = Callable[..., Server]

LIMIT = 2048
GET = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n"


def fields(size: int) -> bytes:
    """Return fields of a head, each of 100 bytes."""
    return b"".join(b"X-%03d: " % number + b"x" * 91 + b"\r\n" for number in range(size // 100))


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(max_head_bytes=LIMIT, max_body_bytes=10_000)


def post(server: Server, size: int) -> bytes:
    """Return the head of a request with a body of so many bytes."""
    fields = (f"Content-Length: {size}", "Content-Type: application/json")
    return server.client.request("/global/event", *fields, method="POST")


def body_of(number: int) -> bytes:
    """Return a body that is larger than a head may be."""
    return dumps([synced(number, number, data="x" * 8000)])


def status(sock: socket.socket) -> int:
    """Read an answer; return its status."""
    return parse_head(sock.recv(65_536).partition(END)[0]).status


# --- heads without an end


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_that_goes_on_and_on_is_told_so_before_it_ends(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(GET + fields(1900))
    sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        sock.recv(1)  # there may be an end to it yet
    sock.settimeout(10)
    sock.sendall(fields(900))

    raw, _, body = sock.recv(65_536).partition(END)
    head = parse_head(raw)
    assert (head.status, head["Content-Type"], head["Connection"]) == (431, "application/problem+json", "close")
    assert head["X-Content-Type-Options"] == "nosniff"
    assert b"max_head_bytes (2048)" in body
    until(lambda: server.watched == 0)
    assert server.client.status()["http"]["refusals"] == {"431": 1}


@pytest.mark.parametrize("loop_name", LOOPS)
def test_whoever_goes_on_writing_can_still_read_why_it_was_refused(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(GET)
    for _ in range(20):
        sock.sendall(fields(50_000))

    assert status(sock) == 431
    until(lambda: server.watched == 0)


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize(
    ("before", "answer"),
    [
        (b"", 0),
        (b"\r\n\r\n\r\n", 0),
        (GET + b"\r\n", 200),
        (GET + b"Expect: nothing\r\n\r\n", 417),
        (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
    ids=["nothing", "empty lines", "a request", "no expectation", "an upgrade that is none", "*"],
)
def test_whatever_came_before_a_head_is_bounded(server: Server, before: bytes, answer: int) -> None:
    sock = server.client.connect()
    sock.sendall(before)
    if answer:
        assert status(sock) == answer

    sock.sendall(GET + fields(1500))
    sock.sendall(fields(1500))

    assert status(sock) == 431


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_behind_a_stream_is_bounded_too(serve: Serve) -> None:
    server = serve(max_head_bytes=LIMIT, takeover=False)
    sock = server.client.connect()
    sock.sendall(server.client.request("/global/event"))
    assert status(sock) == 200
    until(lambda: server.subscribed == 1)

    with contextlib.suppress(ConnectionError):
        for _ in range(20):
            sock.sendall(fields(50_000))

    until(lambda: server.subscribed == 0)


# --- and what is none


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_may_come_in_as_many_pieces_as_it_likes(server: Server) -> None:
    sock = server.client.connect()
    for byte in b"\r\n" + GET + fields(1900) + b"\r\n":
        sock.sendall(bytes([byte]))

    assert status(sock) == 200


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_body_is_no_head_whatever_its_size(server: Server) -> None:
    sock = server.client.connect()
    for number in (1, 2):
        body = body_of(number)
        for piece in (post(server, len(body)), body[:4000], body[4000:]):
            sock.sendall(piece)
        assert status(sock) == 200


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_body_that_is_refused_before_it_has_come_is_no_head(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(post(server, 20_000))
    assert status(sock) == 413
    body = body_of(1)

    for _ in range(3):
        sock.sendall(b"x" * 5000)
    sock.sendall(b"x" * 5000 + post(server, len(body)))  # the rest of the one, and the head of the next
    sock.sendall(body)

    assert status(sock) == 200


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_body_behind_a_head_that_was_sent_too_early_is_no_head(server: Server) -> None:
    """The last byte of the head comes when the request before it is answered."""
    sock = server.client.connect()
    body = body_of(1)
    head = post(server, len(body))
    sock.sendall(GET + b"\r\n" + head[:-2])
    assert status(sock) == 200

    sock.sendall(head[-2:])
    sock.sendall(body[:4000])
    sock.sendall(body[4000:])

    assert status(sock) == 200


@pytest.mark.parametrize("loop_name", LOOPS)
def test_bodies_of_requests_that_wait_for_their_turn_are_no_heads(server: Server) -> None:
    sock = server.client.connect()
    bodies = [body_of(number) for number in range(1, 6)]
    sock.sendall(b"".join(post(server, len(body)) + body for body in bodies))

    answers = b""
    while answers.count(b"HTTP/1.1 200 OK") < len(bodies):
        piece = sock.recv(65_536)
        assert piece, answers
        answers += piece
