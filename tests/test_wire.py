"""What is written is what a reader that follows the standard reads; the reader is in `tests.samples`."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import wire
from opencode_events.events import Stream
from opencode_events.wire import Format
from tests.samples import Message, dechunk, event, make, read_event_stream, recorded, twin
from tests.strategies import VALUES

CURSOR = b"0123456789-7"
TAKEN = [
    line for line in recorded() if b'"type":"server.connected"' not in line and b'"type":"server.heart' not in line
]


# --- events


def test_an_event_on_the_global_stream_is_two_fields_and_a_blank_line() -> None:
    line = b'{"directory":"/srv/a","payload":{"id":"evt_1","type":"a","properties":{}}}'

    assert wire.ENCODERS["global", "sse"](CURSOR, make(line)) == b"id: 0123456789-7\ndata: " + line + b"\n\n"


def test_an_event_on_an_instance_stream_is_its_payload() -> None:
    payload = b'{"id":"evt_1","type":"a","properties":{}}'
    found = make(b'{"directory":"/srv/a","payload":%b,"x":1}' % payload)

    assert wire.ENCODERS["instance", "sse"](CURSOR, found) == b"id: 0123456789-7\ndata: " + payload + b"\n\n"


def test_a_line_of_ndjson_has_the_cursor_as_its_last_key() -> None:
    payload = b'{"id":"evt_1","type":"a","properties":{}, "cursor" : 1}'
    found = make(b'{"directory":"/srv/a","payload":%b,"x":1 }' % payload)

    assert wire.ENCODERS["global", "ndjson"](CURSOR, found) == (
        b'{"directory":"/srv/a","payload":%b,"x":1 ,"cursor":"0123456789-7"}\n' % payload
    )
    assert wire.ENCODERS["instance", "ndjson"](CURSOR, found) == (
        b'{"id":"evt_1","type":"a","properties":{}, "cursor" : 1,"cursor":"0123456789-7"}\n'
    )


def test_a_recording_goes_out_and_is_read_as_it_came() -> None:
    found = [make(line) for line in TAKEN]
    stream = b"".join(
        wire.ENCODERS["global", "sse"](b"0123456789-%d" % position, each) for position, each in enumerate(found, 1)
    )

    assert read_event_stream(stream) == [
        Message("message", line.decode(), f"0123456789-{position}") for position, line in enumerate(TAKEN, 1)
    ]


LINE_BREAKS = st.text(st.sampled_from('\r\n\x85\u2028\u2029\v\f\x1c\0:\\" 😀\ufeff'))


@given(LINE_BREAKS, LINE_BREAKS, st.booleans())
def test_no_text_can_break_out_of_its_frame(text: str, directory: str, is_ascii: bool) -> None:
    envelope = {
        "directory": directory,
        "payload": {"id": "e" + text, "type": "t" + text, "properties": {text: text}},
        f"x{text}": text,
    }
    frame = make(json.dumps(envelope, ensure_ascii=is_ascii).encode())
    (on_global,) = read_event_stream(wire.ENCODERS["global", "sse"](CURSOR, frame))
    (on_instance,) = read_event_stream(wire.ENCODERS["instance", "sse"](CURSOR, frame))
    line = wire.ENCODERS["global", "ndjson"](CURSOR, frame)

    assert json.loads(on_global.data) == envelope
    assert json.loads(on_instance.data) == envelope["payload"]
    assert (on_global.type, on_global.last_event_id) == ("message", "0123456789-7")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == envelope | {"cursor": "0123456789-7"}


@given(VALUES)
def test_a_twin_s_data_arrives(value: Any) -> None:
    sync = {"id": "e", "type": "a.1", "seq": 0, "aggregateID": "s", "data": value}
    found = make(json.dumps({"payload": {"id": "e", "type": "sync", "syncEvent": sync}}).encode())
    (message,) = read_event_stream(wire.ENCODERS["global", "sse"](CURSOR, found))

    assert json.loads(message.data)["payload"]["syncEvent"] == sync


# --- control frames


@pytest.mark.parametrize("cursor", [None, "0123456789-7"], ids=["no id", "id"])
@pytest.mark.parametrize("retry_ms", [None, 2345], ids=["no retry", "retry"])
@pytest.mark.parametrize("stream", ["instance", "global"])
def test_a_control_frame_is_one_block_with_the_fields_asked_for(
    stream: Stream, retry_ms: int | None, cursor: str | None
) -> None:
    properties = {"text": "\r\n\u2028", "n": 1}
    frame = wire.control(stream, "sse", "server.x", properties, cursor=cursor, retry_ms=retry_ms)
    (message,) = read_event_stream(b"id: before\n\n" + frame)
    payload = json.loads(message.data) if stream == "instance" else json.loads(message.data)["payload"]

    assert payload["id"].startswith("evt_")
    assert list(payload) == ["id", "type", "properties"]
    assert (payload["type"], payload["properties"]) == ("server.x", properties)
    assert message.last_event_id == (cursor or "before")
    assert frame.startswith(b"retry: 2345\n") == (retry_ms is not None)
    assert frame.count(b"\n") == 2 + (cursor is not None) + (retry_ms is not None)
    assert frame.endswith(b"\n\n")


@pytest.mark.parametrize(
    ("cursor", "end"), [(None, b"}}}\n"), ("0123456789-7", b'}},"cursor":"0123456789-7"}\n')], ids=["no id", "id"]
)
def test_a_control_frame_of_ndjson_is_one_line_without_a_retry(cursor: str | None, end: bytes) -> None:
    frame = wire.control("global", "ndjson", "server.x", {"a": 1}, cursor=cursor, retry_ms=2345)

    assert b"retry" not in frame
    assert frame.endswith(end)
    assert frame.count(b"\n") == 1


@pytest.mark.parametrize("form", ["sse", "ndjson"])
def test_a_control_frame_about_an_instance_has_its_directory_in_the_envelope(form: Format) -> None:
    frame = wire.control("global", form, "server.x", {"a": 1}, directory="/srv/\xe4")
    found = json.loads(frame.removeprefix(b"data: "))

    assert list(found) == ["directory", "payload"]
    assert found["directory"] == "/srv/\xe4"
    assert (found["payload"]["type"], found["payload"]["properties"]) == ("server.x", {"a": 1})
    assert frame.endswith(b"}\n\n" if form == "sse" else b"}\n")


def test_a_control_frame_without_properties_has_an_empty_object() -> None:
    frame = wire.control("instance", "sse", wire.HEARTBEAT)

    assert frame.endswith(b'"type":"server.heartbeat","properties":{}}\n\n')


@pytest.mark.parametrize("stream", ["instance", "global"])
@pytest.mark.parametrize("form", ["sse", "ndjson"])
def test_no_frame_is_an_event_of_another_name(stream: Stream, form: Format) -> None:
    """An `event:` field would keep it from `EventSource.onmessage`."""
    frames = [wire.ENCODERS[stream, form](CURSOR, each) for each in (event(), twin())]
    frames.append(wire.control(stream, form, wire.CONNECTED, cursor="0123456789-7", retry_ms=1000))

    assert not any(line.startswith((b"event", b":")) for frame in frames for line in frame.split(b"\n"))


# --- chunks


@given(st.lists(st.binary(min_size=1, max_size=300)))
def test_chunks_add_up_to_the_body(parts: list[bytes]) -> None:
    stream = b"".join(map(wire.chunk, parts))

    assert dechunk(stream) == (b"".join(parts), False)
    assert dechunk(stream + wire.LAST_CHUNK) == (b"".join(parts), True)


@pytest.mark.parametrize(("size", "head"), [(1, b"1\r\n"), (15, b"f\r\n"), (16, b"10\r\n"), (4096, b"1000\r\n")])
def test_a_chunk_s_size_is_hexadecimal(size: int, head: bytes) -> None:
    assert wire.chunk(b"x" * size) == head + b"x" * size + b"\r\n"
