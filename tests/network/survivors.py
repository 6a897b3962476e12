"""Clients that are slow, silent or late, and alive: none of them may be ended. Functions like those of `deaths`.

No limit is reached, but each is come near to, and what was sent must all arrive.
"""

import socket
import time

from tests.clients import DEADLINE_S, NDJSON, Stream, dumps, envelope, parse_head, until
from tests.network.day import HISTORY_BYTES
from tests.network.hosts import peer_of
from tests.network.stage import SHORT_LIMITS, Stage
from tests.network.visitors import (
    asks_for_history,
    asks_for_receipt,
    say_goodbye,
    silent_subscriber,
    subscribed,
    target,
)

# Well beyond every limit of these.
LONG_S = 1.4 * SHORT_LIMITS["stalled_s"]


def names(stream: Stream, count: int) -> list[str]:
    return [frame.event for frame in stream.events(count)]


def resumes_a_second_before_its_limit(stage: Stage, room: str) -> None:
    stream = silent_subscriber(stage, room, receive_buffer=0)
    fed = stage.fill(room, stream)
    handle = stage.handle(peer_of(stream.sock))
    assert handle is not None
    time.sleep(handle["evict_in_s"] - 1.0)

    assert names(stream, len(fed)) == fed
    assert names_of(stage, room, stream) == []


def names_of(stage: Stage, room: str, stream: Stream) -> list[str]:
    """Feed one more, and return what came that is not it."""
    (fed,) = stage.feed(room)
    (found,) = names(stream, 1)
    return [] if found == fed else [found]


def reads_slowly_with_a_small_buffer(stage: Stage, room: str) -> None:
    reads_slowly(stage, room, pace=8_000, receive_buffer=4096)


def reads_slowly_with_the_usual_buffer(stage: Stage, room: str) -> None:
    reads_slowly(stage, room, pace=64_000, receive_buffer=0)


def reads_slowly(stage: Stage, room: str, *, pace: int, receive_buffer: int) -> None:
    """Read at `pace` bytes a second, always behind, for longer than any limit."""
    stream = subscribed(stage, room, receive_buffer=receive_buffer)
    fed = stage.feed(room, 20)
    began, found, read = time.monotonic(), [], 0
    while (passed := time.monotonic() - began) < LONG_S:
        if read < passed * pace:
            found += stream.poll(pace // 8)
            read += pace // 8
        time.sleep(0.02)
    assert stage.handle(peer_of(stream.sock))
    stream.sock.settimeout(DEADLINE_S)

    seen = [frame.event for frame in found if not frame.is_control]
    assert len(seen) < len(fed)
    assert seen + names(stream, len(fed) - len(seen)) == fed


def is_idle(stage: Stage, room: str) -> None:
    stream = subscribed(stage, room)
    began = time.monotonic()
    while time.monotonic() - began < LONG_S:
        assert stream.frame().type == "server.heartbeat"
    assert names_of(stage, room, stream) == []


def reads_a_long_answer_slowly(stage: Stage, room: str) -> None:
    sock = asks_for_history(stage)
    read, began = 0, time.monotonic()
    answer = bytearray()
    while not answer.endswith(b"\r\n0\r\n\r\n"):
        if time.monotonic() - began < LONG_S:
            time.sleep(0.05)
            assert read < HISTORY_BYTES
        received = sock.recv(20_000)
        assert received, bytes(answer[-100:])
        answer += received
        read += len(received)
    assert read > HISTORY_BYTES


def reads_its_receipt_after_its_goodbye(stage: Stage, room: str) -> None:
    sock, published = asks_for_receipt(stage, room)
    say_goodbye(sock)
    time.sleep(stage.limits["fin_zombie_s"] / 2)
    answer = b""
    while received := sock.recv(65_536):
        answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert parse_head(head).status == 200
    assert published[-1].encode() in body
    assert body.endswith(b"}")


def reads_an_answer_slowly_that_ends_its_connection(stage: Stage, room: str) -> None:
    """The server has said its own goodbye to the connection, which is none of the client's."""
    sock, published = asks_for_receipt(stage, room, "Connection: close")
    answer = b""
    while not answer.endswith(b"}"):
        time.sleep(1.5 * stage.limits["fin_zombie_s"])
        read = 0
        while read < 130_000 and (received := sock.recv(65_536)):
            answer += received
            read += len(received)
        assert read, answer[-100:]
    assert sock.recv(1) == b""
    assert published[-1].encode() in answer


def comes_back_after_its_goodbye(stage: Stage, room: str) -> None:
    """What its connection held is delivered, though it said goodbye; nothing is put behind that."""
    stream = silent_subscriber(stage, room)
    fed = stage.fill(room, stream)
    peer = say_goodbye(stream.sock)
    time.sleep(stage.limits["fin_zombie_s"] / 2)

    found = [frame.event for frame in stream.rest() if not frame.is_control]
    assert stream.ended == "cut"
    assert found
    assert found == fed[: len(found)]
    farewell = until(lambda: stage.farewell(peer))
    assert farewell is not None
    assert farewell["reason"] == "client_closed"


def keeps_a_connection_it_does_not_use(stage: Stage, room: str) -> None:
    client = stage.client()
    sock = client.connect()
    for _ in range(2):
        sock.sendall(client.request("/-/healthy"))
        assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
        time.sleep(LONG_S / 2)
    sock.sendall(client.request("/-/healthy"))
    assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")


def says_its_head_slowly(stage: Stage, room: str) -> None:
    client = stage.client()
    sock = client.connect()
    request = client.request(target(room))
    half = len(request) // 2
    sock.sendall(request[:half])
    time.sleep(stage.limits["head_timeout_s"] / 2)
    sock.sendall(request[half:])
    stream = Stream(sock)
    assert stream.read_head().status == 200
    time.sleep(2 * stage.limits["head_timeout_s"])
    assert names_of(stage, room, stream) == []


def publishes_a_line_now_and_then(stage: Stage, room: str) -> None:
    """An upload of any length, slower than a head may be."""
    client = stage.client()
    sock: socket.socket = client.connect()
    rows = [dumps(envelope(f"{room}{number}", room)) + b"\n" for number in range(5)]
    fields = (f"Content-Type: {NDJSON}", f"Content-Length: {sum(map(len, rows))}")
    sock.sendall(client.request("/global/event", *fields, method="POST"))
    for row in rows:
        time.sleep(LONG_S / len(rows))
        sock.sendall(row)
    answer = sock.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"accepted":5' in answer + sock.recv(65_536) if b"accepted" not in answer else answer


SURVIVORS = [
    resumes_a_second_before_its_limit,
    reads_slowly_with_a_small_buffer,
    reads_slowly_with_the_usual_buffer,
    is_idle,
    reads_a_long_answer_slowly,
    reads_its_receipt_after_its_goodbye,
    reads_an_answer_slowly_that_ends_its_connection,
    keeps_a_connection_it_does_not_use,
    says_its_head_slowly,
    publishes_a_line_now_and_then,
]
