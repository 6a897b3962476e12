import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.bench.answers import Answer, AnswerParser


def response(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nServer: x\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@given(st.lists(st.integers(0, 300), max_size=8))
def test_pipelined_answers_are_told_apart_wherever_reads_are_cut(places: list[int]) -> None:
    stream = response(200, b'{"accepted":1}') + response(400, b"\r\n\r\nHTTP/1.1 200 OK") + response(200, b"")
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    parser = AnswerParser()

    answers = [answer for a, b in itertools.pairwise(edges) for answer in parser.feed(stream[a:b])]

    assert answers == [Answer(200, b'{"accepted":1}'), Answer(400, b"\r\n\r\nHTTP/1.1 200 OK"), Answer(200, b"")]


def test_an_interim_response_is_no_answer() -> None:
    stream = b"HTTP/1.1 100 Continue\r\n\r\n" + response(200, b"{}")

    assert AnswerParser().feed(stream) == [Answer(200, b"{}")]


@pytest.mark.parametrize(
    "stream", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nDate: now\r\n\r\n"], ids=["no HTTP", "no length"]
)
def test_what_cannot_be_framed_is_an_error(stream: bytes) -> None:
    with pytest.raises(ValueError):
        AnswerParser().feed(stream)


@pytest.mark.parametrize(
    ("body", "accepted"),
    [(b'{"accepted":50,"duplicates":0}', 50), (b'{ "accepted" : 3 }', 3), (b'{"ok":true}', -1)],
    ids=["compact", "spaced", "not said"],
)
def test_the_daemon_says_how_many_events_it_took(body: bytes, accepted: int) -> None:
    assert Answer(200, body).accepted() == accepted
