"""Upstream is away, slow or hung, clients go, and too many come: each request ends, and nothing is left of it."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients import LINGER_NONE, until
from tests.relay.shield import Shield, Start, Wire, always, document, read_answer
from tests.servers import LOOPS


@pytest.fixture(params=LOOPS)
def alone(request: pytest.FixtureRequest) -> Iterator[Callable[..., Shield]]:
    """Start a shield before whatever is there."""
    with contextlib.ExitStack() as held:

        def start(url: str, **settings: Any) -> Shield:
            shield = Shield(url, request.param, **settings)
            shield.start()
            held.callback(shield.stop)
            return shield

        yield start


def hang(wire: Wire) -> None:
    """Take a request and say nothing until the other side goes."""
    wire.request()
    assert wire.is_over()


# --- no answer


def test_an_upstream_that_is_not_there_is_away(alone: Callable[..., Shield]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        shield = alone(f"http://127.0.0.1:{taken.getsockname()[1]}")

        answers = [shield.get("/a"), shield.client.send("POST", "/a", b"body")]

    for answer in answers:
        assert answer.status == 502
        assert document(answer)["title"] == "Upstream is away"
    assert shield.statistics["away"] == 2


def test_an_upstream_that_does_not_accept_is_slow(alone: Callable[..., Shield]) -> None:
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # what the kernel takes without being asked, and then some
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        shield = alone(f"http://127.0.0.1:{full.getsockname()[1]}", upstream_connect_s=0.2)

        answer = shield.get("/a")

    assert answer.status == 504


def test_an_answer_that_does_not_come_in_time_is_given_up(shielded: Start) -> None:
    _, shield = shielded(hang, upstream_answer_s=0.1)

    answer = shield.get("/a")

    assert answer.status == 504
    assert document(answer)["detail"] == "upstream did not answer in time"


def test_time_does_not_count_while_a_body_is_on_its_way(shielded: Start) -> None:
    """Four pieces, half the limit apart."""

    def serve(wire: Wire) -> None:
        wire.answer(wire.request().body)

    _, shield = shielded(serve, upstream_answer_s=0.6)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Content-Length: 4", method="POST"))
    for _ in range(4):
        time.sleep(0.3)
        sock.sendall(b"x")

    assert read_answer(sock).body == b"xxxx"


GARBAGE = {
    "nothing": b"",
    "no HTTP": b"220 ready\r\n\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "a bad length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a nul in a field": b"HTTP/1.1 200 OK\r\nX-One: a\0b\r\nContent-Length: 0\r\n\r\n",
    "another control in a field": b"HTTP/1.1 200 OK\r\nX-One: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\nX-One: " + b"x" * 200_000,
}


@pytest.mark.parametrize("raw", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_no_answer_is_told_as_none(method: str, raw: bytes, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(raw)

    _, shield = shielded(serve)

    answer = shield.client.send(method, "/a", b"" if method == "GET" else b"body")

    assert answer.status == 502
    assert document(answer)["title"] == "Upstream is away"


def test_an_upstream_that_comes_back_is_found_at_once(alone: Callable[..., Shield]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        shield = alone(f"http://127.0.0.1:{port}")
        assert shield.get("/a").status == 502
        taken.listen()
        sock = shield.client.connect()
        sock.sendall(shield.client.request("/a"))
        accepted, _ = taken.accept()
        with accepted:
            Wire(accepted).request()
            Wire(accepted).answer(b"back")

            assert read_answer(sock).body == b"back"


# --- a connection that is kept


def test_connections_are_used_again_for_what_may_be_asked_again(shielded: Start) -> None:
    upstream, shield = shielded(always(body=b""))

    for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE"):
        for _ in range(5):
            assert shield.get("/a", method=method).status == 200

    assert upstream.accepted == 1


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT", "DELETE", "GET"])
def test_what_has_a_body_or_may_not_be_asked_again_has_a_connection_of_its_own(method: str, shielded: Start) -> None:
    upstream, shield = shielded(always())

    for _ in range(3):
        assert shield.client.send(method, "/a", b"body").status == 200

    assert upstream.accepted == 3
    assert [asked.all("connection") for asked in upstream.asked] == [["close"]] * 3


def test_a_post_does_not_meet_a_connection_that_upstream_has_closed(shielded: Start) -> None:
    """Upstream closes each connection after its answer, and does not say so in it."""

    def serve(wire: Wire) -> None:
        wire.request()
        wire.answer(b"hello")

    upstream, shield = shielded(serve)

    for number in range(100):
        assert shield.client.send("POST", "/a", b"body").status == 200, number

    assert len(upstream.asked) == 100


def test_a_get_that_meets_a_closing_connection_is_asked_again(shielded: Start) -> None:
    """Upstream takes a second request on a connection, and ends it instead of answering."""

    def serve(wire: Wire) -> None:
        wire.request()
        wire.answer(b"hello")
        wire.request()

    upstream, shield = shielded(serve)

    shield.get("/one")
    assert shield.get("/two").status == 200

    assert [asked.target for asked in upstream.asked] == ["/one", "/two", "/two"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_body_that_got_no_answer_is_not_sent_again(method: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        received.append(wire.request().body)

    received: list[bytes] = []
    _, shield = shielded(serve)

    answer = shield.client.send(method, "/a", b"body")

    assert answer.status == 502
    assert received == [b"body"]


# --- clients that go


def go(sock: socket.socket, how: str) -> None:
    if how == "RST":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    sock.close()


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_client_that_goes_before_the_answer_takes_the_request_with_it(how: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        asked.set()
        assert wire.is_over()
        over.set()

    asked, over = threading.Event(), threading.Event()
    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a"))
    assert asked.wait(20)

    go(sock, how)

    assert over.wait(2)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_client_that_goes_during_its_body_takes_the_request_with_it(how: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.head()
        wire.read(5)
        asked.set()
        assert wire.is_over()  # and so no half of a body looks whole
        over.set()

    asked, over = threading.Event(), threading.Event()
    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Content-Length: 100", method="POST") + b"first")
    assert asked.wait(20)

    go(sock, how)

    assert over.wait(2)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_client_that_goes_during_the_answer_ends_it_upstream(how: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        try:
            wire.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                wire.say(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        except ConnectionError:
            over.set()

    over = threading.Event()
    _, shield = shielded(serve, send_buffer=65_536)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a"))
    sock.recv(1000)

    go(sock, how)

    assert over.wait(2)


def test_a_body_that_upstream_does_not_take_is_given_up(shielded: Start) -> None:
    """All buffers are full, and nobody reads: the time for an answer ends it, and not only when upstream reads on."""

    def serve(wire: Wire) -> None:
        wire.head()
        asked.set()
        assert go_on.wait(20)
        with contextlib.suppress(ConnectionError):
            while wire.sock.recv(65_536):
                pass
        over.set()

    asked, go_on, over = threading.Event(), threading.Event(), threading.Event()
    _, shield = shielded(serve, receive_buffer=65_536, upstream_answer_s=0.5)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Content-Length: 100000000", method="POST"))
    assert asked.wait(20)
    sock.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            sock.send(bytes(65_536))

    until(lambda: shield.statistics["requests"] == 0)  # no piece has gone out for half a second
    go_on.set()

    assert over.wait(2)


# --- too many


def test_one_request_more_than_there_may_be_is_refused(shielded: Start) -> None:
    upstream, shield = shielded(hang, max_upstream_requests=2)
    socks = [shield.client.connect() for _ in range(2)]
    for sock in socks:
        sock.sendall(shield.client.request("/a"))
    until(lambda: len(upstream.asked) == 2)

    answer = shield.get("/a")

    assert answer.status == 503
    assert answer.head["retry-after"] == "1"
    assert document(answer)["limit"] == 2
    for sock in socks:
        sock.close()
    until(lambda: shield.statistics["requests"] == 0)
    assert shield.statistics["refused"] == 1


def test_one_stream_more_than_there_may_be_is_refused_and_other_requests_are_not(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        while True:
            if "event" in wire.request().target:
                wire.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                assert wire.is_over()
                return
            wire.answer(b"hello")

    upstream, shield = shielded(serve, max_upstream_streams=1)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/api/event"))
    until(lambda: shield.statistics["streams"] == 1)

    for target, fields in (("/api/event", ()), ("/a", ("Accept: text/event-stream",)), ("/events", ())):
        refused = shield.get(target, *fields)

        assert refused.status == 503
        assert document(refused)["limit"] == 1
        assert "streams" in document(refused)["detail"]
    assert shield.get("/a").status == 200
    assert [asked.target for asked in upstream.asked] == ["/api/event", "/events", "/a"]  # as few as can be known


def test_what_looks_like_a_stream_and_is_none_gives_its_place_back(shielded: Start) -> None:
    _, shield = shielded(always(), max_upstream_streams=1)

    assert [shield.get("/api/event").status for _ in range(3)] == [200, 200, 200]
