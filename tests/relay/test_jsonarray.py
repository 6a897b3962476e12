"""Items come out as they are written, wherever the text was cut; what is no array of objects is refused."""

import itertools
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from opencode_events.relay.jsonarray import ItemSplitter
from tests.strategies import SPACE, TEXTS, VALUES

OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)
CUTS = st.lists(st.integers(0, 400), max_size=12)
WHOLE: list[int] = []


def split(text: bytes, cuts: list[int], max_item_bytes: int = 1_000_000) -> list[bytes]:
    """Return the items of a text that comes in the pieces between `cuts`; some may be empty."""
    splitter = ItemSplitter(max_item_bytes)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    found = [item for begin, end in itertools.pairwise(places) for item in splitter.feed(text[begin:end])]
    splitter.finish()
    return found


def byte_by_byte(text: bytes) -> list[int]:
    return list(range(len(text)))


@given(st.lists(OBJECTS, max_size=5), SPACE | st.none(), SPACE, SPACE, st.booleans(), CUTS)
def test_items_are_found_wherever_the_array_is_cut(
    values: list[dict[str, Any]], indent: str | None, around: str, between: str, is_ascii: bool, cuts: list[int]
) -> None:
    text = json.dumps(values, indent=indent, separators=(f"{between},{around}", ":"), ensure_ascii=is_ascii)
    found = split(f"{around}{text}{between}".encode(), cuts)

    assert [json.loads(item) for item in found] == values


@given(st.lists(OBJECTS, max_size=3), st.booleans())
def test_an_array_may_come_byte_by_byte(values: list[dict[str, Any]], is_ascii: bool) -> None:
    text = json.dumps(values, ensure_ascii=is_ascii).encode()

    assert [json.loads(item) for item in split(text, byte_by_byte(text))] == values


@pytest.mark.parametrize(
    "item",
    [
        b"{}",
        b'{ "a" : [ { } , [ 1 ] ] }',
        b'{"a":"}"}',
        b'{"a":"]},{"}',
        rb'{"a":"\""}',
        rb'{"a":"\\"}',
        rb'{"a":"\\\""}',
        rb'{"a":"\\\\","b":"\\\\\"}"}',
        rb'{"\"":"\"\"\"","\\":"\\\\\\"}',
        rb'{"a":"\u0022\u005c"}',
        '{"é\u2028":"😀"}'.encode(),
        b'{"a":"\xff"}',
        b'{"a":"","":""}',
        b'{"a":1.5e3,"b":null,"c":true}',
        b'{"a":\n\t[\r\n]}',
        b'{"a":nonsense:,}',
    ],
    ids=[
        "empty", "nested and with spaces", "a bracket in a string", "brackets in a string", "an escaped quote",
        "an escaped backslash", "both", "many backslashes", "in names", "escaped otherwise", "UTF-8", "bad UTF-8",
        "empty strings", "no strings", "line breaks", "what only a decoder refuses",
    ],
)  # fmt: skip
def test_an_item_comes_out_as_it_is_written(item: bytes) -> None:
    text = b'[{"before":1},%b, %b]' % (item, item)
    expected = [b'{"before":1}', item, item]

    assert split(text, WHOLE) == expected
    assert split(text, byte_by_byte(text)) == expected
    assert all(split(text, [cut]) == expected for cut in range(len(text)))


@pytest.mark.parametrize("text", [b"[]", b" [ ] ", b"\n[\r\n\t]\n"])
def test_an_empty_array_has_no_items(text: bytes) -> None:
    assert split(text, WHOLE) == split(text, byte_by_byte(text)) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "ends at byte 0, where the beginning of an array is expected"),
        (b"  ", "ends at byte 2, where the beginning of an array is expected"),
        (b"[", "ends at byte 1, where an object or the end of the array is expected"),
        (b"[{}", "ends at byte 3, where a comma or the end of the array is expected"),
        (b"[{},", "ends at byte 4, where an object is expected"),
        (b'[{"a":1', "ends at byte 7, inside an item"),
        (b'[{"a":"]}', "ends at byte 9, inside an item"),
        (b'[{"a":"\\"}]', "ends at byte 11, inside an item"),
        (b"{}", "'{' at byte 0, where the beginning of an array is expected"),
        (b"<!doctype html>", "'<' at byte 0, where the beginning of an array is expected"),
        (b"\xef\xbb\xbf[]", "'\xef' at byte 0, where the beginning of an array is expected"),
        (b"[1]", "'1' at byte 1, where an object or the end of the array is expected"),
        (b'["a"]', "'\"' at byte 1, where"),
        (b"[[]]", "'[' at byte 1, where"),
        (b"[{},null]", "'n' at byte 4, where an object is expected"),
        (b"[,{}]", "',' at byte 1, where"),
        (b"[{},]", "']' at byte 4, where an object is expected"),
        (b"[{},,{}]", "',' at byte 4, where an object is expected"),
        (b"[{}{}]", "'{' at byte 3, where a comma or the end of the array is expected"),
        (b"[{} x,{}]", "'x' at byte 4, where a comma or the end of the array is expected"),
        (b"[{}\\\\]", "'\\\\' at byte 3, where a comma or the end of the array is expected"),
        (b"[{}\x0b]", "'\\x0b' at byte 3, where a comma or the end of the array is expected"),
        (b"[{}]]", "']' at byte 4, where nothing more is expected"),
        (b"[{}] [", "'[' at byte 5, where nothing more is expected"),
        (b"[]{}", "'{' at byte 2, where nothing more is expected"),
    ],
    ids=[
        "nothing", "only spaces", "only a bracket", "no end", "a comma at the end", "a cut item", "a cut string",
        "a string without end", "an object", "a web page", "a BOM", "a number", "a string", "an array", "null",
        "a comma first", "a comma last", "two commas", "no comma", "garbage", "backslashes", "another space",
        "two ends", "two arrays", "an object behind it",
    ],
)  # fmt: skip
def test_what_is_no_array_of_objects_is_refused_with_the_place(text: bytes, complaint: str) -> None:
    for cuts in (WHOLE, byte_by_byte(text)):
        with pytest.raises(ValueError) as caught:
            split(text, cuts)
        assert complaint in str(caught.value)


def test_an_empty_piece_behind_a_backslash_changes_nothing() -> None:
    splitter = ItemSplitter(100)

    assert [splitter.feed(piece) for piece in (b'[{"a":"\\', b"", b'"}"', b"}]")] == [[], [], [], [b'{"a":"\\"}"}']]
    splitter.finish()


@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b",", b'"', b"\\", b" ", b"a", b"{}"]), max_size=12), CUTS)
@example([b"{", b"\\", b'"', b"}", b"]"], [3])
@example([b"{", b"\\", b"\\", b'"', b"}", b"]"], [3])
def test_where_a_text_is_cut_makes_no_difference_to_what_is_wrong_with_it(parts: list[bytes], cuts: list[int]) -> None:
    """Whatever is in brackets is left to the decoder, so this compares the splitter with itself."""

    def outcome(cuts: list[int]) -> list[bytes] | str:
        try:
            return split(b"[" + b"".join(parts), cuts)
        except ValueError as error:
            return str(error)

    assert outcome(cuts) == outcome(WHOLE)


@pytest.mark.parametrize("cuts", [WHOLE, [8], list(range(60))], ids=["at once", "in two", "byte by byte"])
def test_an_item_may_be_as_long_as_the_limit_and_not_one_byte_longer(cuts: list[int]) -> None:
    item = b'{"a":"%b"}' % (b"x" * 20)
    text = b"[{},%b,%b]" % (item, item)

    assert split(text, cuts, len(item)) == [b"{}", item, item]
    assert split(text.replace(b"]", b",{}]"), cuts, len(item) - 1) == [b"{}", b"", b"", b"{}"]


@pytest.mark.parametrize(
    "more", [b"x", b"{", b"\\\\", b'"', b" "], ids=["text", "brackets", "pairs", "quotes", "space"]
)
def test_an_item_that_never_ends_is_not_kept(more: bytes) -> None:
    piece = more * (16 * 1024 // len(more))
    splitter = ItemSplitter(256 * 1024)
    splitter.feed(b'[{"a":"')
    tracemalloc.start()
    try:
        for _ in range(14):
            splitter.feed(piece)
        for _ in range(100):
            assert splitter.feed(piece) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < (256 + 256 + 128) * 1024  # a buffer may grow by copying itself


def test_a_long_item_is_not_looked_through_again_for_each_piece() -> None:
    """40 000 times up to 40 MB would take minutes."""
    splitter = ItemSplitter(100_000_000)
    splitter.feed(b'[{"a":"')
    for _ in range(40_000):
        splitter.feed(rb"x\"\\]}" * 150)

    (item,) = splitter.feed(b'"}]')
    splitter.finish()
    assert len(item) == 40_000 * 7 * 150 + 8
