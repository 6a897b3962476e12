"""What operators and strangers ask: health, status, the list of handles, and paths and methods that nobody serves."""

import contextlib
import sqlite3
from typing import Any

import pytest

from opencode_events import __version__
from tests.clients import NDJSON, Client, dumps, envelope, until
from tests.servers import Daemon, Server

PATHS = {
    "/event": {"GET", "POST"},
    "/global/event": {"GET", "POST"},
    "/global/health": {"GET", "HEAD"},
    "/sync/history": {"POST"},
    "/-/healthy": {"GET", "HEAD"},
    "/-/ready": {"GET", "HEAD"},
    "/-/status": {"GET", "HEAD"},
    "/-/metrics": {"GET", "HEAD"},
    "/-/openapi.json": {"GET", "HEAD"},
    "/-/subscribers": {"GET", "HEAD"},
}


def test_health_answers_as_opencodes_own(client: Client) -> None:
    answer = client.get("/global/health")

    assert (answer.status, answer.head["Content-Type"]) == (200, "application/json")
    assert answer.json == {"healthy": True, "version": __version__}


def test_it_says_that_it_is_alive(client: Client) -> None:
    answer = client.get("/-/healthy")

    assert (answer.status, answer.json["healthy"]) == (200, True)
    assert answer.head["Cache-Control"] == "no-store"


# --- whether it is ready


def test_it_is_ready_when_it_answers(client: Client) -> None:
    answer = client.get("/-/ready")

    assert (answer.status, answer.json) == (200, {"ready": True, "reasons": []})
    assert answer.head["Cache-Control"] == "no-store"
    assert answer.head.all("Retry-After") == []


def test_it_is_not_ready_while_the_log_cannot_be_written_and_is_again_by_itself(server: Server) -> None:
    client = server.client
    stream = client.subscribe()
    client.publish(envelope(1))
    with contextlib.closing(sqlite3.connect(server.log_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = client.post("/global/event", dumps(envelope(2)))
        answer = client.get("/-/ready")
        other.execute("ROLLBACK")

    assert (refused.status, refused.json["title"]) == (503, "Event log unavailable")
    assert (answer.status, answer.json) == (503, {"ready": False, "reasons": ["database is locked"]})
    assert answer.head["Retry-After"] == refused.head["Retry-After"] == "1"
    assert answer.head["Content-Type"] == "application/json"
    until(lambda: client.get("/-/ready").status == 200)
    client.publish(envelope(3))
    assert [frame.event for frame in stream.frames(2)] == ["evt_1", "evt_3"]
    told = [line["event"] for line in server.lines if line["event"].startswith("eventlog.")]
    told = [name for name in told if name != "eventlog.upkeep_failed"]  # if the log's own work was due just then
    assert told == ["eventlog.failed", "eventlog.recovered"]


def test_it_is_not_ready_while_it_shuts_down(server: Server) -> None:
    """A balancer on a connection that is open already is told, and so is a publisher."""
    server.run(lambda: server.broker.drain(0))

    answer = server.client.get("/-/ready")

    assert (answer.status, answer.json) == (503, {"ready": False, "reasons": ["the daemon is shutting down"]})
    assert answer.head["Retry-After"] == "1"
    assert server.client.get("/-/healthy").status == 200
    assert server.client.post("/global/event", dumps(envelope(1))).status == 503
    assert b'"reason":"shutdown"' in server.client.get("/global/event?after=earliest").body


# --- statistics


def test_status_counts(client: Client) -> None:
    streams = [client.subscribe(), client.subscribe("/global/event?types=a"), client.subscribe()]
    client.publish(envelope(1), envelope(2), envelope(2))
    streams[0].events(2)
    streams[0].close()
    until(lambda: len(client.subscribers()) == 2)

    status = client.status()

    assert status["version"] == __version__
    broker: dict[str, Any] = status["broker"]
    assert (broker["published_events"], broker["duplicate_events"]) == (2, 1)
    assert (broker["subscribers"], broker["subscribers_opened"], broker["selections"]) == (2, 3, 2)
    assert broker["subscribers_by_state"] == {"live": 2}
    assert broker["subscribers_closed"] == {"client_closed": 1}
    assert broker["held_bytes"] == 0
    log: dict[str, Any] = status["log"]
    assert (log["head"], log["oldest"], log["events"]) == (2, 1, 2)
    assert broker["head"] == f"{log['epoch']}-2"


def test_the_status_is_the_daemons(daemon: Daemon) -> None:
    assert daemon.client.status()["pid"] == daemon.pid
    assert daemon.client.status()["log"]["path"] == str(daemon.log_path)


def test_each_handle_is_shown(client: Client) -> None:
    client.subscribe("/global/event?types=b,a&session=s&sync=none&workspace=w&end=abort")
    stream = client.subscribe("/event?directory=/d", f"Accept: {NDJSON}")
    last = client.publish(envelope(1), envelope(2, "/e"), envelope(3))["last"]
    stream.frames(2)

    filtered, instance = client.subscribers()

    assert filtered["selection"] == {
        "stream": "global", "format": "sse", "directory": None, "session": ["s"], "types": ["a", "b"], "sync": "none",
        "workspace": ["w"],
        "within": None,
    }  # fmt: skip
    assert instance["selection"] == {
        "stream": "instance", "format": "ndjson", "directory": "/d", "session": [], "types": [], "sync": "all",
        "workspace": [],
        "within": None,
    }  # fmt: skip
    assert [filtered["end"], instance["end"]] == ["abort", "clean"]
    assert [filtered["id"], instance["id"]] == [1, 2]
    host, port = stream.sock.getsockname()
    assert instance["peer"] == f"{host}:{port}"
    assert (instance["state"], instance["reason"], instance["is_parked"]) == ("live", None, False)
    assert (instance["sent_events"], instance["queued_events"], instance["queued_bytes"]) == (2, 0, 0)
    assert (instance["cursor"], instance["lag_events"]) == (last, 0)
    assert [filtered["on_overflow"], instance["on_overflow"]] == ["end", "end"]
    assert (filtered["sent_events"], filtered["sent_bytes"]) == (0, 0)


def test_a_handle_that_has_gone_is_not_shown(client: Client) -> None:
    client.subscribe().close()

    until(lambda: client.subscribers() == [])


@pytest.mark.parametrize("path", [path for path, methods in PATHS.items() if "HEAD" in methods])
def test_a_monitor_may_ask_for_the_head_alone(client: Client, path: str) -> None:
    """RFC 9110, section 9.3.2."""
    answer, whole = client.send("HEAD", path), client.get(path)

    assert (answer.status, answer.body) == (200, b"")
    assert answer.head["Content-Type"] == whole.head["Content-Type"]


@pytest.mark.parametrize(
    ("path", "method"),
    [
        (path, method)
        for path, methods in PATHS.items()
        for method in ("HEAD", "PUT", "PATCH", "DELETE", "TRACE")
        if method not in methods
    ],
)
def test_a_method_that_a_path_has_not_is_405(server: Server, path: str, method: str) -> None:
    answer = server.client.send(method, path)

    assert answer.status == 405
    assert set(answer.head["Allow"].split(", ")) == PATHS[path] | {"OPTIONS"}
    assert answer.head["Content-Type"] == "application/problem+json"
    if method == "HEAD":
        assert answer.body == b""
    else:
        assert (answer.json["status"], answer.json["title"]) == (405, "Method Not Allowed")
    assert server.subscribed == 0


@pytest.mark.parametrize("path", ["/", "/events", "/event/", "/global", "/-", "/-/metrics/x", "/x%00y", "/%ff"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_an_unknown_path_is_404(client: Client, path: str, method: str) -> None:
    sock = client.connect()
    sock.sendall(client.request(path, "Connection: close", "Content-Length: 0", method=method))
    received = b""
    while more := sock.recv(65_536):
        received += more

    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert b'"status":404' in body


def test_an_unknown_path_without_a_body_for_head(client: Client) -> None:
    answer = client.send("HEAD", "/nowhere")

    assert (answer.status, answer.body) == (404, b"")


def test_at_the_end_each_answer_is_its_connection_s_last(server: Server) -> None:
    client = server.client
    server.web_connections.are_ending = True

    assert client.get("/-/status").head["Connection"] == "close"
    kept = client.connect()
    kept.sendall(client.request("/sync/history", "Content-Type: application/json", "Content-Length: 2", method="POST"))
    kept.sendall(b"{}")
    answer = b""
    while piece := kept.recv(65_536):  # to the end: one that is sent in pieces has begun by then, and has no word of it
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert client.ask("/global/event?end=abort").read_head().all("Connection") == []
