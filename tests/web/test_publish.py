"""Publishing over real connections: what is taken, what is refused and how, and what subscribers get of it.

What an event is, and how lines are cut, have tests of their own; here is what a client sees.
"""

import gzip
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.clients import JSON, NDJSON, Answer, Client, disposal, dumps, envelope, lines, payload, twin, until
from tests.servers import Daemon, Server

Serve = Callable[..., Server]

NOTHING = {"accepted": 0, "duplicates": 0, "skipped": 0, "first": None, "last": None}


def rows(server: Server) -> list[tuple[Any, ...]]:
    """Return position, id, is_sync and envelope of what stands in the log's file, as another process sees it."""
    with closing(sqlite3.connect(f"file:{server.log_path}?mode=ro", uri=True)) as log:
        return log.execute("SELECT position, id, is_sync, envelope FROM event ORDER BY position").fetchall()


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """Return the problem document that `answer` must be, without what is the same in each."""
    assert answer.status == status, answer.body
    assert answer.head["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json
    assert document.pop("status") == status
    assert document.pop("type") == "about:blank"
    assert document.pop("title")
    assert document.pop("detail")
    return document


# --- what is taken


def test_an_object_has_its_place_in_the_log_when_the_answer_comes(server: Server) -> None:
    answer = server.client.post("/global/event", dumps(envelope(1)))

    assert rows(server) == [(1, "evt_1", 0, dumps(envelope(1)))]
    assert answer.status == 200
    assert answer.head["Content-Type"] == JSON
    epoch = answer.json["first"].split("-")[0]
    assert answer.json == {
        "accepted": 1, "duplicates": 0, "skipped": 0, "first": f"{epoch}-1", "last": f"{epoch}-1", "ids": ["evt_1"],
    }  # fmt: skip


def test_an_instance_event_is_put_in_the_envelope_of_its_directory(server: Server) -> None:
    everything = server.client.subscribe()
    instance = server.client.subscribe("/event?directory=/srv/%C3%A4")

    answer = server.client.post("/event?directory=/srv/%C3%A4", dumps(payload(1, n=1)))

    assert answer.json["ids"] == ["evt_1"]
    assert instance.frame().data == dumps(payload(1, n=1))
    assert everything.frame().data == dumps(envelope(1, "/srv/ä", n=1))


def test_the_directory_may_come_in_a_header(server: Server) -> None:
    stream = server.client.subscribe("/event?directory=/srv/%C3%A4")

    answer = server.client.post("/event", dumps(payload(1)), x_opencode_directory="%2Fsrv%2F%C3%A4")

    assert answer.status == 200
    assert stream.frame().event == "evt_1"


def test_an_array_stands_in_one_piece(server: Server) -> None:
    stream = server.client.subscribe()
    items = [envelope(1), envelope(2, n=[1, {"a": "]"}]), envelope(3)]

    receipt = server.client.post("/global/event", json.dumps(items, indent=2).encode()).json

    assert (receipt["accepted"], receipt["ids"]) == (3, ["evt_1", "evt_2", "evt_3"])
    frames = stream.frames(3)
    assert [frame.json for frame in frames] == items
    assert [frames[0].id, frames[2].id] == [receipt["first"], receipt["last"]]


def test_an_empty_array_is_no_error(client: Client) -> None:
    assert client.post("/global/event", b"[]").json == NOTHING | {"ids": []}


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n  \n"], ids=["nothing", "a line", "white lines"])
def test_ndjson_without_events_is_no_error(client: Client, body: bytes) -> None:
    assert client.post("/global/event", body, NDJSON).json == NOTHING


def test_ndjson_is_taken_line_by_line_however_it_is_cut(server: Server) -> None:
    stream = server.client.subscribe()
    text = dumps(envelope(1)) + b"\r\n\n" + dumps(envelope(2, text="\U0001f600")) + b"\n \n" + dumps(envelope(3))

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(text), 7):
            yield text[at : at + 7]

    answer = server.client.send("POST", "/global/event", pieces(), Content_Type=NDJSON)

    assert answer.json["accepted"] == 3
    assert "ids" not in answer.json
    assert [frame.json for frame in stream.frames(3)] == [envelope(1), envelope(2, text="\U0001f600"), envelope(3)]


def test_ndjson_is_taken_as_it_arrives(server: Server) -> None:
    """A publisher may keep one request open for days."""
    stream = server.client.subscribe()
    sock = server.client.connect()
    sock.sendall(
        server.client.request("/global/event", f"Content-Type: {NDJSON}", "Transfer-Encoding: chunked", method="POST")
    )
    for number in range(3):
        line = dumps(envelope(number)) + b"\n"
        sock.sendall(b"%x\r\n%b\r\n" % (len(line), line))
        assert stream.frame().event == f"evt_{number}"
    sock.sendall(b"0\r\n\r\n")

    assert sock.recv(65_536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_recording_can_be_posted_back(server: Server) -> None:
    """Control frames are skipped, and the cursor that NDJSON carries is not part of the event."""
    recorder = server.client.subscribe("/global/event", f"Accept: {NDJSON}")
    recorded = [recorder.connected]
    server.client.publish(envelope(1), twin(1), envelope(2, "/e"))
    recorded += recorder.frames(3)
    heartbeat = {"payload": {"id": "evt_h", "type": "server.heartbeat", "properties": {}}}
    body = b"".join(frame.data + b"\n" for frame in recorded if frame) + dumps(heartbeat)

    receipt = server.client.post("/global/event", body, NDJSON).json

    assert receipt == NOTHING | {"duplicates": 3, "skipped": 2}
    assert [row[3] for row in rows(server)] == [dumps(envelope(1)), dumps(twin(1)), dumps(envelope(2, "/e"))]


@pytest.mark.parametrize(
    "kind", ["server.connected", "server.heartbeat", "server.stream.closing", "server.stream.gap", "server.stream.x"]
)
def test_a_servers_own_frames_are_counted_and_not_taken(server: Server, kind: str) -> None:
    receipt = server.client.post("/global/event", dumps([envelope(1, kind=kind), envelope(2)])).json

    assert (receipt["accepted"], receipt["skipped"], receipt["ids"]) == (1, 1, ["evt_1", "evt_2"])
    assert [row[1] for row in rows(server)] == ["evt_2"]


def test_a_disposal_is_a_real_event(server: Server) -> None:
    assert server.client.publish(disposal(1))["accepted"] == 1


def test_a_second_event_of_the_same_id_is_counted_and_not_sent(server: Server) -> None:
    stream = server.client.subscribe()

    first = server.client.publish(envelope(1), envelope(1, n=2), envelope(2))
    again = server.client.publish(envelope(2), envelope(1))
    server.client.publish(envelope(3))

    assert (first["accepted"], first["duplicates"]) == (2, 1)
    assert again == NOTHING | {"duplicates": 2}
    assert [frame.json for frame in stream.frames(3)] == [envelope(1), envelope(2), envelope(3)]


def test_an_event_and_its_sync_twin_both_live(server: Server) -> None:
    stream = server.client.subscribe()

    receipt = server.client.publish(envelope(1), twin(1), twin(1))

    assert (receipt["accepted"], receipt["duplicates"]) == (2, 1)
    assert [frame.json for frame in stream.frames(2)] == [envelope(1), twin(1)]


def test_an_id_is_minted_and_stands_last_in_the_payload(server: Server) -> None:
    stream = server.client.subscribe()
    without = {"directory": "/d", "payload": {"type": "a", "properties": {}}, "project": "p"}

    (minted,) = server.client.post("/global/event", dumps(without)).json["ids"]

    frame = stream.frame()
    assert minted.startswith("evt_")
    assert list(frame.payload) == ["type", "properties", "id"]
    assert list(frame.json) == ["directory", "payload", "project"]
    assert frame.event == minted


def test_minted_ids_differ(client: Client) -> None:
    without = {"payload": {"type": "a", "properties": {}}}

    ids = client.post("/global/event", dumps([without] * 1_000)).json["ids"]

    assert len(set(ids)) == 1_000


# --- the bytes

PROPERTIES = {
    "lone surrogates": rb'{"x":"\ud800 \uDFFF","y":"\ud83d\ude00"}',
    "NUL and line separators": b'{"x":"\\u0000\xe2\x80\xa8\xe2\x80\xa9"}',
    "four bytes of UTF-8": '{"x":"\U0001f600\U0010ffff"}'.encode(),
    "numbers beyond a double": b'{"x":1e400,"y":0.10,"z":123456789012345678901}',
    "escaped slashes and keys": rb'{"\u0061\/":"\"\\"}',
    "spaces": b'{ "x" : [ 1 ,\t{ } ] }',
}
TEXTS = {name: b'{"payload":{"id":"a","type":"t","properties":%b}}' % text for name, text in PROPERTIES.items()}
TEXTS["unknown keys"] = b'{ "a" : [ 1 ] , "payload":{"b":null,"id":"a","type":"t","properties":{},"c":{}},"payloads":1}'


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("content_type", [JSON, NDJSON])
def test_the_bytes_reach_subscribers_as_they_came(server: Server, text: bytes, content_type: str) -> None:
    stream = server.client.subscribe()

    answer = server.client.post("/global/event", text, content_type)

    assert answer.status == 200, answer.body
    assert stream.frame().data == text
    assert rows(server)[0][3] == text


def test_pretty_printed_json_becomes_one_line(server: Server) -> None:
    stream = server.client.subscribe()
    event = envelope(1, text="a\n b  c\t", list=[1, 2, {}])

    server.client.post("/global/event", json.dumps(event, indent="\t").encode().replace(b"\n", b"\r\n"))

    assert stream.frame().data == dumps(event)


# --- limits


def padded(size: int) -> bytes:
    """Return an envelope of exactly `size` bytes."""
    bare = len(dumps(envelope(1, pad="")))
    return dumps(envelope(1, pad="x" * (size - bare)))


def test_an_event_of_4_mib_arrives_whole(server: Server) -> None:
    stream = server.client.subscribe()
    parked = server.client.stall()
    event = padded(4 * 1024 * 1024)

    answer = server.client.post("/global/event", event)

    assert answer.status == 200
    assert stream.frame().data == event
    assert parked.frame().type == "server.connected"
    assert parked.frame().data == event


@pytest.mark.parametrize("content_type", [JSON, NDJSON])
@pytest.mark.parametrize("around", [b"", b"\r\n"], ids=["bare", "with a line's end"])
def test_an_event_may_be_as_large_as_the_limit_and_no_larger(serve: Serve, content_type: str, around: bytes) -> None:
    server = serve(max_event_bytes=1_000)

    good = server.client.post("/global/event", padded(1_000) + around, content_type)
    bad = server.client.post("/global/event", padded(1_001) + around, content_type)

    assert good.json["accepted"] == 1
    assert problem(bad, 413)["limit"] == 1_000


def test_a_line_that_never_ends_is_cut_off_at_the_limit(serve: Serve) -> None:
    """What came before it stays, and is told."""
    server = serve(max_event_bytes=10_000)

    def pieces() -> Iterator[bytes]:
        yield lines([envelope(1), envelope(2)])
        for _ in range(20):
            yield b'{"payload":"' + b"x" * 1_000

    answer = server.client.send("POST", "/global/event", pieces(), Content_Type=NDJSON)

    document = problem(answer, 413)
    assert (document["line"], document["limit"], document["accepted"]) == (3, 10_000, 2)
    assert [row[1] for row in rows(server)] == ["evt_1", "evt_2"]


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "chunked"])
def test_a_body_over_the_limit_is_refused(serve: Serve, is_declared: bool) -> None:
    server = serve(max_body_bytes=100_000)
    body = dumps([envelope(number, pad="x" * 1_000) for number in range(200)])

    pieces = body if is_declared else iter([body[:60_000], body[60_000:]])
    answer = server.client.send("POST", "/global/event", pieces, Content_Type=JSON)

    assert problem(answer, 413) == {"limit": 100_000}
    assert rows(server) == []


def test_a_body_below_the_limit_is_taken(serve: Serve) -> None:
    """Releases of aiohttp differ about a body that is exactly as large."""
    server = serve(max_body_bytes=1_000)

    assert server.client.post("/global/event", padded(999)).status == 200
    assert server.client.post("/global/event", padded(1_001)).status == 413


def test_ndjson_may_be_longer_than_a_body(serve: Serve) -> None:
    server = serve(max_body_bytes=10_000)

    receipt = server.client.publish(*(envelope(number, pad="x" * 1_000) for number in range(100)))

    assert receipt["accepted"] == 100


# --- what is refused

BAD_EVENTS = {
    "not JSON": (b"{", {}),
    "not an object": (b"1", {}),
    "no payload": (b'{"directory":"/d"}', {"field": "payload"}),
    "payload of a wrong type": (b'{"payload":1}', {"field": "payload"}),
    "no type": (b'{"payload":{"properties":{}}}', {"field": "payload.type"}),
    "type of a wrong type": (b'{"payload":{"type":1,"properties":{}}}', {"field": "payload.type"}),
    "no properties": (b'{"payload":{"type":"t"}}', {"field": "payload.properties"}),
    "directory of a wrong type": (b'{"directory":1,"payload":{"type":"t","properties":{}}}', {"field": "directory"}),
    "empty id": (b'{"payload":{"id":"","type":"t","properties":{}}}', {"field": "payload.id"}),
    "sync without its event": (b'{"payload":{"type":"sync"}}', {"field": "payload.syncEvent"}),
    "not UTF-8": (b'{"payload":{"type":"t","properties":{"x":"\xff"}}}', {}),
    "two values": (b'{"payload":{"type":"t","properties":{}}}{}', {}),
}


@pytest.mark.parametrize(("text", "members"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
def test_what_is_no_event_is_refused_by_name(server: Server, text: bytes, members: dict[str, object]) -> None:
    alone = server.client.post("/global/event", text)
    in_a_line = server.client.post("/global/event", text, NDJSON)

    assert problem(alone, 400) == members
    assert problem(in_a_line, 400) == members | NOTHING | {"line": 1}
    assert rows(server) == []


@pytest.mark.parametrize(
    ("text", "members"),
    [case for name, case in BAD_EVENTS.items() if name not in ("not JSON", "two values")],
    ids=[name for name in BAD_EVENTS if name not in ("not JSON", "two values")],
)
def test_an_array_is_taken_whole_or_not_at_all(server: Server, text: bytes, members: dict[str, object]) -> None:
    answer = server.client.post("/global/event", b"[%b,%b,%b]" % (dumps(envelope(1)), text, dumps(envelope(2))))

    assert problem(answer, 400) == members | {"index": 1}
    assert rows(server) == []


@pytest.mark.parametrize("text", [b"[{]", b"[1 2]", b"[", b'[{"payload":'], ids=str)
def test_a_broken_array_is_refused(server: Server, text: bytes) -> None:
    problem(server.client.post("/global/event", text), 400)
    assert rows(server) == []


def test_lines_before_a_bad_one_stay_and_are_counted(server: Server) -> None:
    stream = server.client.subscribe()
    body = lines([envelope(1), envelope(1), envelope(9, kind="server.heartbeat")]) + b"\n{bad\n" + lines([envelope(2)])

    answer = server.client.post("/global/event", body, NDJSON)
    server.client.publish(envelope(3))

    document = problem(answer, 400)
    first = stream.frame()
    assert document == {
        "line": 5, "accepted": 1, "duplicates": 1, "skipped": 1, "first": first.id, "last": first.id,
    }  # fmt: skip
    assert [first.event, stream.frame().event] == ["evt_1", "evt_3"]
    assert [row[1] for row in rows(server)] == ["evt_1", "evt_3"]


def test_an_instance_needs_its_directory(client: Client) -> None:
    assert problem(client.post("/event", dumps(payload(1))), 400) == {"field": "directory"}


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/json-seq", "text/event-stream", "application/octet-stream", "nonsense"]
)
def test_another_content_type_is_not_taken(server: Server, content_type: str) -> None:
    answer = server.client.post("/global/event", dumps(envelope(1)), content_type)

    assert problem(answer, 415) == {"field": "Content-Type"}
    assert rows(server) == []


def test_no_content_type_is_not_taken(client: Client) -> None:
    assert problem(client.send("POST", "/global/event", dumps(envelope(1))), 415) == {"field": "Content-Type"}


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_parameters_and_case_of_the_content_type_do_not_matter(client: Client, content_type: str) -> None:
    assert client.post("/global/event", dumps(envelope(1)), content_type).status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity", "\xff"])
def test_a_coded_body_is_not_taken(server: Server, coding: str) -> None:
    answer = server.client.post("/global/event", gzip.compress(dumps(envelope(1))), Content_Encoding=coding)

    assert problem(answer, 415) == {"field": "Content-Encoding"}
    assert rows(server) == []


def test_a_gzip_bomb_costs_nothing(daemon: Daemon) -> None:
    daemon.client.get("/-/healthy")
    bomb = gzip.compress(bytes(200 * 1024 * 1024), 1)
    before = daemon.peak_kib()

    for content_type in (JSON, NDJSON):
        answer = daemon.client.post("/global/event", bomb, content_type, Content_Encoding="gzip")
        assert answer.status == 415

    assert daemon.peak_kib() - before < 8 * 1024


def test_what_was_refused_is_logged_without_its_contents(server: Server) -> None:
    server.client.post("/global/event", b'{"payload":{"type":"secret"}}')

    (line,) = [line for line in server.lines if line["event"] == "publish.rejected"]
    assert line["log_level"] == "warning"
    assert (line["status"], line["field"]) == (400, "payload.properties")
    assert "secret" not in str(line)


def test_nothing_of_a_refused_publish_is_seen(server: Server) -> None:
    stream = server.client.subscribe()

    server.client.post("/global/event", dumps([envelope(1), envelope(2), {"payload": 1}]))
    server.client.publish(envelope(3))

    assert stream.frame().event == "evt_3"


# --- publishers that die


def test_a_line_that_its_publisher_did_not_finish_is_not_taken(server: Server) -> None:
    stream = server.client.subscribe()
    sock = server.client.connect()
    whole, half = lines([envelope(1), envelope(2)]), dumps(envelope(3))
    sock.sendall(
        server.client.request("/global/event", f"Content-Type: {NDJSON}", "Content-Length: 1000000", method="POST")
        + whole
        + half
    )
    assert [frame.event for frame in stream.frames(2)] == ["evt_1", "evt_2"]

    sock.close()

    until(lambda: server.connections == 0)
    server.client.publish(envelope(4))
    assert stream.frame().event == "evt_4"
    assert [row[1] for row in rows(server)] == ["evt_1", "evt_2", "evt_4"]


def test_a_half_closed_publisher_is_no_better(server: Server) -> None:
    sock = server.client.connect()
    sock.sendall(
        server.client.request("/global/event", f"Content-Type: {NDJSON}", "Transfer-Encoding: chunked", method="POST")
    )
    line = dumps(envelope(1))
    sock.sendall(b"%x\r\n%b\n\r\n%x\r\n%b\r\n" % (len(line) + 1, line, 20, line[:20]))
    until(lambda: rows(server))

    sock.shutdown(1)

    assert sock.recv(65_536) == b""
    assert [row[1] for row in rows(server)] == ["evt_1"]


def test_nothing_is_taken_behind_a_broken_chunk(server: Server) -> None:
    """aiohttp does not tell the handler, which waits for more until the client goes."""
    sock = server.client.connect()
    sock.sendall(
        server.client.request("/global/event", f"Content-Type: {NDJSON}", "Transfer-Encoding: chunked", method="POST")
    )
    first, second = (dumps(envelope(number)) + b"\n" for number in (1, 2))
    sock.sendall(b"%x\r\n%b\r\n" % (len(first), first))
    until(lambda: rows(server))

    sock.sendall(b"nonsense\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(second), second))
    sock.close()

    until(lambda: server.connections == 0 and server.tasks() == [])
    assert [row[1] for row in rows(server)] == ["evt_1"]


# --- publishers beside each other


def test_everybody_sees_one_order_and_each_publishers_own(server: Server) -> None:
    streams = [server.client.subscribe(), server.client.subscribe("/event?directory=/d")]

    def publish(name: str, one_by_one: bool) -> None:
        mine = [envelope(f"{name}_{number}") for number in range(100)]
        client = Client(server.urls[0])
        try:
            for group in [[event] for event in mine] if one_by_one else [mine]:
                client.publish(*group)
        finally:
            client.close()

    threads = [threading.Thread(target=publish, args=(name, name < "d")) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    seen, also_seen = ([frame.event for frame in stream.frames(600)] for stream in streams)
    assert seen == also_seen == [row[1] for row in rows(server)]
    for name in "abcdef":
        assert [event for event in seen if event.startswith(f"evt_{name}_")] == [f"evt_{name}_{n}" for n in range(100)]


def test_an_array_is_not_interrupted_by_others(server: Server) -> None:
    stream = server.client.subscribe()

    def publish(name: str) -> None:
        items = [envelope(f"{name}_{number}") for number in range(700)]
        assert Client(server.urls[0]).post("/global/event", dumps(items)).status == 200

    threads = [threading.Thread(target=publish, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    names = [frame.event.split("_")[1] for frame in stream.frames(2_100)]
    assert [names[at] for at in (0, 699, 700, 1_399, 1_400, 2_099)] in [
        [one, one, other, other, third, third] for one, other, third in ("abc", "acb", "bac", "bca", "cab", "cba")
    ]
    assert all(len(set(names[at : at + 700])) == 1 for at in (0, 700, 1_400))
