"""Lines come out whole wherever the body was split."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.web.lines import LineSplitter, LineTooLong

BODIES = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b'{"x":1}', "é\u2028".encode(), b"\0", b" "])).map(b"".join)


def split(body: bytes, cuts: list[int]) -> list[bytes]:
    """Return the chunks that come of cutting `body` at `cuts`; some may be empty."""
    places = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(places)]


@given(BODIES, st.lists(st.integers(0, 200)))
def test_a_body_has_the_same_lines_however_it_is_split(body: bytes, cuts: list[int]) -> None:
    splitter = LineSplitter(10_000)
    found = [line for chunk in split(body, cuts) for line in splitter.feed(chunk)] + splitter.finish()
    *lines, last = body.split(b"\n")

    assert found == lines + ([last] if last else [])
    assert splitter.finish() == []


def test_a_body_may_come_byte_by_byte() -> None:
    splitter = LineSplitter(3)

    assert [splitter.feed(b"%c" % byte) for byte in b"ab\n\nabc\nx"] == [
        [], [], [b"ab"], [b""], [], [], [], [b"abc"], [],
    ]  # fmt: skip
    assert splitter.finish() == [b"x"]


def test_only_a_line_feed_ends_a_line() -> None:
    splitter = LineSplitter(100)

    assert splitter.feed("a\rb\u2028c\x85d\0e\r\nf".encode()) == ["a\rb\u2028c\x85d\0e\r".encode()]
    assert splitter.finish() == [b"f"]


@pytest.mark.parametrize("chunks", [[b"abcd"], [b"abc", b"d"], [b"a"] * 4, [b"abc", b"d\n"], [b"abcd\n"]], ids=repr)
def test_a_line_may_have_its_limit(chunks: list[bytes]) -> None:
    splitter = LineSplitter(4)
    found = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.finish()

    assert found == [b"abcd"] if len(chunks) < 4 else [b"aaaa"]


@pytest.mark.parametrize(
    ("chunks", "complete"),
    [([b"abcde"], []), ([b"abcd", b"e"], []), ([b"x\ny\nabcde"], [b"x", b"y"]), ([b"x\nabcd", b"e"], [])],
    ids=["at once", "in two", "behind whole lines", "whole lines given already"],
)
def test_what_can_no_longer_become_a_line_is_refused_and_the_lines_before_it_are_there(
    chunks: list[bytes], complete: list[bytes]
) -> None:
    splitter = LineSplitter(4)
    for chunk in chunks[:-1]:
        splitter.feed(chunk)
    with pytest.raises(LineTooLong) as refused:
        splitter.feed(chunks[-1])

    assert refused.value.complete == complete


def test_the_limit_is_each_line_s_own() -> None:
    splitter = LineSplitter(4)

    for _ in range(1000):
        assert splitter.feed(b"c\nab") in ([b"c"], [b"abc"])
    assert splitter.finish() == [b"ab"]
