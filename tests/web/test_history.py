"""`POST /sync/history` as opencode answers it: what lies behind the sequence numbers that a client has, as it is read.

Which rows these are is the log's; here is what a client sees.
"""

import http.client
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing
from typing import Any

import pytest

from opencode_events.errors import LogUnavailable
from opencode_events.eventlog.base import SyncRow
from tests.clients import DEADLINE_S, JSON, NDJSON, Answer, Client, dumps, envelope, lines, until
from tests.servers import LOOPS, Daemon, Server
from tests.web.events import synced

Serve = Callable[..., Server]

PATH = "/sync/history"


def ask(client: Client, known: object, **fields: str) -> list[dict[str, Any]]:
    answer = client.post(PATH, dumps(known), **fields)
    assert answer.status == 200, answer.body
    assert answer.head["Content-Type"] == JSON
    found: list[dict[str, Any]] = answer.json
    return found


def problem(answer: Answer, status: int) -> dict[str, Any]:
    """Return the members of the refusal that `answer` must be."""
    assert answer.status == status, answer.body
    assert answer.head["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json
    assert document["status"] == status
    assert all(document.pop(name) for name in ("type", "title", "status", "detail"))
    return document


@pytest.fixture
def client(server: Server) -> Client:
    """A client of a server with two aggregates, published one among the other: ses_1 has 0 to 3, ses_2 5 to 6."""
    server.client.publish(
        synced(1, 0), envelope(1), synced(2, 5, "ses_2"), synced(3, 1), synced(4, 2), synced(5, 6, "ses_2"),
        envelope(9, kind="session.idle"), synced(6, 3),
    )  # fmt: skip
    return server.client


def places(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(row["aggregate_id"], row["seq"]) for row in rows]


ALL = [("ses_1", 0), ("ses_1", 1), ("ses_1", 2), ("ses_1", 3), ("ses_2", 5), ("ses_2", 6)]


# --- what is answered


def test_a_row_is_what_opencode_s_is(server: Server) -> None:
    data = {"sessionID": "ses_1", "info": {"title": "a\u2028\U0001f600"}}
    server.client.publish(synced(1, 0, data=data))

    answer = server.client.post(PATH, b"{}")

    row = {"id": "evt_1", "aggregate_id": "ses_1", "seq": 0, "type": "test.tick.1", "data": data}
    assert answer.body == dumps([row])
    assert answer.head["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, ALL),
        ({"ses_1": 0}, ALL[1:]),
        ({"ses_1": 2, "ses_2": 5}, [("ses_1", 3), ("ses_2", 6)]),
        ({"ses_2": 6}, ALL[:4]),
        ({"ses_1": 3, "ses_2": 6}, []),
        ({"ses_1": 99, "ses_2": 2**53 - 1}, []),
        ({"ses_2": 0}, ALL),
        ({"ses_3": 7}, ALL),
        ({"ses_1": 3, "ses_2": 6, "": 0}, []),
    ],
    ids=[
        "everything", "later ones, and others whole", "later ones of each", "all of one", "nothing", "nothing beyond",
        "before its beginning", "one that nobody knows", "an empty name",
    ],
)  # fmt: skip
def test_what_lies_behind_the_numbers_is_answered(
    client: Client, known: dict[str, int], expected: list[tuple[str, int]]
) -> None:
    assert places(ask(client, known)) == expected


def test_a_log_without_twins_has_no_history(server: Server) -> None:
    assert server.client.post(PATH, b"{}").body == b"[]"
    server.client.publish(envelope(1))
    assert server.client.post(PATH, b'{"ses_1":0}').body == b"[]"


@pytest.mark.parametrize(
    "data",
    [
        rb'{"a":"\ud800","b":[1.50e+10,-0,123456789012345678901]}',
        b'{ "a" : [ 1 ,\t{ } ] }',
        b'"text"',
        b"null",
        b"[]",
    ],
    ids=["half a pair, and numbers as written", "spaces", "text", "null", "a list"],
)
def test_data_are_the_bytes_that_were_published(server: Server, data: bytes) -> None:
    text = b'{"payload":{"type":"sync","syncEvent":{"type":"a.1","seq":0,"aggregateID":"s","data":%b},"id":"e"}}'
    assert server.client.post("/global/event", text % data).status == 200

    answer = server.client.post(PATH, b"{}")

    assert answer.body == b'[{"id":"e","aggregate_id":"s","seq":0,"type":"a.1","data":%b}]' % data


def test_it_is_what_the_stream_had(client: Client) -> None:
    """A client that follows the stream and one that asks have the same."""
    stream = client.subscribe("/global/event?sync=only&after=earliest")
    twins = [frame.payload["syncEvent"] for frame in stream.until("server.stream.live")[:-1]]

    rows = ask(client, {})

    assert sorted(rows, key=lambda row: str(row["id"])) == [
        {"id": twin["id"], "aggregate_id": twin["aggregateID"], "seq": twin["seq"], "type": twin["type"],
         "data": twin["data"]}
        for twin in sorted(twins, key=lambda twin: str(twin["id"]))
    ]  # fmt: skip


def test_it_outlives_the_daemon(serve: Serve) -> None:
    before = serve()
    before.client.publish(synced(1, 0), synced(2, 1))
    before.stop()

    assert places(ask(serve().client, {"ses_1": 0})) == [("ses_1", 1)]


def test_http_1_0_has_it_without_chunks(client: Client) -> None:
    sock = client.connect()
    body = b'{"ses_1":2,"ses_2":5}'
    sock.sendall(
        client.request(PATH, f"Content-Type: {JSON}", f"Content-Length: {len(body)}", method="POST", version="1.0")
        + body
    )
    received = b""
    while more := sock.recv(65_536):
        received += more

    head, _, answer = received.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert places(json.loads(answer)) == [("ses_1", 3), ("ses_2", 6)]


def test_a_page_of_an_allowed_origin_may_read(client: Client) -> None:
    answer = client.post(PATH, b"{}", Origin="http://localhost:3000")
    other = client.post(PATH, b"{}", Origin="http://evil.example")
    preflight = client.send("OPTIONS", PATH, Origin="http://localhost", Access_Control_Request_Headers="content-type")

    assert answer.head["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert answer.head["Vary"] == other.head["Vary"] == "Origin"
    assert other.head.all("Access-Control-Allow-Origin") == []
    assert (preflight.status, preflight.head["Access-Control-Allow-Headers"]) == (204, "content-type")


# --- what is refused


@pytest.mark.parametrize(
    "value",
    ["-1", "1.5", "1.0", "1e2", '"1"', "true", "false", "null", "[]", "{}", str(2**53), "-9223372036854775808",
     str(2**64)],
    ids=lambda value: value[:25],
)  # fmt: skip
def test_what_is_no_sequence_number_is_refused_by_its_aggregate(client: Client, value: str) -> None:
    body = b'{"ses_2":6,"ses_1":%b}' % value.encode()

    assert problem(client.post(PATH, body), 400) == {"field": "ses_1"}


NOT_TAKEN = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "text": b'"ses_1"',
    "a number": b"1",
    "half an object": b"{",
    "two objects": b"{}{}",
    "a trailing comma": b'{"a":1,}',
    "not UTF-8": b"\xff",
    "deep": b"[" * 5_000,
    "a number of 5000 digits": b'{"a":1%b}' % (b"0" * 5_000),
    "a number past floats": b'{"a":1e400}',
}


@pytest.mark.parametrize("body", NOT_TAKEN.values(), ids=NOT_TAKEN.keys())
def test_what_is_no_object_of_numbers_is_refused(client: Client, body: bytes) -> None:
    assert problem(client.post(PATH, body), 400) == {}


def test_a_long_name_is_not_repeated_whole(client: Client) -> None:
    document = problem(client.post(PATH, dumps({"x" * 5_000: -1})), 400)

    assert document == {"field": "x" * 64}


@pytest.mark.parametrize("content_type", [NDJSON, "text/plain", "nonsense"])
def test_another_content_type_is_not_taken(client: Client, content_type: str) -> None:
    assert problem(client.post(PATH, b"{}", content_type), 415) == {"field": "Content-Type"}


def test_no_content_type_is_not_taken(client: Client) -> None:
    assert problem(client.send("POST", PATH, b"{}"), 415) == {"field": "Content-Type"}


def test_a_coded_body_is_not_taken(client: Client) -> None:
    answer = client.post(PATH, b"{}", Content_Encoding="gzip")

    assert problem(answer, 415) == {"field": "Content-Encoding"}


@pytest.mark.parametrize("is_declared", [True, False], ids=["declared", "chunked"])
def test_a_body_over_the_limit_is_refused(serve: Serve, is_declared: bool) -> None:
    client = serve(max_body_bytes=10_000).client
    body = dumps({f"ses_{number:06}": number for number in range(1_000)})

    pieces = body if is_declared else iter([body[:6_000], body[6_000:]])

    assert problem(client.send("POST", PATH, pieces, Content_Type=JSON), 413) == {"limit": 10_000}


# --- as it is read


@pytest.mark.parametrize("loop_name", LOOPS)
def test_many_rows_come_whole_and_in_order(server: Server) -> None:
    """Several pages of one aggregate, of many, and of rows of which few make a page."""
    wanted = [synced(f"a{number}", number, "long") for number in range(500)]
    wanted += [synced(f"b{number}", 3, f"short_{number}") for number in range(500)]
    wanted += [synced(f"c{number}", number, "wide", "x" * 100_000) for number in range(10)]
    assert server.client.post("/global/event", lines(wanted), NDJSON).json["accepted"] == 1_010

    rows = ask(server.client, {"long": 99, "short_7": 3})

    expected = [twin["payload"]["syncEvent"] for twin in wanted]
    assert places(rows) == [
        (twin["aggregateID"], twin["seq"])
        for twin in expected
        if not (twin["aggregateID"] == "long" and twin["seq"] <= 99) and twin["aggregateID"] != "short_7"
    ]
    assert all(len(row["data"]) == 100_000 for row in rows[-10:])


def test_a_long_history_costs_a_page(daemon: Daemon) -> None:
    client = daemon.client
    for start in range(0, 6_000, 1_000):
        client.publish(*(synced(number, number, data="x" * 8_000) for number in range(start, start + 1_000)))
    before = daemon.peak_kib()

    assert len(ask(client, {})) == 6_000

    assert daemon.peak_kib() - before < 16 * 1024


def test_who_does_not_read_holds_up_its_own_answer_alone(serve: Serve) -> None:
    server = serve(send_buffer=4096)
    client = server.client
    client.publish(*(synced(number, number, data="x" * 3_000) for number in range(600)))
    sock = client.connect(receive_buffer=1)
    sock.sendall(client.request(PATH, f"Content-Type: {JSON}", "Content-Length: 2", method="POST") + b"{}")

    assert sock.recv(4)
    assert len(ask(client, {})) == 600
    assert client.publish(synced("next", 600))["accepted"] == 1

    sock.close()
    until(lambda: server.connections == 0 and server.tasks() == [])


# --- a log that fails

ERRORS = {"history.cut", "request.failed"}
ROW = SyncRow("evt_1", "ses_1", 0, "a.1", b"{}")
History = Callable[[Mapping[str, int]], AsyncIterator[Sequence[SyncRow]]]


def failing(*pages: Sequence[SyncRow], error: Exception) -> History:
    async def history(known: Mapping[str, int]) -> AsyncIterator[Sequence[SyncRow]]:
        for page in pages:
            yield page
        raise error

    return history


def test_a_log_that_cannot_be_read_says_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.broker, "history", failing(error=LogUnavailable("disk I/O error")))

    answer = server.client.post(PATH, b"{}", Origin="http://localhost")

    assert problem(answer, 503) == {}
    assert answer.head["Retry-After"] == "1"
    assert answer.head["Access-Control-Allow-Origin"] == "http://localhost"


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize(
    "error", [LogUnavailable("disk I/O error"), ZeroDivisionError("a bug")], ids=["unavailable", "a bug"]
)
def test_a_log_that_fails_half_way_cuts_the_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Half an answer must not look like a whole one."""
    monkeypatch.setattr(server.broker, "history", failing([ROW] * 2, [ROW], error=error))
    with closing(http.client.HTTPConnection(server.client.host, server.client.port, timeout=DEADLINE_S)) as connection:
        connection.request("POST", PATH, b"{}", {"Content-Type": JSON})
        response = connection.getresponse()

        with pytest.raises(http.client.IncompleteRead) as cut:
            response.read()

    assert response.status == 200
    assert not cut.value.partial.endswith(b"]")
    assert b"Internal error" not in cut.value.partial
    until(lambda: server.connections == 0 and server.tasks() == [])
    told = [(line["event"], line["log_level"]) for line in server.lines if line["event"] in ERRORS]
    assert told == [("history.cut", "warning") if isinstance(error, LogUnavailable) else ("request.failed", "error")]
