"""Heads that do not end: how much of one is taken, whatever came before it, and what its sender is told."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable

import pytest
from aiohttp import web

from opencode_events.web import heads
from opencode_events.web.publish import Publish, Receipt
from tests.clients import dumps, parse_head, until
from tests.servers import LOOPS, Server
from tests.web.events import synced

Serve = Callable[..., Server]

LIMIT = 2048
END = b"\r\n\r\n"
GET = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n"


def fields(size: int) -> bytes:
    """Return fields of a head, each of 100 bytes."""
    return b"".join(b"X-%03d: " % number + b"x" * 91 + b"\r\n" for number in range(size // 100))


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(max_head_bytes=LIMIT, max_body_bytes=10_000)


def large_fields(count: int) -> bytes:
    """Return fields each of which is nearly as large as a whole head may be, and fewer than aiohttp counts."""
    return b"".join(b"X-%03d: %b\r\n" % (number, b"x" * 1500) for number in range(count))


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


def read_good(sock: socket.socket, count: int) -> None:
    """Read until there are so many good answers."""
    answers = b""
    while answers.count(b"HTTP/1.1 200 OK") < count:
        piece = sock.recv(65_536)
        assert piece, answers
        answers += piece


def read_all(sock: socket.socket) -> bytes:
    """Read to the end, however that is."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65_536):
            found += piece
    return found


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
        (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 200),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    ],
    ids=["nothing", "empty lines", "a request", "no expectation", "an upgrade that is none", "h2c", "*"],
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
@pytest.mark.parametrize("count", [1, 2, 5, 31])
def test_a_head_behind_requests_that_wait_for_their_turn_is_bounded(server: Server, count: int) -> None:
    sock = server.client.connect()
    with contextlib.suppress(ConnectionError):  # it ends while an answer is under way
        sock.sendall((GET + b"\r\n") * count + GET + fields(100_000))
        sock.sendall(fields(100_000))

    answers = read_all(sock)
    assert answers.count(b"HTTP/1.1 200 OK") <= count
    until(lambda: server.watched == 0, timeout_s=5)  # long before a head is late


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_behind_an_upgrade_that_is_none_and_requests_is_bounded(server: Server) -> None:
    sock = server.client.connect()
    upgrade = GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        sock.sendall(upgrade + (GET + b"\r\n") * 20)
        sock.sendall(GET + large_fields(100))

    read_all(sock)
    until(lambda: server.watched == 0, timeout_s=5)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_what_cannot_be_read_is_the_last_that_is_heard(server: Server) -> None:
    sock = server.client.connect()
    with contextlib.suppress(ConnectionError):
        for _ in range(20):
            sock.sendall(b"no request\r\n" * 1000)

    assert read_all(sock).count(b"HTTP/1.") <= 1
    until(lambda: server.watched == 0, timeout_s=5)
    server.complaints.lines.clear()


@pytest.mark.parametrize("loop_name", LOOPS)
def test_trailers_are_bounded_as_heads_are(server: Server) -> None:
    sock = server.client.connect()
    head = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    sock.sendall(server.client.request("/global/event", *head, method="POST") + b"2\r\n[]\r\n0\r\n")
    with contextlib.suppress(ConnectionError):
        sock.sendall(large_fields(100))

    until(lambda: server.watched == 0, timeout_s=5)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_behind_a_stream_is_bounded_too(serve: Serve) -> None:
    server = serve(max_head_bytes=LIMIT, takeover=False)
    sock = server.client.connect()
    sock.sendall(server.client.request("/global/event"))
    assert status(sock) == 200
    until(lambda: server.subscribed == 1)

    with contextlib.suppress(ConnectionError):
        sock.sendall(GET + fields(3000))

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

    read_good(sock, len(bodies))


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("left", [1, 2, 3, 4])
@pytest.mark.parametrize("before", [b"", GET + b"\r\n"], ids=["alone", "behind another"])
def test_the_end_of_a_head_may_come_with_its_body(server: Server, left: int, before: bytes) -> None:
    sock = server.client.connect()
    body = body_of(1)
    head = post(server, len(body))
    for piece in [before + head[:-left]] if before else [bytes([byte]) for byte in head[:-left]]:
        sock.sendall(piece)
    time.sleep(0.05)  # so that it is read by itself; nothing depends on that

    sock.sendall(head[-left:] + body)

    read_good(sock, 1 + bool(before))


@pytest.mark.parametrize("loop_name", LOOPS)
def test_chunks_are_a_body(server: Server) -> None:
    sock = server.client.connect()
    body = body_of(1)
    head = ("Transfer-Encoding: chunked", "Content-Type: application/json")
    sock.sendall(server.client.request("/global/event", *head, method="POST"))
    for at in range(0, len(body), 10):
        sock.sendall(b"%x\r\n%b\r\n" % (len(body[at : at + 10]), body[at : at + 10]))
    sock.sendall(b"0\r\nX-Trailer: 1\r\n\r\n")

    assert status(sock) == 200


@pytest.mark.parametrize("loop_name", LOOPS)
def test_large_bodies_that_wait_for_their_turn_are_bodies(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those aiohttp reads on by itself, when whoever takes them has caught up."""
    server = serve(max_head_bytes=LIMIT)
    take = Publish._take

    async def late(self: Publish, request: web.Request) -> Receipt:
        await asyncio.sleep(0.05)
        return await take(self, request)

    monkeypatch.setattr(Publish, "_take", late)
    sock = server.client.connect()
    bodies = [dumps([synced(number, number, data="x" * 1_500_000)]) for number in range(1, 6)]
    sender = threading.Thread(
        target=sock.sendall, args=(b"".join(post(server, len(body)) + body for body in bodies),), daemon=True
    )
    sender.start()

    read_good(sock, len(bodies))
    sender.join()


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_body_behind_many_requests_is_a_body(server: Server) -> None:
    sock = server.client.connect()
    body = body_of(1)
    sock.sendall((GET + b"\r\n") * 70 + post(server, len(body)) + body)

    read_good(sock, 71)


def test_a_release_of_aiohttp_that_is_another_one_is_told_and_served_without(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert heads.can_bound()
    monkeypatch.setattr(heads, "ASKED", ("_no_such_name",))
    server = serve()

    assert server.client.get("/-/healthy").status == 200
    assert [line["event"] for line in server.lines if line["event"] == "heads.unbounded"] == ["heads.unbounded"]
