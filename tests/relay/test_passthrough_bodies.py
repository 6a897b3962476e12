"""Bodies are streams in both directions: nothing waits for their end, and nobody holds them."""

import contextlib
import hashlib
import random
import socket
import threading
from pathlib import Path

import pytest

from tests.clients import until
from tests.relay.shield import Shield, Start, Wire, always, read_answer

MANY = 200 * 1024 * 1024
PIECE = 256 * 1024


def resident_kib() -> int:
    """Return the memory that this process has, the shield's thread included."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def pieces(total: int) -> list[bytes]:
    """Return pieces of sizes that nothing is aligned to, `total` bytes in all."""
    dice, found, left = random.Random(5), [], total
    while left:
        found.append(dice.randbytes(min(left, dice.randint(1, 200_000))))
        left -= len(found[-1])
    return found


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_answer_comes_whole(framing: str, shielded: Start) -> None:
    body = pieces(20_000_000)

    def serve(wire: Wire) -> None:
        wire.request()
        if framing == "length":
            wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n", *body)
        else:
            wire.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            wire.say(*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in body), b"0\r\n\r\n")

    _, shield = shielded(serve)

    answer = shield.get("/a")

    assert answer.head.all("content-length") == (["20000000"] if framing == "length" else [])
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(b"".join(body)).digest()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_arrives_whole(framing: str, shielded: Start) -> None:
    body = pieces(20_000_000)

    def serve(wire: Wire) -> None:
        received.append(hashlib.sha256(wire.request().body).digest())
        wire.answer(b"thanks")

    received: list[bytes] = []
    upstream, shield = shielded(serve)

    answer = shield.client.send("PUT", "/a", b"".join(body) if framing == "length" else body)

    assert answer.body == b"thanks"
    assert received == [hashlib.sha256(b"".join(body)).digest()]
    assert upstream.asked[0].all("content-length") == (["20000000"] if framing == "length" else [])
    assert upstream.asked[0].all("content-type") == []


def test_a_get_may_have_a_body(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.answer(wire.request().body)

    _, shield = shielded(serve)

    assert shield.client.send("GET", "/a", b"asked").body == b"asked"


def test_each_piece_goes_on_when_it_comes(shielded: Start) -> None:
    """Both ways at once: upstream answers each piece of a body whose end has not been sent."""

    def serve(wire: Wire) -> None:
        wire.head()
        wire.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            piece = wire.read(8)
            wire.say(piece)
        wire.read(5)
        wire.say(b"0\r\n\r\n")

    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Transfer-Encoding: chunked", method="POST"))

    received = b""
    for number in range(3):
        piece = b"3\r\n%03d\r\n" % number
        sock.sendall(piece)
        while not received.endswith(piece):
            received += sock.recv(65_536)
    sock.sendall(b"0\r\n\r\n")
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += sock.recv(65_536)


def test_a_head_goes_on_before_its_body(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        assert seen.wait(20)
        wire.say(b"body")

    seen = threading.Event()
    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a"))

    assert sock.recv(65_536).endswith(b"\r\n\r\n")
    seen.set()
    assert sock.recv(65_536) == b"body"


def test_events_go_on_one_by_one_and_are_counted_as_a_stream(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n")
        wire.say(b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            assert more.acquire(timeout=20)
            wire.say(b"9\r\ndata: %d\n\n\r\n" % number)
        assert wire.is_over()

    more = threading.Semaphore(0)
    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/api/event"))
    assert b"text/event-stream" in sock.recv(65_536)

    for number in range(3):
        more.release()
        assert sock.recv(65_536) == b"9\r\ndata: %d\n\n\r\n" % number
    assert shield.statistics["streams"] == 1
    sock.close()

    until(lambda: shield.statistics["streams"] == 0)


# --- Expect


def test_a_client_that_waits_is_asked_for_its_body(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        asked = wire.request()
        wire.answer(asked.body)

    upstream, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Expect: 100-continue", "Content-Length: 4", method="POST"))

    assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    sock.sendall(b"body")

    assert read_answer(sock).body == b"body"
    assert upstream.asked[0].all("expect") == []


def test_a_client_that_waits_is_not_asked_while_upstream_is_away() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, and connecting is refused
        taken.bind(("127.0.0.1", 0))
        shield = Shield(f"http://127.0.0.1:{taken.getsockname()[1]}", "asyncio")
        shield.start()
        try:
            sock = shield.client.connect()
            sock.sendall(shield.client.request("/a", "Expect: 100-continue", "Content-Length: 4", method="POST"))

            assert read_answer(sock).status == 502
        finally:
            shield.stop()


# --- ends


CUTS = {
    "by length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("kind", ["FIN", "RST"])
@pytest.mark.parametrize("raw", CUTS.values(), ids=CUTS.keys())
def test_an_answer_that_breaks_off_never_looks_whole(raw: bytes, kind: str, version: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(raw)
        assert seen.wait(20)
        if kind == "RST":
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    seen = threading.Event()
    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", version=version))
    received = b""
    while b"half" not in received:
        received += sock.recv(65_536)
    seen.set()

    ended = "cut"
    try:
        while more := sock.recv(65_536):
            received += more
    except ConnectionResetError:
        ended = "reset"

    assert not received.endswith(b"0\r\n\r\n")
    if version == "1.0" and b"Content-Length" not in received:
        assert ended == "reset"  # else nothing tells it from the end
    (line,) = [line for line in shield.lines if line["event"] == "answer.cut"]
    assert (line["path"], line["sent_bytes"]) == ("/a", 4)
    assert shield.statistics["cut"] == 1


def test_an_answer_before_the_end_of_a_body_goes_on_at_once(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.head()
        wire.answer(b"too much", status="413 Too Much")
        assert seen.wait(20)

    seen = threading.Event()
    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Content-Length: 1000000", method="POST") + b"first")

    assert read_answer(sock).status == 413
    seen.set()


def test_the_head_of_a_request_goes_on_before_its_body(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.head()
        wire.answer(b"no need", status="413 Too Much")

    _, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Content-Length: 4", method="POST"))

    assert read_answer(sock).body == b"no need"


def test_a_body_that_breaks_off_never_looks_whole(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        with pytest.raises((EOFError, ConnectionError)):
            wire.request()
        over.set()

    over = threading.Event()
    upstream, shield = shielded(serve)
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n")
    until(lambda: upstream.asked)

    sock.close()

    assert over.wait(2)


# --- memory


@pytest.mark.limit_s(120)
def test_a_client_that_reads_slowly_holds_upstream_up_and_no_memory(shielded: Start) -> None:
    """The answer is 200 MB; of it, there is at no time more than a few MB between upstream and the client."""

    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MANY)
        for _ in range(MANY // PIECE):
            wire.say(piece)
            sent[0] += PIECE

    sent = [0]
    piece = bytes(PIECE)
    _, shield = shielded(serve, send_buffer=65_536)
    before = resident_kib()
    sock = shield.client.connect(receive_buffer=65_536)
    sock.sendall(shield.client.request("/a"))
    received = len(sock.recv(65_536).partition(b"\r\n\r\n")[2])
    held, most = 0, 0
    while received < MANY:
        received += len(sock.recv(4096 if received < 1_000_000 else PIECE))
        held = max(held, sent[0] - received)
        most = max(most, resident_kib() if received % 64 == 0 else 0)

    assert held < 16 * 1024 * 1024  # the kernel's buffers of two connections, mostly
    assert most - before < 16 * 1024


def test_an_upstream_that_does_not_read_holds_its_client_up(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.head()
        assert over.wait(20)

    over = threading.Event()
    _, shield = shielded(serve, receive_buffer=65_536)
    before = resident_kib()
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a", f"Content-Length: {MANY}", method="POST"))
    sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < MANY:
            sent += sock.send(bytes(PIECE))

    assert sent < 32 * 1024 * 1024
    assert resident_kib() - before < 16 * 1024
    over.set()


def test_nothing_is_added_to_an_empty_body(shielded: Start) -> None:
    upstream, shield = shielded(always(body=b""))

    assert shield.get("/a", "Content-Length: 0", method="POST").body == b""

    assert upstream.asked[0].all("content-length") == ["0"]
    assert upstream.asked[0].all("transfer-encoding") == []
