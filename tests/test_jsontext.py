"""Only what was asked for changes; every other byte stays."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import jsontext
from tests.strategies import SPACE, TEXTS, VALUES

# Half pairs alone, pairs, and what looks like them.
PIECES = st.sampled_from(["\ud800", "\udbff", "\udc00", "\udfff", "a", "\\", '"', "u", "d800", "é", "\ud7ff", "\ue000"])
WITH_SURROGATES = st.lists(PIECES).map("".join)


@given(VALUES, SPACE, SPACE, SPACE, st.booleans())
def test_pretty_printed_json_becomes_what_the_standard_library_writes_compactly(
    value: Any, indent: str, item: str, key: str, is_ascii: bool
) -> None:
    pretty = json.dumps(
        value, indent=indent, separators=(f"{item},{key}", f"{key}:{item}"), ensure_ascii=is_ascii
    ).encode()
    compact = json.dumps(value, separators=(",", ":"), ensure_ascii=is_ascii).encode()

    assert jsontext.one_line(pretty) == (compact if b"\n" in pretty or b"\r" in pretty else pretty)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b'{ "a" : 1 }', b'{ "a" : 1 }'),
        (b'{\n "a" : 1 }', b'{"a":1}'),
        (b'{\r"a":\r\n1}', b'{"a":1}'),
        (b'["a \\n b",\n"\\" , \\\\" , 2]', b'["a \\n b","\\" , \\\\",2]'),
        ('["\u2028\u2029\x85 é",\n1]'.encode(), '["\u2028\u2029\x85 é",1]'.encode()),
        (b"[1.50e+10,\n-0,\ttrue]", b"[1.50e+10,-0,true]"),
    ],
    ids=["one line already", "line feed", "carriage return", "quotes and escapes", "not a break in JSON", "numbers"],
)
def test_line_breaks_go_and_strings_and_numbers_stay_as_written(text: bytes, line: bytes) -> None:
    assert jsontext.one_line(text) == line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rb'"\ud800"', rb'"\ufffd"'),
        (rb'"\uDFFF"', rb'"\ufffd"'),
        (rb'"\ud83d\ude00"', rb'"\ud83d\ude00"'),
        (rb'"\uD83D\uDE00"', rb'"\uD83D\uDE00"'),
        (rb'"\ude00\ud83d"', rb'"\ufffd\ufffd"'),
        (rb'"\ud83d\ud83d\ude00"', rb'"\ufffd\ud83d\ude00"'),
        (rb'"\ud83d\\ude00"', rb'"\ufffd\\ude00"'),
        (rb'"\\ud800"', rb'"\\ud800"'),
        (rb'"\\\ud800"', rb'"\\\ufffd"'),
        (rb'"\ud7ff\ue000"', rb'"\ud7ff\ue000"'),
        (rb'"\ud8zz"', rb'"\ud8zz"'),
        (rb'"\ud8""', rb'"\ud8""'),
        (rb'"\ud8', rb'"\ud8'),
    ],
    ids=[
        "high", "low", "a pair", "a pair in capitals", "the wrong way round", "high before a pair", "high before text",
        "an escaped backslash", "behind an escaped backslash", "neighbours of the range", "no hex digits",
        "cut by a quote", "cut by the end",
    ],
)  # fmt: skip
def test_half_a_pair_is_replaced_and_nothing_else_is(text: bytes, expected: bytes) -> None:
    """What is no escape stays bad: a decoder must still refuse it."""
    assert jsontext.without_lone_surrogates(text) == expected


@given(WITH_SURROGATES)
def test_what_is_replaced_is_what_utf_16_cannot_decode(text: str) -> None:
    found = jsontext.without_lone_surrogates(json.dumps(text).encode())

    assert msgspec.json.decode(found) == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@given(st.binary() | st.lists(st.sampled_from([b"\\", b"u", b"d8", b"00", b'"', b"dc", b"\\ud800"])).map(b"".join))
def test_positions_hold_whatever_the_text(text: bytes) -> None:
    assert len(jsontext.without_lone_surrogates(text)) == len(text)


def dumped(pairs: list[tuple[str, Any]], space: str, *, is_ascii: bool) -> bytes:
    """Write an object that may hold a key several times."""
    inside = f",{space}".join(
        f"{json.dumps(key, ensure_ascii=is_ascii)}{space}:{space}{json.dumps(value, ensure_ascii=is_ascii)}"
        for key, value in pairs
    )
    return f"{{{space}{inside}{space}}}".encode()


PAIRS = st.lists(st.tuples(st.sampled_from(["a", "cursor", 'q"\\', "\ud7ff"]) | TEXTS, VALUES), max_size=5)


@given(PAIRS, SPACE, st.booleans())
def test_members_are_found_where_they_stand(pairs: list[tuple[str, Any]], space: str, is_ascii: bool) -> None:
    text = dumped(pairs, space, is_ascii=is_ascii)
    found = jsontext.members(text)

    assert [(key, json.loads(text[at.value : at.end])) for key, at in found] == pairs
    assert all(
        json.loads(b"{%b}" % text[at.start : at.end]) == {key: value}
        for (key, at), (_, value) in zip(found, pairs, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a":1}', b"1"),
        (b'{"b":{"a":2},"a":[1,{"a":3}],"c":4}', b'[1,{"a":3}]'),
        (b'{ "\\u0061" :\t"x" , "b":1}', b'"x"'),
        (b'{"a":1,"b":2,"a":3}', b"3"),
        (b'{"b":"\\"a\\":1,","a":"\\ud800"}', b'"\\ud800"'),
    ],
    ids=["alone", "among others", "escaped and with spaces", "twice", "beside its likeness"],
)
def test_a_member_is_found_by_its_name_and_the_last_one_counts(text: bytes, value: bytes) -> None:
    at = jsontext.member(text, "a")

    assert text[at.value : at.end] == value


@given(PAIRS, SPACE, st.booleans())
def test_a_member_is_taken_out_however_often_it_is_there(
    pairs: list[tuple[str, Any]], space: str, is_ascii: bool
) -> None:
    text = jsontext.without_member(dumped(pairs, space, is_ascii=is_ascii), "cursor")

    assert json.loads(text, object_pairs_hook=list) == json.loads(
        dumped([pair for pair in pairs if pair[0] != "cursor"], "", is_ascii=is_ascii), object_pairs_hook=list
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"cursor":"x","a":1}', b'{"a":1}'),
        (b'{"a":1,"cursor":"x"}', b'{"a":1}'),
        (b'{"a":1,"cursor":{"cursor":[1,2]},"b":{"cursor":3}}', b'{"a":1,"b":{"cursor":3}}'),
        (b'{"cursor":1}', b"{}"),
        (b'{"c\\u0075rsor":1,"a":2}', b'{"a":2}'),
        (b'{"a":"\\"cursor\\":1,","cursor":1}', b'{"a":"\\"cursor\\":1,"}'),
        (b'{"a": 1.50, "cursor":1, "b" :2}', b'{"a": 1.50,"b" :2}'),
    ],
    ids=["first", "last", "in the middle", "alone", "escaped", "in a string", "beside spaces"],
)
def test_a_member_leaves_its_neighbours_as_they_are(text: bytes, expected: bytes) -> None:
    assert jsontext.without_member(text, "cursor") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{}", b'{"id":"x\\"y"}'),
        (b'{"a":1}', b'{"a":1,"id":"x\\"y"}'),
        (b'{"a":1 \t}', b'{"a":1,"id":"x\\"y"}'),
        (b"{ }", b'{"id":"x\\"y"}'),
        (b'{"a":{}}', b'{"a":{},"id":"x\\"y"}'),
        (b'{"a":"{"}', b'{"a":"{","id":"x\\"y"}'),
    ],
    ids=["empty", "behind one", "behind spaces", "empty but for a space", "behind an object", "behind a brace"],
)
def test_a_member_is_appended_last(text: bytes, expected: bytes) -> None:
    assert jsontext.with_last_member(text, "id", 'x"y') == expected


def test_four_mebibytes_of_escapes_are_no_trouble() -> None:
    text = b'["%b",\n1]' % (b'\\"' * 2 * 1024 * 1024)

    assert jsontext.one_line(text) == text.replace(b"\n", b"")
    assert jsontext.without_lone_surrogates(text) == text
