"""Websockets through the shield: what one side says the other hears, and one side's end is the other's."""

import base64
import contextlib
import hashlib
import os
import socket
import struct
import threading

import pytest
from aiohttp.http_websocket import WS_KEY

from opencode_events.credentials import Credentials
from opencode_events.relay import websocket
from opencode_events.relay.websocket import MAX_MESSAGE_BYTES
from tests.clients import LINGER_NONE, until
from tests.relay.shield import Asked, Shield, Start, Wire, always, document, read_answer

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = base64.b64encode(bytes(16)).decode()
HANDSHAKE = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}")


class Frames:
    """One side of a websocket, in frames; a client's are masked (RFC 6455, section 5.1)."""

    def __init__(self, wire: Wire, *, is_client: bool) -> None:
        self.wire = wire
        self._is_client = is_client

    def say(self, opcode: int, payload: bytes = b"", *, is_last: bool = True) -> None:
        first, size = opcode | (0x80 if is_last else 0), len(payload)
        length = (size,) if size < 126 else (126, size) if size < 65_536 else (127, size)
        form = "!BB" + {1: "", 126: "H", 127: "Q"}[length[0] if len(length) > 1 else 1]
        mask = os.urandom(4) if self._is_client else b""
        head = struct.pack(form, first, length[0] | (0x80 if mask else 0), *length[1:])
        self.wire.say(head + mask + masked(payload, mask))

    def hear(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame, which must be a whole message."""
        first, second = self.wire.read(2)
        assert first & 0x80
        assert bool(second & 0x80) is not self._is_client
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self.wire.read(2 if size == 126 else 8), "big")
        mask = self.wire.read(4) if second & 0x80 else b""
        return first & 0x0F, masked(self.wire.read(size), mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    if not mask:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def accept(wire: Wire, *fields: str) -> Frames:
    """Take the handshake of a client."""
    asked = wire.request()
    (key,) = asked.all("sec-websocket-key")
    digest = base64.b64encode(hashlib.sha1(key.encode() + WS_KEY).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"]
    wire.say("\r\n".join([*lines, f"Sec-WebSocket-Accept: {digest}", *fields, "", ""]).encode())
    return Frames(wire, is_client=False)


def open_websocket(shield: Shield, *fields: str) -> tuple[Asked, Frames]:
    """Return what the shield says to a handshake, and the websocket."""
    wire = Wire(shield.client.connect())
    wire.say(shield.client.request("/pty/pty_1/connect?cursor=%2D1", *HANDSHAKE, *fields))
    return wire.head(), Frames(wire, is_client=True)


def echo(wire: Wire) -> None:
    frames = accept(wire)
    while True:
        opcode, payload = frames.hear()
        frames.say(opcode, payload)
        if opcode == CLOSE:
            return


@pytest.mark.parametrize(
    ("opcode", "payload"),
    [
        (TEXT, b""), (TEXT, "\u00e9 \U0001f600".encode()), (BINARY, b"\0\xff"), (BINARY, b"x" * 126),
        (BINARY, b"x" * 70_000), (TEXT, b"x" * 1_000_000), (BINARY, bytes(MAX_MESSAGE_BYTES)),
        (PING, b"there?"), (PONG, b"here"),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{len(value)} bytes",
)  # fmt: skip
def test_a_message_goes_to_upstream_and_back_as_it_is(opcode: int, payload: bytes, shielded: Start) -> None:
    upstream, shield = shielded(echo)
    head, frames = open_websocket(shield)
    assert head.line.startswith("HTTP/1.1 101 ")

    frames.say(opcode, payload)

    assert frames.hear() == (opcode, payload)
    assert upstream.asked[0].target == "/pty/pty_1/connect?cursor=%2D1"
    assert shield.statistics["streams"] == 1


def test_a_message_in_pieces_comes_whole_with_a_ping_between_them(shielded: Start) -> None:
    _, shield = shielded(echo)
    _, frames = open_websocket(shield)

    frames.say(TEXT, b"one ", is_last=False)
    frames.say(PING, b"?")
    frames.say(0, b"two")

    assert [frames.hear(), frames.hear()] == [(PING, b"?"), (TEXT, b"one two")]


@pytest.mark.parametrize("payload", [b"", struct.pack("!H", 1000), struct.pack("!H", 4321) + "b\u00fc".encode() * 20])
def test_a_goodbye_is_the_same_at_the_other_end_and_so_is_its_answer(payload: bytes, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        frames = accept(wire)
        heard.append(frames.hear())
        frames.say(TEXT, b"one more")
        frames.say(CLOSE, struct.pack("!H", 4000) + b"bye")

    heard: list[tuple[int, bytes]] = []
    _, shield = shielded(serve)
    _, frames = open_websocket(shield)

    frames.say(CLOSE, payload)

    assert [frames.hear(), frames.hear()] == [(TEXT, b"one more"), (CLOSE, struct.pack("!H", 4000) + b"bye")]
    assert heard == [(CLOSE, payload)]
    assert frames.wire.is_over()
    until(lambda: shield.statistics["streams"] == 0)


def test_upstream_may_say_goodbye_first(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        frames = accept(wire)
        frames.say(CLOSE, struct.pack("!H", 4001) + b"exit")
        heard.append(frames.hear())

    heard: list[tuple[int, bytes]] = []
    _, shield = shielded(serve)
    _, frames = open_websocket(shield)

    assert frames.hear() == (CLOSE, struct.pack("!H", 4001) + b"exit")
    frames.say(CLOSE, struct.pack("!H", 4001))

    assert frames.wire.is_over()
    until(lambda: heard)
    assert heard == [(CLOSE, struct.pack("!H", 4001))]


def test_a_goodbye_that_is_not_answered_is_the_end_all_the_same(
    shielded: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(wire: Wire) -> None:
        accept(wire).say(CLOSE, struct.pack("!H", 4001))
        assert wire.is_over()
        over.set()

    over = threading.Event()
    monkeypatch.setattr(websocket, "GOODBYE_ANSWER_S", 0.1)
    _, shield = shielded(serve)
    _, frames = open_websocket(shield)

    assert frames.hear() == (CLOSE, struct.pack("!H", 4001))
    assert frames.wire.is_over()
    assert over.wait(2)


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_upstream_s_death_ends_the_client_without_a_goodbye(how: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        frames = accept(wire)
        frames.say(TEXT, b"last words")
        assert heard.wait(20)
        if how == "RST":
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)

    heard = threading.Event()
    _, shield = shielded(serve)
    _, frames = open_websocket(shield)
    assert frames.hear() == (TEXT, b"last words")
    heard.set()

    assert frames.wire.is_over()


@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_client_s_death_ends_upstream_without_a_goodbye(how: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        accept(wire)
        ready.set()
        assert wire.is_over()
        over.set()

    ready, over = threading.Event(), threading.Event()
    _, shield = shielded(serve)
    _, frames = open_websocket(shield)
    assert ready.wait(20)

    if how == "RST":
        frames.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    frames.wire.sock.close()

    assert over.wait(2)


def test_a_message_that_is_too_large_ends_both_with_a_reason(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        frames = accept(wire)
        heard.append(frames.hear())

    heard: list[tuple[int, bytes]] = []
    _, shield = shielded(serve)
    _, frames = open_websocket(shield)

    with contextlib.suppress(ConnectionError):  # the rest of the message finds nobody
        frames.say(BINARY, bytes(MAX_MESSAGE_BYTES + 1))
        opcode, payload = frames.hear()
        assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", 1009))
    until(lambda: heard)
    assert (heard[0][0], heard[0][1][:2]) == (CLOSE, struct.pack("!H", 1009))


# --- handshakes


@pytest.mark.parametrize("chosen", ["one", "two", "three"])
def test_the_protocol_is_what_upstream_chose(chosen: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        frames = accept(wire, f"Sec-WebSocket-Protocol: {chosen}")
        frames.hear()

    upstream, shield = shielded(serve)

    head, _ = open_websocket(shield, "Sec-WebSocket-Protocol: one, two", "Sec-WebSocket-Protocol: three")

    assert upstream.asked[0].all("sec-websocket-protocol") == ["one,two,three"]
    assert head.all("sec-websocket-protocol") == [chosen]


def test_no_protocol_is_made_up_where_upstream_chose_none(shielded: Start) -> None:
    _, shield = shielded(echo)

    head, frames = open_websocket(shield, "Sec-WebSocket-Protocol: one")

    assert head.all("sec-websocket-protocol") == []
    frames.say(TEXT, b"x")
    assert frames.hear() == (TEXT, b"x")


def test_extensions_are_nobody_s(shielded: Start) -> None:
    upstream, shield = shielded(echo)

    head, _ = open_websocket(shield, "Sec-WebSocket-Extensions: permessage-deflate")

    assert head.all("sec-websocket-extensions") == []
    assert upstream.asked[0].all("sec-websocket-extensions") == []


@pytest.mark.parametrize("status", ["401 Who", "403 No", "404 Nowhere", "500 Oops", "200 OK"])
def test_a_refusal_is_upstream_s_own(status: str, shielded: Start) -> None:
    _, shield = shielded(always("X-One: 1", "Content-Type: text/html", body=b"<html>", status=status))
    sock = shield.client.connect()
    sock.sendall(shield.client.request("/pty/x/connect", *HANDSHAKE))

    answer = read_answer(sock)

    assert f"{answer.status}" == status[:3]
    assert answer.head["x-one"] == "1"
    sock.sendall(shield.client.request("/a"))  # the connection speaks HTTP as before
    assert read_answer(sock).body == b"<html>"


def test_an_upgrade_that_is_none_is_away(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")

    _, shield = shielded(serve)

    answer = shield.get("/pty/x/connect", *HANDSHAKE)

    assert answer.status == 502


def test_a_refusal_for_the_shield_s_password_is_not_the_client_s(shielded: Start) -> None:
    held = Credentials("opencode", "s3cret")
    _, shield = shielded(always('WWW-Authenticate: Basic realm="x"', status="401 Who"), credentials=held)

    answer = shield.get("/pty/x/connect", *HANDSHAKE, f"Authorization: {held.authorization}")

    assert answer.status == 502


@pytest.mark.parametrize(
    "raw", [b"", b"220 ready\r\n\r\n", b"HTTP/1.1 404 No\r\nX-One: a\x01b\r\nContent-Length: 0\r\n\r\n"]
)
def test_what_is_no_answer_to_a_handshake_is_told_as_none(raw: bytes, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(raw)

    _, shield = shielded(serve)

    assert shield.get("/pty/x/connect", *HANDSHAKE).status == 502


def test_a_handshake_that_is_not_answered_is_given_up(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        assert wire.is_over()

    _, shield = shielded(serve, upstream_answer_s=0.1)

    assert shield.get("/pty/x/connect", *HANDSHAKE).status == 504


def test_half_a_handshake_does_not_reach_upstream(shielded: Start) -> None:
    upstream, shield = shielded(echo)

    answer = shield.get("/pty/x/connect", *HANDSHAKE[:2])

    assert answer.status == 400
    assert upstream.asked == []


def test_a_stranger_and_another_one_s_page_get_no_terminal(shielded: Start) -> None:
    held = Credentials("opencode", "s3cret")
    upstream, shield = shielded(echo, credentials=held)
    shown = f"Authorization: {held.authorization}"

    assert shield.get("/pty/x/connect", *HANDSHAKE).status == 401
    assert shield.get("/pty/x/connect", *HANDSHAKE, shown, "Origin: https://evil.example").status == 403
    assert upstream.asked == []
    head, _ = open_websocket(shield, shown)

    assert head.line.startswith("HTTP/1.1 101 ")
    assert upstream.asked[0].all("authorization") == [held.authorization]


def test_one_websocket_more_than_there_may_be_is_refused(shielded: Start) -> None:
    _, shield = shielded(echo, max_upstream_streams=1)
    open_websocket(shield)

    answer = shield.get("/pty/x/connect", *HANDSHAKE)

    assert answer.status == 503
    assert document(answer)["limit"] == 1


def test_a_client_that_does_not_read_holds_upstream_up(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        frames = accept(wire)
        wire.sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while len(sent) < 2000:
                frames.say(BINARY, bytes(100_000))
                sent.append(1)
        stopped.set()
        assert over.wait(20)

    sent: list[int] = []
    stopped, over = threading.Event(), threading.Event()
    _, shield = shielded(serve, send_buffer=65_536)
    _, frames = open_websocket(shield)

    assert stopped.wait(20)

    assert len(sent) < 200
    over.set()
    frames.wire.sock.close()
