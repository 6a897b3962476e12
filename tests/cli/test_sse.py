"""The parser against the rules of WHATWG HTML, "9.2.6 Interpreting an event stream", cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.cli.sse import Parser, ServerSentEvent


def parse(text: bytes) -> list[ServerSentEvent]:
    return Parser().feed(text)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_every_line_end_ends_a_line(end: bytes) -> None:
    text = end.join([b"id: 1", b"data: one", b"", b"data: two", b"", b""])

    assert parse(text) == [ServerSentEvent("one", last_id="1"), ServerSentEvent("two", last_id="1")]


def test_mixed_line_ends_make_no_extra_lines() -> None:
    assert parse(b"data: a\r\ndata: b\rdata: c\n\r\n") == [ServerSentEvent("a\nb\nc")]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"data: x\n\n", "x"),
        (b"data:x\n\n", "x"),
        (b"data:  x\n\n", " x"),
        (b"data: a:b\n\n", "a:b"),
        (b"data\n\n", ""),
        (b"data\ndata\n\n", "\n"),
        (b"data: a\ndata: b\n\n", "a\nb"),
        (b"\xef\xbb\xbfdata: x\n\n", "x"),
        (b": comment\ndata: x\n\n", "x"),
        (b"unknown: y\ndata: x\n\n", "x"),
        ("data: \u2028\x85é😀\n\n".encode(), "\u2028\x85é😀"),
        (b"data: \xff\n\n", "\ufffd"),
    ],
    ids=[
        "a space is taken away", "no space", "only one space", "only the first colon", "no colon", "two empty lines",
        "two lines", "a BOM", "a comment", "an unknown field", "only CR and LF end lines", "bad UTF-8",
    ],
)  # fmt: skip
def test_data_is_what_the_rules_say(text: bytes, data: str) -> None:
    assert [event.data for event in parse(text)] == [data]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n\n",
        b": ping\n\n",
        b"event: x\n\n",
        b"id: 5\n\n",
        b"data: x\n",
        b"data: x",
        b"Data: x\n\n",
        b" data: x\n\n",
    ],
    ids=["nothing", "blank lines", "a comment", "no data", "only an id", "not ended", "cut", "a capital", "a space"],
)
def test_nothing_is_dispatched(text: bytes) -> None:
    assert parse(text) == []


def test_a_bom_inside_the_stream_is_no_bom() -> None:
    assert parse(b"data: a\n\n\xef\xbb\xbfdata: b\n\n") == [ServerSentEvent("a")]


def test_the_type_is_the_events_own() -> None:
    assert parse(b"event: ping\ndata: a\n\ndata: b\n\n") == [ServerSentEvent("a", "ping"), ServerSentEvent("b")]


def test_an_id_stays_until_the_next_one_and_an_empty_one_clears_it() -> None:
    events = parse(b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n")

    assert [event.last_id for event in events] == ["1", "1", ""]


def test_an_id_with_nul_is_ignored() -> None:
    assert [event.last_id for event in parse(b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n")] == ["1", "1"]


def test_an_id_counts_only_when_its_block_has_ended() -> None:
    parser = Parser("0")
    parser.feed(b"id: 1\n\nid: 2\ndata: x\n")

    assert parser.last_id == "1"


@pytest.mark.parametrize(
    ("value", "retry_s"),
    [(b"1500", 1.5), (b"0", 0.0), (b"-1", None), (b"1.5", None), (b"", None), (b"\xd9\xa1", None), (b"9" * 5000, None)],
    ids=["digits", "zero", "a sign", "a point", "empty", "digits that are not ASCII", "more than can be waited"],
)
def test_retry_is_digits_only(value: bytes, retry_s: float | None) -> None:
    parser = Parser()
    parser.feed(b"retry: " + value + b"\n")

    assert parser.retry_s == retry_s


lines = st.lists(
    st.one_of(
        st.sampled_from(
            [b"", b":", b"data", b"data:", b"id: 7", b"id: \0", b"retry: 12", b"event: e", b"\xef\xbb\xbf"]
        ),
        st.binary(max_size=8).map(lambda value: b"data: " + value),
        st.binary(max_size=6),
    ),
    max_size=12,
)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
streams = st.lists(st.tuples(lines, ends), max_size=3).map(
    lambda parts: b"".join(line + end for block, end in parts for line in block)
)


@given(streams, st.data())
def test_where_a_stream_is_cut_makes_no_difference(stream: bytes, data: st.DataObject) -> None:
    whole = Parser()
    expected = whole.feed(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))

    pieces = Parser()
    found: list[ServerSentEvent] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += pieces.feed(stream[begin:end])

    assert found == expected
    assert (pieces.last_id, pieces.retry_s) == (whole.last_id, whole.retry_s)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1), ends)
def test_data_comes_back_as_it_was_sent(texts: list[str], end: bytes) -> None:
    stream = b"".join(b"data: " + text.encode() + end + end for text in texts)

    assert [event.data for event in parse(stream)] == texts
