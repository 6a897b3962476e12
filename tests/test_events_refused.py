"""What is no event is refused, and the error names what is wrong."""

import json
import random

import pytest

from opencode_events import events
from opencode_events.errors import InvalidEvent, TooLarge
from opencode_events.events import Event
from tests.samples import LIMIT

GLOBAL = b'{"payload":{"id":"e","type":"a","properties":{"x":%b}}}'
INSTANCE = b'{"id":"e","type":"a","properties":{"x":%b}}'

NOT_JSON = {
    "a raw line feed in a string": b'"a\nb"',
    "a raw carriage return in a string": b'"a\rb"',
    "a raw NUL in a string": b'"\x00"',
    "a raw tab in a string": b'"\t"',
    "an unknown escape": b'"\\x"',
    "a short escape": b'"\\u12"',
    "an escape without hex digits": b'"\\u00zz"',
    "half a pair without hex digits": b'"\\ud8zz"',
    "half a pair cut by the string's end": b'"\\ud8""',
    "an open string": b'"',
    "single quotes": b"'a'",
    "a leading zero": b"01",
    "a bare dot": b"1.",
    "no digit before the dot": b".5",
    "an empty exponent": b"1e",
    "a plus sign": b"+1",
    "a lone minus": b"-",
    "not a number": b"NaN",
    "infinity": b"Infinity",
    "a cut word": b"nul",
    "two values": b"1 2",
    "a trailing comma": b"[1,]",
    "a trailing comma in an object": b'{"a":1,}',
    "a key without a value": b'{"a"}',
    "a key that is no string": b"{1:2}",
    "a comment": b"/*1*/1",
    "a no-break space": b"\xc2\xa01",
    "a form feed": b"\x0c1",
    "an open bracket": b"[",
    "the wrong bracket": b"[}",
}


@pytest.mark.parametrize("shape", [GLOBAL, INSTANCE], ids=["global", "instance"])
@pytest.mark.parametrize("value", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_refused_wherever_it_stands(shape: bytes, value: bytes) -> None:
    """A line break that got through would let a publisher write frames of its own into the stream."""
    with pytest.raises(InvalidEvent):
        _parse(shape, value)


@pytest.mark.parametrize("shape", [GLOBAL, INSTANCE], ids=["global", "instance"])
@pytest.mark.parametrize(
    ("value", "at"),
    [(b'"\xff"', 1), (b'"a\xc3"', 2), (b'"\xed\xa0\x80"', 1), (b'"\xc0\x80"', 1), (b'"\xf5\x80\x80\x80"', 1)],
    ids=["no such byte", "a cut character", "a surrogate", "an overlong NUL", "past the last character"],
)
def test_what_is_not_utf_8_is_refused_with_its_place(shape: bytes, value: bytes, at: int) -> None:
    with pytest.raises(InvalidEvent, match=f"not UTF-8: byte {shape.index(b'%b') + at} of the event"):
        _parse(shape, value)


@pytest.mark.parametrize("text", [b"", b" ", b"x", b"{", b"{}}", b"\xef\xbb\xbf{}", b'{"payload":', b"{}\0"])
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidEvent):
        events.parse_global(text, LIMIT)
    with pytest.raises(InvalidEvent):
        events.parse_instance(text, LIMIT, "/srv/a")


@pytest.mark.parametrize("brackets", [b"[]", b'{"a":}'], ids=["arrays", "objects"])
def test_nesting_has_an_end(brackets: bytes) -> None:
    opened, closed = brackets[:-1], brackets[-1:]
    with pytest.raises(InvalidEvent, match="nested too deeply"):
        _parse(GLOBAL, opened * 100_000 + b"1" + closed * 100_000)
    with pytest.raises(InvalidEvent):
        events.split_array(b"[" + opened * 100_000 + b"1" + closed * 100_000 + b"]", "global")

    assert _parse(GLOBAL, opened * 200 + b"1" + closed * 200)


SYNC = '{"payload":{"type":"sync","syncEvent":%s}}'
WRONG = {
    "null": ("null", None),
    "a list": ("[]", None),
    "text": ('"a"', None),
    "no payload": ("{}", "payload"),
    "a payload that is null": ('{"payload":null}', "payload"),
    "a payload that is a list": ('{"payload":[]}', "payload"),
    "no type": ('{"payload":{"properties":{}}}', "payload.type"),
    "a type that is a number": ('{"payload":{"type":1,"properties":{}}}', "payload.type"),
    "an empty type": ('{"payload":{"type":"","properties":{}}}', "payload.type"),
    "no properties": ('{"payload":{"type":"a"}}', "payload.properties"),
    "properties that are null": ('{"payload":{"type":"a","properties":null}}', "payload.properties"),
    "properties that are a list": ('{"payload":{"type":"a","properties":[]}}', "payload.properties"),
    "an id that is a number": ('{"payload":{"id":1,"type":"a","properties":{}}}', "payload.id"),
    "an id that is null": ('{"payload":{"id":null,"type":"a","properties":{}}}', "payload.id"),
    "an empty id": ('{"payload":{"id":"","type":"a","properties":{}}}', "payload.id"),
    "an id with half a pair": ('{"payload":{"id":"\\ud800","type":"a","properties":{}}}', "payload.id"),
    "a type with half a pair": ('{"payload":{"type":"\\ud800","properties":{}}}', "payload.type"),
    "a directory with half a pair": ('{"directory":"\\ud800","payload":{"type":"a","properties":{}}}', "directory"),
    "a directory that is a number": ('{"directory":1,"payload":{"type":"a","properties":{}}}', "directory"),
    "a project that is a list": ('{"project":[],"payload":{"type":"a","properties":{}}}', "project"),
    "a workspace that is a number": ('{"workspace":1,"payload":{"type":"a","properties":{}}}', "workspace"),
    "a twin without its event": ('{"payload":{"type":"sync","properties":{}}}', "payload.syncEvent"),
    "a twin that is null": (SYNC % "null", "payload.syncEvent"),
    "a twin without a type": (SYNC % '{"seq":1,"aggregateID":"s","data":{}}', "payload.syncEvent.type"),
    "a twin of an empty type": (SYNC % '{"type":".1","seq":1,"aggregateID":"s","data":{}}', "payload.syncEvent.type"),
    "a twin without a seq": (SYNC % '{"type":"a.1","aggregateID":"s","data":{}}', "payload.syncEvent.seq"),
    "a seq that is text": (SYNC % '{"type":"a.1","seq":"1","aggregateID":"s","data":{}}', "payload.syncEvent.seq"),
    "a seq with a fraction": (SYNC % '{"type":"a.1","seq":1.5,"aggregateID":"s","data":{}}', "payload.syncEvent.seq"),
    "a seq below 0": (SYNC % '{"type":"a.1","seq":-1,"aggregateID":"s","data":{}}', "payload.syncEvent.seq"),
    "a seq past counting": (
        SYNC % '{"type":"a.1","seq":9007199254740992,"aggregateID":"s","data":{}}',
        "payload.syncEvent.seq",
    ),
    "a seq that is a truth": (SYNC % '{"type":"a.1","seq":true,"aggregateID":"s","data":{}}', "payload.syncEvent.seq"),
    "an aggregate with half a pair": (
        SYNC % '{"type":"a.1","seq":1,"aggregateID":"\\ud800","data":{}}',
        "payload.syncEvent.aggregateID",
    ),
    "a twin without an aggregate": (SYNC % '{"type":"a.1","seq":1,"data":{}}', "payload.syncEvent.aggregateID"),
    "a twin without data": (SYNC % '{"type":"a.1","seq":1,"aggregateID":"s"}', "payload.syncEvent.data"),
}


@pytest.mark.parametrize(("text", "field"), WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("is_pretty", [False, True], ids=["one line", "pretty"])
def test_what_has_the_wrong_shape_is_refused_by_its_member_s_name(
    text: str, field: str | None, is_pretty: bool
) -> None:
    with pytest.raises(InvalidEvent) as found:
        events.parse_global(text.encode().replace(b":", b":\n") if is_pretty else text.encode(), LIMIT)

    assert found.value.field == field


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (b'{"properties":{}}', "type"),
        (b'{"type":"","properties":{}}', "type"),
        (b'{"type":"a"}', "properties"),
        (b'{"type":"a","properties":{},"id":"\\udc00"}', "id"),
        (b'{"type":"sync","syncEvent":{"type":"a.1","seq":1,"data":{}}}', "syncEvent.aggregateID"),
        (b'{"payload":{"type":"a","properties":{}}}', "type"),
    ],
    ids=["no type", "an empty type", "no properties", "half a pair", "a twin", "an envelope"],
)
def test_an_instance_payload_s_members_are_named_from_its_own_top(text: bytes, field: str) -> None:
    with pytest.raises(InvalidEvent) as found:
        events.parse_instance(text, LIMIT, "/srv/a")

    assert found.value.field == field


@pytest.mark.parametrize("shape", [GLOBAL, INSTANCE], ids=["global", "instance"])
@pytest.mark.parametrize("letter", ["x", "😀"], ids=["ASCII", "four bytes"])
def test_an_event_may_have_its_limit_and_not_one_byte_more(shape: bytes, letter: str) -> None:
    """White space around it does not count."""
    room = LIMIT - len(shape % b'""')
    filler = letter.encode() * (room // len(letter.encode()))
    filler += b"x" * (room - len(filler))

    found = _parse(b" \t\r\n" + shape + b" \r\n", b'"%b"' % filler)
    assert found.envelope.endswith(shape % (b'"%b"' % filler) if shape is GLOBAL else b"}}}")
    with pytest.raises(TooLarge, match="an event of 4194305 bytes is over max_event_bytes") as error:
        _parse(shape, b'"%bx"' % filler)
    assert error.value.limit == LIMIT


# --- arrays


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b"1"],
        [b'"x,]"', b"[[]]", b' { "a" : 1 } '],
        [b'"\\ud800"', b'"\\ud801"', b'"\\ufffd"'],
        [b'["\\ud800"]', b'["\\udc00"]'],
    ],
    ids=["none", "one", "nested and with spaces", "half pairs", "half pairs nested"],
)
def test_an_array_s_items_are_its_own_bytes(values: list[bytes]) -> None:
    items = [b'{"payload":{"type":"a"},"x":%s}' % value for value in values]

    found = events.split_array(b" [ " + b" ,\n".join(items) + b" ] ", "global")

    assert [bytes(item) for item in found] == items


def test_an_array_is_refused_for_the_first_item_that_cannot_be_an_event() -> None:
    with pytest.raises(InvalidEvent) as refused:
        events.split_array(b'[{"payload":{"type":"a"}},{"payload":{"type":7}},0]', "global")

    assert (refused.value.index, refused.value.field) == (1, "payload.type")


@pytest.mark.parametrize(("chars", "is_taken"), [(256, True), (257, False)])
def test_a_type_has_at_most_256_characters(chars: int, is_taken: bool) -> None:
    text = b'{"type":"%s","properties":{}}' % (b"x" * chars)
    if is_taken:
        assert isinstance(events.parse_instance(text, 4096, "/a"), events.Event)
        return
    with pytest.raises(InvalidEvent, match="longer than 256 characters") as refused:
        events.parse_instance(text, 4096, "/a")
    assert (refused.value.field, refused.value.limit) == ("type", 256)


@pytest.mark.parametrize("text", [b"", b"{}", b"[", b"[1,]", b"[1 2]", b"[1]]", b"[,]", b'["\\ud8zz"]', b"[1],[2]"])
def test_what_is_no_array_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidEvent):
        events.split_array(text, "global")


def test_whatever_is_taken_is_json_on_one_line() -> None:
    """Damage a good event in every way that a byte or two can, and compare with the standard library's judgement."""
    dice = random.Random(1)
    good = GLOBAL % '[1,-2.5e+3,"é\\n\\ud83d\\ude00\\ud800",null,{"b":{}},[],"😀"]'.encode()
    bad = [
        b'"',
        b"\\",
        b"\\u",
        b"\\ud8",
        b"{",
        b"}",
        b"[",
        b",",
        b":",
        b"0",
        b"-",
        b".",
        b"e",
        b"\n",
        b"\r",
        b" ",
        b"\0",
    ]
    bad += [b"\xff", b"\xa9", b'"payload":1,', b'"cursor":2,', b"true", b"\xef\xbb\xbf", b""]
    taken = 0
    for _ in range(20_000):
        at, cut = dice.randrange(len(good) + 1), dice.choice((0, 0, 1, 2, 5))
        text = good[:at] + dice.choice(bad) + good[at + cut :]
        try:
            found = events.parse_global(text, LIMIT)
        except InvalidEvent:
            continue
        assert isinstance(found, Event)
        json.loads(text.decode())
        assert b"\n" not in found.envelope
        assert b"\r" not in found.envelope
        assert json.loads(found.envelope)["payload"] == json.loads(found.payload)
        taken += 1

    assert taken > 1000


def _parse(shape: bytes, value: bytes) -> Event:
    is_global = b'"payload"' in shape
    text = shape.replace(b"%b", value)
    found = events.parse_global(text, LIMIT) if is_global else events.parse_instance(text, LIMIT, "/srv/a")
    assert isinstance(found, Event)
    return found
