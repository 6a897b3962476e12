"""What is read off a `sync` twin when it is published, and got back from it for a history."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import twins
from tests.samples import make, recorded
from tests.strategies import VALUES


def payload(**members: object) -> bytes:
    """Return a twin's payload; `members` of its event over the usual ones."""
    sync = {"id": "evt_1", "type": "session.updated.1", "seq": 0, "aggregateID": "ses_1", "data": {}} | members
    return json.dumps({"type": "sync", "syncEvent": sync, "id": "evt_1"}).encode()


# --- the version


@pytest.mark.parametrize(
    ("kind", "bare"),
    [
        ("session.updated.1", "session.updated"),
        ("session.next.step.failed.2", "session.next.step.failed"),
        ("a.10", "a"),
        ("a.1.2", "a.1"),
        ("a", "a"),
        ("a.", "a."),
        ("a.1b", "a.1b"),
        ("a.1\n", "a.1\n"),
        (".1", ""),
        ("1", "1"),
        ("", ""),
    ],
)
def test_a_version_is_the_number_behind_the_last_dot(kind: str, bare: str) -> None:
    assert twins.bare_type(kind) == bare


# --- what is looked at


@pytest.mark.parametrize("seq", [0, 1, 2**31, 2**53 - 1])
def test_a_sequence_number_is_a_whole_number_that_javascript_can_count_to(seq: int) -> None:
    assert twins.decode(b'{"type":"a.1","seq":%d,"aggregateID":"s","data":{}}' % seq).seq == seq


@pytest.mark.parametrize(
    "seq", ["-1", "9007199254740992", "1.0", "1e3", "-0.0", '"1"', "true", "null", "[]", "1" + "0" * 400], ids=str
)
def test_whatever_else_is_refused(seq: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        twins.decode(b'{"type":"a.1","seq":%b,"aggregateID":"s","data":{}}' % seq.encode())


@pytest.mark.parametrize("missing", ["type", "seq", "aggregateID", "data"])
def test_a_twin_needs_each_of_its_members(missing: str) -> None:
    members: dict[str, Any] = {"type": "a.1", "seq": 0, "aggregateID": "s", "data": {}}
    del members[missing]

    with pytest.raises(msgspec.ValidationError, match=f"missing required field `{missing}`"):
        twins.decode(json.dumps(members))


# --- what a history has of it


@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        (b'{"syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","data":{"x":1.50}}}', "a.1", b'{"x":1.50}'),
        (b'{ "syncEvent" : { "data" : [ 1 ] , "type" : "a.1", "seq":0,"aggregateID":"s" } }', "a.1", b"[ 1 ]"),
        (b'{"syncEvent":{"type":"a\\u002e1","seq":0,"aggregateID":"s","data":null}}', "a.1", b"null"),
        (b'{"syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","d\\u0061ta":"x"}}', "a.1", b'"x"'),
        (b'{"syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","data":"\\ud800"}}', "a.1", b'"\\ud800"'),
        (b'{"s\\u0079ncEvent":{"type":"a\\u002e1","seq":0,"aggregateID":"s","data":["\\udc00"]},"x":"\\ud800"}', "a.1",
         b'["\\udc00"]'),
        (b'{"x":"\\ud800","syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","data":1,"data":2}}', "a.1", b"2"),
        (b'{"syncEvent":1,"syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","data":1}}', "a.1", b"1"),
        (b'{"syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","data":{"data":1},"more":{"data":2}}}', "a.1",
         b'{"data":1}'),
    ],
    ids=[
        "as written", "with spaces", "an escape in the type", "an escape in a key", "half a pair",
        "half pairs and escapes", "a member twice", "a twin twice", "its own name within",
    ],
)  # fmt: skip
def test_the_content_is_the_type_and_the_bytes_of_the_data(text: bytes, kind: str, data: bytes) -> None:
    assert twins.content(text) == (kind, data)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b'{"syncEvent":{"type":"a.1","seq":7,"aggregateID":"s","data":{}}}', ("s", 7)),
        (b'{"syncEvent":{"type":"a.1","seq":7,"aggregateID":"s","data":"\\ud800"}}', ("s", 7)),
        (b'{"syncEvent":{"type":"a.1","seq":-1,"aggregateID":"s","data":{}}}', None),
        (b'{"syncEvent":{"type":"a.1","seq":"7","aggregateID":"s","data":{}}}', None),
        (b'{"syncEvent":{"type":"a.1","aggregateID":"s","data":{}}}', None),
        (b'{"syncEvent":{"type":"a.1","seq":9007199254740992,"aggregateID":"s","data":{}}}', None),
        (b'{"syncEvent":null}', None),
        (b'{"type":"sync"}', None),
        (b"", None),
    ],
    ids=["whole", "half a pair", "below 0", "text", "none", "past counting", "null", "no twin", "nothing"],
)
def test_a_place_is_one_that_can_be_counted(text: bytes, place: tuple[str, int] | None) -> None:
    """Twins of earlier times were not checked when they were stored."""
    assert twins.place(text) == place


@given(VALUES, st.text(min_size=1), st.booleans())
def test_any_content_comes_back(data: Any, kind: str, is_ascii: bool) -> None:
    text = json.dumps(json.loads(payload(type=kind, data=data)), ensure_ascii=is_ascii).encode()

    found, raw = twins.content(text)

    assert (found, json.loads(raw)) == (kind, data)


def test_of_recorded_twins_the_data_are_those_of_the_plain_event() -> None:
    """A real server sends each durable event twice: what the twin carries is what the plain one tells."""
    lines = [make(line) for line in recorded() if b'"type":"sync"' in line]

    assert lines
    for event in lines:
        sync = json.loads(event.payload)["syncEvent"]
        kind, data = twins.content(event.payload)
        assert (kind, json.loads(data)) == (sync["type"], sync["data"])
        assert (event.aggregate, event.seq, event.id) == (sync["aggregateID"], sync["seq"], sync["id"])
        assert twins.place(event.payload) == (event.aggregate, event.seq)
        assert event.type == twins.bare_type(kind)
