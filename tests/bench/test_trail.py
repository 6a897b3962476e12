"""Any cutting of a response into reads must be understood alike, and what was understood is not parsed again."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.bench.payload import EventMaker
from opencode_events.bench.sequence import Position
from opencode_events.bench.trail import (
    AT_END,
    CLOSING,
    CONNECTED,
    EXPIRED,
    REFUSED,
    BrokenFrame,
    Cut,
    Step,
    Trail,
    dechunk,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HELLO = b'retry: 1000\ndata: {"payload":{"type":"server.connected","properties":{}}}\n\n'
GOODBYE = b'id: a-9\ndata: {"payload":{"type":"server.stream.closing","properties":{}}}\n\n'
FOREIGN = b'id: a-1\ndata: {"payload":{"type":"x","properties":{"run":"other","seq":0,"sent":1}}}\n\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def blocks(count: int) -> list[bytes]:
    maker = EventMaker("ab12cd34")
    return [b"id: a-%d\ndata: %s\n\n" % (i, maker.make()) for i in range(count)]


def walk(reads: list[bytes], trail: Trail | None = None) -> tuple[Cut, list[Step]]:
    trail = trail or Trail("ab12cd34")
    cut, steps = trail.start(), []
    for data in reads:
        steps.append(trail.read(cut, data))
        cut = steps[-1].then
    return cut, steps


@given(st.lists(st.integers(0, 3_000), max_size=12), st.integers(1, 700))
def test_a_stream_is_understood_wherever_its_reads_and_its_chunks_are_cut(places: list[int], chunk_size: int) -> None:
    body = b"".join([HELLO, FOREIGN, *blocks(7), GOODBYE])
    chunks = [chunk(body[at : at + chunk_size]) for at in range(0, len(body), chunk_size)]
    stream = b"".join([HEAD, *chunks, b"0\r\n\r\n"])
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]

    cut, steps = walk([stream[a:b] for a, b in itertools.pairwise(edges)])

    assert cut.position == Position(due=7)
    assert cut.left == AT_END
    assert sum(step.count for step in steps) == 7
    assert [word for step in steps for word in step.news] == [CONNECTED, CLOSING]


def test_every_single_byte_may_come_alone() -> None:
    stream = HEAD + chunk(HELLO) + b"".join(chunk(block) for block in blocks(3))

    cut, _ = walk([stream[i : i + 1] for i in range(len(stream))])

    assert cut.position == Position(due=3)


def test_a_read_at_the_same_cut_is_parsed_once() -> None:
    trail = Trail("ab12cd34")
    data = HEAD + chunk(HELLO) + chunk(b"".join(blocks(5)))

    first = trail.read(trail.start(), data)
    second = trail.read(trail.start(), data)

    assert second is first
    assert first.count == 5


def test_reads_of_the_same_length_and_other_bytes_are_told_apart() -> None:
    trail = Trail("ab12cd34")
    cut, _ = walk([HEAD + chunk(HELLO)], trail)
    good, bad = (chunk(b"".join(order)) for order in (blocks(2), reversed(blocks(2))))

    assert trail.read(cut, good).then.position == Position(due=2)
    assert trail.read(cut, bad).then.position == Position(due=2, disordered=1)
    assert trail.read(cut, good).then.position == Position(due=2)


def test_subscribers_whose_reads_were_cut_differently_meet_again() -> None:
    trail = Trail("ab12cd34")
    stream = HEAD + chunk(HELLO) + chunk(b"".join(blocks(4)))

    whole, _ = walk([stream], trail)
    halves, _ = walk([stream[:300], stream[300:]], trail)

    assert halves is whole


def test_many_different_cuts_are_not_kept_for_ever() -> None:
    trail = Trail("ab12cd34")
    cut, _ = walk([HEAD, *(chunk(block) for block in blocks(400))], trail)

    assert cut.position == Position(due=400)
    assert len(trail._cuts) <= 256


def test_a_refusal_is_news_with_the_status_and_the_body() -> None:
    head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 11\r\nRetry-After: 1\r\n\r\n"

    _, steps = walk([head + b"no more now"])

    assert steps[0].news == (REFUSED, "503 Service Unavailable: no more now")


def test_a_cursor_that_has_expired_is_news() -> None:
    expired = b'data: {"payload":{"type":"server.stream.expired","properties":{"reason":"trimmed"}}}\n\n'

    _, steps = walk([HEAD + chunk(HELLO + expired)])

    assert steps[0].news == (CONNECTED, EXPIRED)


def test_a_stream_that_is_not_chunked_is_refused_in_words() -> None:
    _, steps = walk([b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"])

    assert steps[0].news == (REFUSED, "200, but the response is not chunked")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
        pytest.param(HEAD + b"not a size\r\n", id="no chunk size"),
        pytest.param(HEAD + chunk(HELLO) + b"\r\n\r\n", id="an empty size line"),
        pytest.param(HEAD + b"1;" + b"x" * 300, id="an endless size line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000, id="an endless head"),
    ],
)
def test_what_is_not_a_stream_is_refused(raw: bytes) -> None:
    with pytest.raises(BrokenFrame):
        walk([raw])


def test_chunk_extensions_and_upper_case_sizes_are_chunks() -> None:
    assert dechunk(b"A;name=value\r\n0123456789\r\n", 0) == (b"0123456789", 0, b"\r\n")


def test_what_follows_the_last_chunk_is_left_alone() -> None:
    assert dechunk(b"2\r\nab\r\n0\r\nTrailer: 1\r\n\r\n", 0) == (b"ab", AT_END, b"")
    assert dechunk(b"anything", AT_END) == (b"", AT_END, b"")
