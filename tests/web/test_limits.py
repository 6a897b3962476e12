"""What one caller may have, and all together: over a real connection, up to each limit and one beyond it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from opencode_events.web import memory
from tests.clients import Answer, Client, Stream, dumps, envelope, lines, parse_head, until
from tests.servers import Server

JSON, NDJSON = "application/json", "application/x-ndjson"
WRITER = "writer-" + "7" * 32

Serve = Callable[..., Server]


def refusal(stream: Stream) -> tuple[int, str]:
    """Return the status of an answer, and when to come again."""
    head = stream.read_head()
    return head.status, head["Retry-After"]


# --- subscribers


def test_an_address_has_so_many_subscribers_and_one_more_when_one_has_gone(serve: Serve) -> None:
    server = serve(max_subscribers_per_peer=2)
    first, _ = server.client.subscribe(), server.client.subscribe()

    assert refusal(server.client.ask("/global/event")) == (429, "5")
    answer = server.client.get("/global/event")
    assert (answer.json["title"], answer.json["limit"]) == ("Too many requests", 2)

    first.close()
    until(lambda: server.subscribed == 1)
    server.client.subscribe()


def test_so_many_may_read_from_the_log_at_a_time(serve: Serve) -> None:
    server = serve(max_replays=1, send_buffer=4096)
    for number in range(40):
        server.client.publish(envelope(number, text="x" * 60_000))

    slow = server.client.ask("/global/event?after=earliest&on_overflow=catchup", receive_buffer=1)
    until(lambda: server.subscribed == 1)

    assert refusal(server.client.ask("/global/event?after=earliest")) == (503, "1")
    assert "max_replays (1)" in server.client.get("/global/event?after=earliest").json["detail"]
    server.client.subscribe("/global/event")  # who wants nothing of the log
    slow.reset()
    until(lambda: server.subscribed == 1)
    assert len(server.client.subscribe("/global/event?after=earliest").events(40)) == 40


def test_who_is_refused_at_one_limit_counts_against_no_other(serve: Serve) -> None:
    server = serve(max_selections=1, max_subscribers_per_peer=2)
    server.client.subscribe("/global/event")

    for _ in range(5):
        assert server.client.get("/global/event?types=a").status == 503

    server.client.subscribe("/global/event")
    assert server.client.get("/global/event?types=b").status == 429


# --- publishing


@pytest.fixture
def metered(serve: Serve, tmp_path: Path) -> Server:
    """A server with a token that may publish two events a second; each second counts from the first event."""
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(f'[writer]\ntoken = "{WRITER}"\nscopes = ["publish"]\n')
    return serve(tokens_file=str(path), token_publish_events_per_s=0.02)


def post(server: Server, body: bytes, content_type: str = JSON) -> Answer:
    return server.client.post("/global/event", body, content_type, Authorization=f"Bearer {WRITER}")


def test_a_token_that_publishes_too_much_is_told_when_to_come_again(metered: Server) -> None:
    assert post(metered, dumps(envelope(1))).status == 200
    refused = post(metered, dumps(envelope(2)))

    assert (refused.status, refused.json["title"]) == (429, "Too many requests")
    assert refused.json["detail"] == "writer publishes more than token_publish_events_per_s (0.02)"
    assert int(refused.head["Retry-After"]) == 50
    assert metered.call(lambda: metered.broker.statistics()["published_events"]) == 1


def test_an_array_is_taken_whole_or_not_at_all(metered: Server) -> None:
    assert post(metered, dumps([envelope(1), envelope(2)])).json["accepted"] == 2

    assert post(metered, dumps([envelope(3)])).status == 429


def test_of_lines_those_before_are_in_the_log_and_the_next_is_named(serve: Serve) -> None:
    server = serve(peer_publish_events_per_s=0.02)

    refused = server.client.post("/global/event", lines(envelope(number) for number in range(300)), NDJSON)

    assert refused.status == 429
    assert refused.json["accepted"] == refused.json["line"] - 1 > 0
    assert int(refused.head["Retry-After"]) > 1


def test_by_default_who_shows_no_token_may_publish_as_fast_as_it_can(server: Server) -> None:
    answer = server.client.post("/global/event", lines(envelope(number) for number in range(20_000)), NDJSON)

    assert answer.json["accepted"] == 20_000


# --- heads


def head_of(size: int, fields: int) -> list[str]:
    """Return fields, so many, that make a head of `size` bytes with the path `/-/healthy`, Host aside."""
    each = size // fields
    return [f"X-{number:03}: {'x' * (each - 5)}" for number in range(fields)]


def status_of(client: Client, *fields: str) -> int:
    sock = client.connect()
    sock.sendall(client.request("/-/healthy", *fields))
    return parse_head(sock.recv(65_536).partition(b"\r\n\r\n")[0]).status


def test_a_head_has_its_limit_in_one_field_and_in_all(serve: Serve) -> None:
    server = serve(max_head_bytes=2048)

    assert status_of(server.client, *head_of(1800, 1)) == 200
    assert status_of(server.client, *head_of(1800, 60)) == 200
    assert status_of(server.client, *head_of(2048, 60)) == 431
    assert status_of(server.client, *head_of(2200, 1)) == 400
    assert status_of(server.client, *(f"X: {number}" for number in range(130))) == 400
    server.complaints.lines.clear()


def test_slow_heads_are_ended_and_keep_nobody_out(serve: Serve) -> None:
    server = serve(head_timeout_s=0.3, tick_s=0.05)
    stream = server.client.subscribe()
    slow = [server.client.connect() for _ in range(100)]
    for sock in slow:
        sock.sendall(b"GET /global/event HTTP/1.1\r\nHost: local")

    server.client.publish(envelope(1))
    assert stream.frame().event == "evt_1"
    until(lambda: server.watched == 0)
    for sock in slow:
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


# --- memory


def test_while_memory_is_short_nobody_new_is_served_and_who_is_there_stays(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    has = [0]
    monkeypatch.setattr(memory, "resident_bytes", lambda: has[0])
    monkeypatch.setattr(memory, "LOOK_S", 0.0)
    server = serve(max_rss_bytes=1_000)
    stream, _ = server.client.subscribe(), server.client.subscribe()

    has[0] = 1_001
    assert refusal(server.client.ask("/global/event")) == (503, "5")
    assert server.client.post("/global/event", dumps(envelope(1))).status == 503
    assert server.client.send("POST", "/sync/history", b"{}", Content_Type=JSON).status == 503
    ready = server.client.get("/-/ready")
    assert (ready.status, ready.json["reasons"]) == (503, ["memory is short: 1001 bytes are in use, of 1000"])
    assert len(server.client.subscribers()) == 2

    has[0] = 1_000
    server.client.publish(envelope(2))
    assert stream.frame().event == "evt_2"
    assert server.client.get("/-/ready").status == 200
