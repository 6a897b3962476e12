"""The parser against the rules of WHATWG HTML, "9.2.6 Interpreting an event stream", cut anywhere."""

import itertools
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opencode_events.sse import OTHER_BYTES, Parser, ServerSentEvent

KIB = 1024


def parse(text: bytes, max_bytes: int | None = None) -> list[ServerSentEvent]:
    return Parser(max_bytes=max_bytes).feed(text)


def feed(parser: Parser, stream: bytes, cuts: list[int]) -> list[ServerSentEvent]:
    """Feed a stream in the pieces that come of cutting it at `cuts`; some may be empty."""
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [event for begin, end in itertools.pairwise(places) for event in parser.feed(stream[begin:end])]


class Reference:
    """The standard's sentences one by one, over a whole stream, a byte at a time. Slow and obvious."""

    def __init__(self, stream: bytes, max_bytes: int | None) -> None:
        self.events: list[ServerSentEvent] = []
        self.last_id = ""
        self.retry_s: float | None = None
        self.max_bytes = max_bytes
        self.data: list[bytes] = []
        self.type = ""
        self.id_buffer = ""
        self.is_cut = False
        for line in self.lines(stream.removeprefix(b"\xef\xbb\xbf")):
            self.take(line)

    @staticmethod
    def lines(stream: bytes) -> list[bytes]:
        """Lines are ended by CRLF, by LF, or by CR; what is not ended is no line."""
        found, line, last = [], b"", b""
        for byte in (stream[at : at + 1] for at in range(len(stream))):
            if byte == b"\n" and last == b"\r":
                pass
            elif byte in (b"\r", b"\n"):
                found.append(line)
                line = b""
            else:
                line += byte
            last = byte
        return found

    def take(self, line: bytes) -> None:
        if line == b"":
            self.dispatch()
        elif line[:1] == b":":
            pass
        elif b":" in line:
            at = line.index(b":")
            value = line[at + 1 :]
            self.process(line[:at], value[1:] if value[:1] == b" " else value, len(line))
        else:
            self.process(line, b"", len(line))

    def process(self, field: bytes, value: bytes, line_bytes: int) -> None:
        if field == b"data":
            self.data.append(value)
            if self.max_bytes is not None and len(b"\n".join(self.data)) > self.max_bytes:
                self.is_cut = True
        elif self.max_bytes is not None and line_bytes > self.max_bytes:
            self.is_cut = True
        elif field == b"event":
            self.type = value.decode("utf-8", "replace")
        elif field == b"id" and b"\0" not in value:
            self.id_buffer = value.decode("utf-8", "replace")
        elif field == b"retry" and value and all(digit in b"0123456789" for digit in value) and len(value) < 16:
            self.retry_s = int(value) / 1000

    def dispatch(self) -> None:
        self.last_id = self.id_buffer
        if self.is_cut:
            self.events.append(ServerSentEvent(b"", self.type or "message", self.last_id, True))
        elif self.data:
            self.events.append(ServerSentEvent(b"\n".join(self.data), self.type or "message", self.last_id))
        self.data, self.type, self.is_cut = [], "", False


ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
LINES = st.sampled_from(
    [
        b"", b":", b": ping", b"data", b"data:", b"data: ", b"data:x", b"data: {}", b"data:  x", b"Data: x", b"dat",
        b"datax", b"data : x", b"id", b"id: 7", b"id: \0", b"id: 12345678", b"retry: 12", b"retry: 1x", b"event: e",
        b"event", b"\xef\xbb\xbf", b"\xef\xbb", b"unknown: 1", b"id: \xff",
    ]
) | st.one_of(
    st.binary(max_size=8),
    st.binary(max_size=30).map(lambda value: b"data: " + value),
    st.integers(0, 40).map(lambda size: b"data: " + b"x" * size),
    st.integers(0, 40).map(lambda size: b"id: " + b"x" * size),
    st.integers(0, 40).map(lambda size: b":" + b"x" * size),
)  # fmt: skip
BLOCKS = st.lists(st.tuples(LINES, ENDS), max_size=5).map(lambda lines: b"".join(line + end for line, end in lines))
STREAMS = st.lists(st.tuples(BLOCKS, ENDS).map(b"".join), max_size=5).map(b"".join)
CUTS = st.lists(st.integers(0, 250), max_size=12)
LIMITS = st.none() | st.integers(0, 40)


@given(st.sampled_from([b"", b"\xef\xbb\xbf"]), STREAMS, LINES, CUTS, LIMITS)
@example(b"", b"data: x\r\n\r\ndata: y\r\n\r\n", b"", [8, 9, 10, 11], None)
@example(b"\xef\xbb\xbf", b"data: x\n\n", b"", [0, 1, 2, 3], 1)
@example(b"", b"data: ab\n\ndata: c\n\n", b"", list(range(20)), 2)
def test_events_are_those_of_the_standard_wherever_the_stream_is_cut(
    bom: bytes, whole: bytes, half: bytes, cuts: list[int], max_bytes: int | None
) -> None:
    stream = bom + whole + half
    expected = Reference(stream, max_bytes)
    parser = Parser(max_bytes=max_bytes)

    assert feed(parser, stream, cuts) == expected.events
    assert (parser.last_id, parser.retry_s) == (expected.last_id, expected.retry_s)


@given(STREAMS, LIMITS)
def test_a_stream_may_come_byte_by_byte(stream: bytes, max_bytes: int | None) -> None:
    assert feed(Parser(max_bytes=max_bytes), stream, list(range(len(stream)))) == Reference(stream, max_bytes).events


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1), ENDS)
def test_data_comes_back_as_it_was_sent(texts: list[str], end: bytes) -> None:
    stream = b"".join(b"data: " + text.encode() + end + end for text in texts)

    assert [event.data.decode() for event in parse(stream)] == texts


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_every_line_end_ends_a_line(end: bytes) -> None:
    text = end.join([b"id: 1", b"data: one", b"", b"data: two", b"", b""])

    assert parse(text) == [ServerSentEvent(b"one", last_id="1"), ServerSentEvent(b"two", last_id="1")]


def test_mixed_line_ends_make_no_extra_lines() -> None:
    assert parse(b"data: a\r\ndata: b\rdata: c\n\r\n") == [ServerSentEvent(b"a\nb\nc")]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: a:b\n\n", b"a:b"),
        (b"data\n\n", b""),
        (b"data\ndata\n\n", b"\n"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"\xef\xbb\xbfdata: x\n\n", b"x"),
        (b": comment\ndata: x\n\n", b"x"),
        (b"data: x\n: comment\n\n", b"x"),
        (b"unknown: y\ndata: x\n\n", b"x"),
        ("data: \u2028\x85é😀\n\n".encode(), "\u2028\x85é😀".encode()),
        (b"data: \xff\n\n", b"\xff"),
    ],
    ids=[
        "a space is taken away", "no space", "only one space", "only the first colon", "no colon", "two empty lines",
        "two lines", "a BOM", "a comment before", "a comment behind", "an unknown field", "only CR and LF end lines",
        "bad UTF-8",
    ],
)  # fmt: skip
def test_data_is_what_the_rules_say(text: bytes, data: bytes) -> None:
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
    assert parse(b"data: a\n\n\xef\xbb\xbfdata: b\n\n") == [ServerSentEvent(b"a")]


def test_the_type_is_the_events_own() -> None:
    assert parse(b"event: ping\ndata: a\n\ndata: b\n\n") == [ServerSentEvent(b"a", "ping"), ServerSentEvent(b"b")]


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


CUT = ServerSentEvent(b"", is_cut=True)
AFTER = b"data: z\n\n"


@pytest.mark.parametrize(
    ("block", "event"),
    [
        (b"data: 12345678\n", ServerSentEvent(b"12345678")),
        (b"data:12345678\n", ServerSentEvent(b"12345678")),
        (b"data: 123456789\n", CUT),
        (b"data:123456789\n", CUT),
        (b"data: 123\ndata: 4567\n", ServerSentEvent(b"123\n4567")),
        (b"data: 123\ndata: 45678\n", CUT),
        (b"data\n" * 9, ServerSentEvent(b"\n" * 8)),
        (b"data\n" * 10, CUT),
        (b"data: 12345678\nid: 4567\n", ServerSentEvent(b"12345678", last_id="4567")),
        (b"data: 1\nid: 45678\n", CUT),
        (b"id: 45678\ndata: 1\n", CUT),
        (b"unknown: 1\n", CUT),
        (b"unknown\ndata: 1\n", ServerSentEvent(b"1")),
        (b": 123456789\ndata: 1\n", ServerSentEvent(b"1")),
        (b"data: 123456789\ndata: 1\ndata: 123456789\n", CUT),
        (b"data: 123456789\nevent: e\nid: 1\n", ServerSentEvent(b"", "e", "1", True)),
    ],
    ids=[
        "data at the limit", "without a space", "one over", "one over without a space", "lines and their break at it",
        "lines and their break over it", "empty lines at it", "empty lines over it", "another field at it beside data",
        "another field over it behind data", "another field over it before data", "an unknown field over it",
        "an unknown field below it", "a comment over it", "data behind what is over it", "type and id beside it",
    ],
)  # fmt: skip
def test_an_event_over_the_limit_is_cut_and_the_next_one_is_not(block: bytes, event: ServerSentEvent) -> None:
    stream = block + b"\n" + AFTER
    places = list(range(len(stream)))

    for cuts in (places, *([place] for place in places)):
        found = feed(Parser(max_bytes=8), stream, cuts)
        assert found == [event, ServerSentEvent(b"z", last_id=event.last_id)]


@pytest.mark.parametrize(
    ("size", "is_cut"), [(OTHER_BYTES - 4, False), (OTHER_BYTES - 3, True)], ids=["at it", "one over"]
)
def test_an_id_has_a_limit_of_its_own_below_that_of_data(size: int, is_cut: bool) -> None:
    stream = b"id: %b\ndata: 1\n\n" % (b"7" * size)

    for pieces in ([], [size]):
        (event,) = feed(Parser(max_bytes=1024 * KIB), stream, pieces)
        assert (event.is_cut, event.data, len(event.last_id)) == ((True, b"", 0) if is_cut else (False, b"1", size))


def test_without_a_limit_nothing_is_cut() -> None:
    text = b"x" * 1024 * KIB

    assert parse(b"id: %b\ndata: %b\n\n" % (text, text)) == [ServerSentEvent(text, last_id=text.decode())]


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"data: ", b"x"),
        (b": ", b"x"),
        (b"id: ", b"x"),
        (b"", b"x"),
        (b"", b":"),
        (b"data: 1\n", b"data: 123456789\n"),
        (b"data: 1\n", b"data\n"),
        (b"data: 1\n", b"id: 123456789\n"),
        (b"data: 1\n", b": 123456789\n"),
        (b"data: " + b"x" * 256 * KIB + b"\n", b"data: 12"),
        (b"\xef\xbb\xbf", b"x"),
        (b"", b"\r\n"),
    ],
    ids=[
        "data", "a comment", "an id", "a name", "colons", "lines of data", "empty lines of data", "ids", "comments",
        "more data behind what is at the limit", "text behind a BOM", "blank lines",
    ],
)  # fmt: skip
def test_what_never_ends_is_not_kept(begin: bytes, more: bytes) -> None:
    piece = more * (16 * KIB // len(more))
    parser = Parser(max_bytes=256 * KIB)
    parser.feed(begin)
    tracemalloc.start()
    try:
        for _ in range(80):
            parser.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < (256 + 256 + 128) * KIB  # twice that came; a buffer may grow by copying itself


def test_a_long_line_is_not_looked_through_again_for_each_piece() -> None:
    """40 000 times up to 40 MB would take minutes."""
    parser = Parser()
    parser.feed(b"data: ")
    for _ in range(40_000):
        parser.feed(b"x" * KIB)

    (event,) = parser.feed(b"\n\n")
    assert len(event.data) == 40_000 * KIB
