"""What is read off an event, and the bytes that subscribers get of it."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import events
from opencode_events.events import Event, Skipped
from tests.samples import LIMIT, make, recorded
from tests.strategies import VALUES


def instance(text: bytes, directory: str = "/srv/a") -> Event:
    found = events.parse_instance(text, LIMIT, directory)
    assert isinstance(found, Event)
    return found


# --- what is looked at


def test_an_event_tells_what_filters_ask_for() -> None:
    found = make(
        b'{"directory":"/srv/a","project":"p","workspace":"w","payload":'
        b'{"id":"evt_1","type":"session.idle","properties":{"sessionID":"ses_1"}}}'
    )

    assert found.id == "evt_1"
    assert found.type == "session.idle"
    assert not found.is_sync
    assert found.directory == "/srv/a"
    assert found.workspace == "w"
    assert found.session == "ses_1"
    assert (found.aggregate, found.seq) == (None, None)


def test_a_sync_twin_is_told_by_its_own_type_without_its_version_and_by_its_aggregate() -> None:
    found = make(
        b'{"directory":"/srv/a","payload":{"type":"sync","syncEvent":{"id":"evt_1","type":"session.updated.12",'
        b'"seq":7,"aggregateID":"ses_1","data":{"sessionID":"ses_2"}},"id":"evt_1"}}'
    )

    assert found.is_sync
    assert found.id == "evt_1"
    assert found.type == "session.updated"
    assert found.session == "ses_1"
    assert (found.aggregate, found.seq) == ("ses_1", 7)


def test_a_twin_s_session_may_be_named_beside_its_aggregate() -> None:
    """The sequence is the aggregate's, whatever filters by session go by."""
    found = make(
        b'{"payload":{"type":"sync","properties":{"sessionID":"ses_2"},'
        b'"syncEvent":{"type":"a.1","seq":0,"aggregateID":"prj_1","data":{}}}}'
    )

    assert (found.session, found.aggregate, found.seq) == ("ses_2", "prj_1", 0)


def test_a_plain_event_has_no_sequence_even_with_a_sync_event_in_it() -> None:
    sync = b'{"type":"a.1","seq":7,"aggregateID":"ses_1","data":{}}'
    found = make(b'{"payload":{"type":"a","properties":{},"syncEvent":%b}}' % sync)

    assert (found.is_sync, found.aggregate, found.seq, found.session) == (False, None, None, None)


@pytest.mark.parametrize(
    ("kind", "own"),
    [("a.1", "a"), ("a.b.10", "a.b"), ("a", "a"), ("a.1.2", "a.1"), ("a.1b", "a.1b"), ("a.", "a.")],
)
def test_a_twin_s_version_is_the_number_behind_the_last_dot(kind: str, own: str) -> None:
    sync = {"type": kind, "seq": 0, "aggregateID": "s", "data": {}}

    assert make(json.dumps({"payload": {"type": "sync", "syncEvent": sync}}).encode()).type == own


@pytest.mark.parametrize(
    ("members", "directory", "workspace"),
    [
        ("", None, None),
        ('"directory":null,"workspace":null,', None, None),
        ('"directory":"","workspace":"",', None, ""),
    ],
    ids=["absent", "null", "empty"],
)
def test_what_an_envelope_does_not_say_is_none(members: str, directory: str | None, workspace: str | None) -> None:
    found = make(b'{%b"payload":{"type":"a","properties":{}}}' % members.encode())

    assert (found.directory, found.workspace, found.session) == (directory, workspace, None)


@pytest.mark.parametrize("session", ["1", "null", "[]", '{"a":{}}', "true"])
def test_a_session_that_is_no_text_is_none(session: str) -> None:
    assert make(b'{"payload":{"type":"a","properties":{"sessionID":%b}}}' % session.encode()).session is None


def test_of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    payload = b'{"id":"evt_2","type":"b","properties":{}}'
    found = make(b'{"payload":{"id":"evt_1","type":"a","properties":{}},"payload":%b}' % payload)

    assert (found.id, found.type, found.payload) == ("evt_2", "b", payload)


def test_keys_may_be_written_with_escapes() -> None:
    found = make(b'{"p\\u0061yload":{"\\u0069d":"evt_1","type":"a","properties":{}}}')

    assert found.id == "evt_1"
    assert found.payload == b'{"\\u0069d":"evt_1","type":"a","properties":{}}'


# --- what servers say of their own connections


@pytest.mark.parametrize("kind", ["server.connected", "server.heartbeat", "server.stream.lagging", "server.stream.gap"])
@pytest.mark.parametrize("given_id", ["evt_1", None], ids=["with an id", "without an id"])
def test_a_server_s_own_frames_are_skipped(kind: str, given_id: str | None) -> None:
    own = {} if given_id is None else {"id": given_id}
    payload = json.dumps({"type": kind, "properties": {}, **own}).encode()

    assert events.parse_instance(payload, LIMIT, "/srv/a") == Skipped(given_id)
    assert events.parse_global(b'{"payload":%b}' % payload, LIMIT) == Skipped(given_id)


@pytest.mark.parametrize(
    "kind", ["server.instance.disposed", "global.disposed", "server.streams", "server.connected.x"]
)
def test_other_events_with_such_names_are_taken(kind: str) -> None:
    assert make(b'{"payload":{"type":"%b","properties":{}}}' % kind.encode()).type == kind


# --- the bytes


@pytest.mark.parametrize("line", recorded(), ids=lambda line: f"{json.loads(line)['payload']['type']}-{len(line)}")
def test_a_recorded_line_leaves_as_it_came(line: bytes) -> None:
    found = events.parse_global(line, LIMIT)
    value = json.loads(line)

    if value["payload"]["type"] in ("server.connected", "server.heartbeat"):
        assert found == Skipped(value["payload"]["id"])
        return
    assert isinstance(found, Event)
    assert found.envelope == line
    assert line.endswith(b'"payload":' + found.payload + b"}")
    assert found.directory == value["directory"]
    assert found.id == value["payload"]["id"]


@pytest.mark.parametrize("line", recorded()[1:4], ids=["first", "second", "third"])
def test_a_payload_published_for_an_instance_has_an_envelope_made_for_it(line: bytes) -> None:
    payload = make(line).payload
    found = instance(payload, '/srv/"a" b\u2028é')

    assert found.payload == payload
    assert found.envelope == b'{"directory":"/srv/\\"a\\" b\xe2\x80\xa8\xc3\xa9","payload":' + payload + b"}"
    assert found.directory == '/srv/"a" b\u2028é'


@pytest.mark.parametrize(
    "text",
    [
        '"\\u0000\\u001f"', '"\\ud800"', '"\\udc00 \\ud800"', '"\\ud83d\\ude00"', '"😀\u2028\u2029\x85\x7f"',
        '"\\/\\b"',
        "1.50e+300", "123456789012345678901234567890", "-0", "1e999", '"\ufeff\ufffe"', '{"":[],"a":{}}', '"cursor"',
    ],
    ids=[
        "control escapes", "half a pair", "two halves", "a pair", "raw text", "idle escapes", "a number as written",
        "a long number", "minus zero", "a number past floats", "byte order mark", "empty ones", "a name of ours",
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["properties", "payload", "envelope"])
def test_whatever_is_in_an_event_comes_out_as_it_went_in(text: str, where: str) -> None:
    value, empty = text.encode(), b""
    at = {name: b',"x":' + value if name == where else empty for name in ("properties", "payload", "envelope")}
    payload = b'{"id":"evt_1","type":"a","properties":{"y":1%b}%b}' % (at["properties"], at["payload"])
    line = b'{"payload":%b%b}' % (payload, at["envelope"])
    found = make(line)

    assert found.envelope == line
    assert found.payload == payload
    assert instance(payload).payload == payload


@pytest.mark.parametrize("extra", ["before", "behind"])
@pytest.mark.parametrize("given_id", [b'"id":"evt_1",', b""], ids=["with an id", "without an id"])
def test_a_copy_of_the_payload_beside_it_is_not_taken_for_it(extra: str, given_id: bytes) -> None:
    """Half pairs differ in the text and not in what is decoded."""
    payload, copy = (b'{%b"type":"a","properties":{"x":"%b"}}' % (given_id, half) for half in (b"\\ud800", b"\\ud801"))
    members = [b'"payload":' + payload, b'"copy":' + copy]
    found = make(b"{%b}" % b",".join(members if extra == "behind" else members[::-1]))

    assert found.payload.startswith(payload[:-1])
    assert json.loads(found.envelope)["copy"] == json.loads(copy)
    assert json.loads(found.envelope)["payload"] == json.loads(found.payload)


@pytest.mark.parametrize("extra", ["before", "behind"])
def test_an_id_is_minted_into_the_payload_and_not_into_its_copy(extra: str) -> None:
    payload = b'{"type":"a","properties":{}}'
    members = [b'"payload":' + payload, b'"copy":' + payload]
    found = make(b"{%b}" % b",".join(members if extra == "behind" else members[::-1]))

    assert json.loads(found.envelope)["copy"] == {"type": "a", "properties": {}}
    assert json.loads(found.envelope)["payload"] == json.loads(found.payload)
    assert json.loads(found.payload)["id"] == found.id


@given(VALUES, st.text(" \t\r\n", max_size=3), st.booleans())
def test_a_pretty_printed_event_becomes_one_line(value: object, indent: str, is_ascii: bool) -> None:
    event = {"directory": "/srv/a", "payload": {"id": "e", "type": "a", "properties": {"x": value}}, "more": value}
    pretty = json.dumps(event, indent=f"\n{indent}", separators=(" , ", "\t: "), ensure_ascii=is_ascii).encode()
    found = make(b"\r\n " + pretty + b" \n")

    assert found.envelope == json.dumps(event, separators=(",", ":"), ensure_ascii=is_ascii).encode()
    assert json.loads(found.payload) == event["payload"]


def test_spaces_on_one_line_stay() -> None:
    line = b'{ "payload" :\t{ "id": "e", "type": "a", "properties": { } } , "x" : 1 }'

    assert make(b"  " + line + b"\r").envelope == line


@pytest.mark.parametrize(
    "members",
    ['"cursor":"c",{}', '{},"cursor":"c"', '"cursor":null,{},"cursor":[1]', '"c\\u0075rsor":1,{}'],
    ids=["first", "last", "twice", "with an escape"],
)
def test_a_cursor_is_stripped_wherever_it_stands(members: str) -> None:
    """A recording by NDJSON has one in each line."""
    envelope = '"directory":"/srv/a","payload":{"id":"e","type":"a","properties":{"cursor":1},"cursor":2}'
    payload = '"id":"e","type":"a","properties":{"cursor":1,"x":"\\ud800"}'

    assert make(f"{{{members.replace('{}', envelope)}}}".encode()).envelope == f"{{{envelope}}}".encode()
    assert instance(f"{{{members.replace('{}', payload)}}}".encode()).payload == f"{{{payload}}}".encode()


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"a","properties":{}}',
        b'{"type":"a","properties":{} }',
        b'{"type":"a","properties":{"x":"\\ud800"}}',
        b'{"type":"sync","syncEvent":{"id":"evt_0","type":"a.1","seq":0,"aggregateID":"s","data":{}}}',
    ],
    ids=["plain", "with a space", "with half a pair", "a twin, whose inner id is its own"],
)
def test_a_missing_id_is_minted_and_appended_last(payload: bytes) -> None:
    one, other = make(b'{"payload":%b,"x":1}' % payload), instance(payload)
    body = payload[:-1].rstrip()

    assert re.fullmatch(r"evt_[0-9a-f]{12}[0-9A-Za-z]{14}", one.id)
    assert one.payload == b'%b,"id":"%b"}' % (body, one.id.encode())
    assert one.envelope == b'{"payload":%b,"x":1}' % one.payload
    assert other.payload == b'%b,"id":"%b"}' % (body, other.id.encode())
