"""What is published cannot become a frame, a field or a head of its own: line ends and NUL in whatever is echoed."""

import json

import pytest

from tests.clients import Client, dumps, envelope
from tests.servers import Server

MARKS = ["\r", "\n", "\r\n", "\0", "\x0b", "\x85", "\u2028", "\n\ndata: {}\n\n", "\nid: x\n", "\r\n\r\n0\r\n\r\n"]
IDS = [repr(mark)[1:-1] for mark in MARKS]


def forged(mark: str) -> dict[str, object]:
    """Return an event that has `mark` wherever a publisher may put text."""
    event = envelope(f"1{mark}", f"/d{mark}", kind=f"a{mark}b", sessionID=f"s{mark}")
    event |= {"project": f"p{mark}", "workspace": f"w{mark}"}
    return event


@pytest.mark.parametrize("mark", MARKS, ids=IDS)
def test_a_mark_in_every_text_stays_in_its_frame(mark: str, client: Client) -> None:
    stream = client.subscribe()
    rows = client.ask("/global/event", "Accept: application/x-ndjson")
    rows.read_head()
    rows.frame()

    receipt = client.post("/global/event", dumps(forged(mark))).json
    client.publish(envelope("2"))

    assert receipt["ids"] == [f"evt_1{mark}"]
    for reader in (stream, rows):
        first, second = reader.frames(2)
        assert json.loads(json.dumps(first.payload["id"])) == f"evt_1{mark}"
        assert first.payload["type"] == f"a{mark}b"
        assert second.event == "evt_2"
    late = client.subscribe("/global/event?after=earliest")
    assert [frame.event for frame in late.events(2)] == [f"evt_1{mark}", "evt_2"]


@pytest.mark.parametrize("raw", [b"\r", b"\n", b"\0", b"\x1f"])
def test_an_unescaped_control_in_a_text_is_no_json(raw: bytes, client: Client) -> None:
    for text in (
        b'{"payload":{"id":"a%bb","type":"t","properties":{}}}' % raw,
        b'{"payload":{"id":"a","type":"t%bt","properties":{}}}' % raw,
        b'{"directory":"/d%b","payload":{"id":"a","type":"t","properties":{}}}' % raw,
        b'{"payload":{"id":"a","type":"t","properties":{"x":"%b"}}}' % raw,
    ):
        assert client.post("/global/event", text).status == 400


def test_line_ends_between_tokens_do_not_reach_a_stream(client: Client) -> None:
    stream = client.subscribe()

    client.post("/global/event", b'{\r\n"payload":\n{"id":"a",\r"type":"t","properties":{\n\n}}}\r\n')

    assert stream.frame().event == "a"


@pytest.mark.parametrize("mark", ["%0A%0Adata: x%0A%0A", "%0D%0Aid: 1%0D%0A", "%00"])
def test_what_a_subscriber_asks_for_is_echoed_inside_its_frame(mark: str, client: Client) -> None:
    target = mark.replace(" ", "%20")

    stream = client.subscribe(f"/global/event?after={target}")
    expired = stream.frame()

    assert expired.type == "server.stream.expired"
    client.publish(envelope("1"))
    assert stream.events(1)[0].event == "evt_1"
    assert client.get(f"/event?directory=/d&on_overflow={target}").status == 400
    assert client.get(f"/{target}").status == 404


def test_a_field_with_a_line_end_is_no_head(server: Server, client: Client) -> None:
    for bad in (b"X: a\rb", b"X: a\0b", b"Last-Event-ID: a\rid: b", b"X\0: a"):
        sock = client.connect()
        sock.sendall(b"GET /global/event HTTP/1.1\r\nHost: localhost\r\n" + bad + b"\r\n\r\n")
        assert sock.recv(65_536).startswith(b"HTTP/1.0 400 "), bad
    server.complaints.lines.clear()
    assert server.subscribed == 0


@pytest.mark.parametrize("target", ["/-/healthy", "/-/status", "/-/", "/nowhere", "/event", "/global/health"])
def test_an_answer_of_ours_is_not_guessed_at_not_framed_and_not_told_of(target: str, client: Client) -> None:
    head = client.get(target).head

    assert head["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in head["Content-Security-Policy"]
    assert head["Referrer-Policy"] == "no-referrer"
