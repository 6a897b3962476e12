"""Heads that do not end: how much of one is taken, however it is cut into pieces, and what its sender is told."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.web.heads import END, HeadMeter
from tests.clients import dumps, parse_head, until
from tests.servers import LOOPS, Server
from tests.web.events import synced

Serve = Callable[..., Server]

LIMIT = 40


def pieces(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Return `raw`, cut at some places."""
    at = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    return [raw[start:end] for start, end in itertools.pairwise(at)]


# --- counting


@given(
    head=st.binary(max_size=LIMIT).map(lambda raw: raw.replace(b"\r", b"x").replace(b"\n", b"x")),
    body=st.binary(max_size=100),
    cuts=st.lists(st.integers(0, 1000), max_size=8),
)
def test_a_head_within_its_limit_is_taken_whole(head: bytes, body: bytes, cuts: list[int]) -> None:
    meter = HeadMeter(LIMIT + 3)

    for piece in pieces(b"\r\n" + b"G" + head[1:] + END + body, cuts):
        assert meter.is_over or meter.takes(piece)
    assert meter.is_over


@given(size=st.integers(LIMIT + 1, 400), cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_a_head_without_an_end_is_refused_at_the_byte_beyond_its_limit(size: int, cuts: list[int]) -> None:
    meter, taken = HeadMeter(LIMIT), 0

    for piece in pieces(b"G" * size, cuts):
        is_within = taken + len(piece) <= LIMIT
        assert meter.takes(piece) is is_within
        if not is_within:
            return
        taken += len(piece)
    raise AssertionError("it was taken whole")


def test_empty_lines_before_a_request_do_not_end_its_head() -> None:
    meter = HeadMeter(LIMIT)

    assert meter.takes(b"\r\n\r\n\r\n\r\n")
    assert not meter.is_over
    assert not meter.takes(b"\r\n" + b"G" * (LIMIT + 1))


def test_the_next_head_has_the_whole_limit_again() -> None:
    meter = HeadMeter(LIMIT)
    assert meter.takes(b"G" * LIMIT)
    assert meter.takes(END)
    meter.begin()

    assert not meter.is_over
    assert meter.takes(b"G" * LIMIT)
    assert not meter.takes(b"G")


# --- over a connection


def fields(size: int) -> bytes:
    """Return fields of a head, each of 100 bytes."""
    return b"".join(b"X-%03d: " % number + b"x" * 91 + b"\r\n" for number in range(size // 100))


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_head_that_goes_on_and_on_is_told_so_before_it_ends(serve: Serve) -> None:
    server = serve(max_head_bytes=2048)
    sock = server.client.connect()
    sock.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n" + fields(1900))
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
def test_the_second_head_of_a_connection_is_bounded_as_the_first(serve: Serve) -> None:
    server = serve(max_head_bytes=2048)
    sock = server.client.connect()
    body = dumps([synced(1, 1, data="x" * 10_000)])
    head = (f"Content-Length: {len(body)}", "Content-Type: application/json")
    for piece in (server.client.request("/global/event", *head, method="POST"), body[:5000], body[5000:]):
        sock.sendall(piece)
    assert b" 200 OK" in sock.recv(65_536)  # a body is no head, whatever its size

    sock.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n")
    sock.sendall(fields(2900))
    assert b" 431 " in sock.recv(65_536)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_body_that_is_refused_before_it_has_come_is_no_head(serve: Serve) -> None:
    server = serve(max_head_bytes=2048, max_body_bytes=10_000)
    sock = server.client.connect()
    head = ("Content-Length: 20000", "Content-Type: application/json")
    sock.sendall(server.client.request("/global/event", *head, method="POST"))
    assert b" 413 " in sock.recv(65_536)

    for _ in range(4):
        sock.sendall(b"x" * 5000)
    sock.sendall(server.client.request("/-/healthy"))
    assert b" 200 OK" in sock.recv(65_536)
