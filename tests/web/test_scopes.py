"""What a token gets over a real connection: the paths of its scopes, and of its directories what happens in them."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import Answer, Client, dumps, envelope, lines, parse_head, payload, twin, until
from tests.servers import Server

TOKENS = {name: f"{name}-" + "7" * 32 for name in ("reader", "writer", "operator", "team")}
FILE = f"""
[reader]
token = "{TOKENS["reader"]}"
scopes = ["subscribe"]

[writer]
token = "{TOKENS["writer"]}"
scopes = ["publish"]

[operator]
token = "{TOKENS["operator"]}"
scopes = ["operate"]

[team]
token = "{TOKENS["team"]}"
scopes = ["subscribe", "publish"]
directories = ["/srv/team"]
"""
NDJSON = "application/x-ndjson"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(FILE)
    return path


@pytest.fixture
def server(serve: Callable[..., Server], file: Path) -> Server:
    return serve(tokens_file=str(file))


def bearer(name: str) -> str:
    return f"Bearer {TOKENS[name]}"


def send(client: Client, name: str, method: str, target: str, body: object = None) -> Answer:
    text = None if body is None else dumps(body)
    return client.send(method, target, text, Authorization=bearer(name), Content_Type="application/json")


# --- scopes

ASKED = {
    "GET /event?directory=/srv/team": "subscribe",
    "GET /global/event": "subscribe",
    "POST /sync/history": "subscribe",
    "POST /event?directory=/srv/team": "publish",
    "POST /global/event": "publish",
    "GET /-/": "operate",
    "GET /-/ready": "operate",
    "GET /-/status": "operate",
    "GET /-/metrics": "operate",
    "GET /-/subscribers": "operate",
    "DELETE /-/subscribers/77": "operate",
}


def status(client: Client, asked: str, *fields: str) -> int:
    """Return the status of an answer, whatever follows it."""
    method, target = asked.split(" ")
    body = b"{}" if method == "POST" else b""
    sock = client.connect()
    more = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    sock.sendall(client.request(target, *more, *fields, method=method) + body)
    return parse_head(sock.recv(65_536).partition(b"\r\n\r\n")[0]).status


@pytest.mark.parametrize("asked", ASKED)
def test_each_path_wants_its_scope(asked: str, client: Client) -> None:
    for name, scope in (("reader", "subscribe"), ("writer", "publish"), ("operator", "operate")):
        found = status(client, asked, f"Authorization: {bearer(name)}")

        assert found in ((200, 400, 404, 503) if scope == ASKED[asked] else (403,)), name
    assert status(client, asked) == 401


@pytest.mark.parametrize("target", ["/global/health", "/nowhere", "/-/healthy"])
def test_any_token_may_ask_for_the_rest(target: str, client: Client) -> None:
    expected = 404 if target == "/nowhere" else 200

    assert {send(client, name, "GET", target).status for name in TOKENS} == {expected}


def test_whoever_has_none_may_ask_whether_somebody_is_there(client: Client) -> None:
    assert client.get("/-/healthy").status == 200
    assert (
        client.send("OPTIONS", "/event", Origin="http://localhost:1", Access_Control_Request_Method="GET").status == 204
    )
    for path in ("/-/ready", "/-%2Fhealthy", "/-/%68ealthy/", "//-/healthy", "/-/healthy/", "/-/./ready", "/"):
        assert client.get(path).status == 401, path


def test_a_refusal_says_what_is_missing_and_not_the_token(client: Client) -> None:
    refused = send(client, "reader", "GET", "/-/status")

    assert refused.json["detail"] == "the token reader is not for this: it has no scope operate"
    assert refused.json["field"] == "Authorization"


def test_whose_token_is_none_of_ours_is_told_by_address(server: Server, client: Client) -> None:
    wrong = "w" * 43

    by_field = client.send("GET", "/-/status", Authorization=f"Bearer {wrong}")
    by_query = client.get(f"/global/event?auth_token={wrong}")

    assert (by_field.status, by_query.status) == (401, 401)
    failed = server.told("login.failed")
    assert [line["peer"].rpartition(":")[0] for line in failed] == ["127.0.0.1", "127.0.0.1"]
    assert wrong not in repr(server.lines)


def test_a_stream_takes_the_token_from_its_address(client: Client) -> None:
    stream = client.subscribe(f"/global/event?auth_token={TOKENS['reader']}")

    send(client, "writer", "POST", "/global/event", envelope(1))

    assert stream.frame().event == "evt_1"


# --- directories


def publish_some(server: Server) -> None:
    """Have events in and beside the team's directory, and some in none."""
    some = [
        envelope(1, "/srv/team"),
        envelope(2, "/srv/other"),
        envelope(3, "/srv/team/sub"),
        envelope(4, "/srv/team-b"),
        envelope(5, "global"),
        envelope(6, None),
        envelope(7, "/srv/team/../other"),
        envelope(8, "/srv/other", kind="server.instance.disposed"),
        twin(9, directory="/srv/team", session="ses_t"),
        twin(10, directory="/srv/other", session="ses_o"),
    ]
    answer = server.client.send(
        "POST", "/global/event", lines(some), Authorization=bearer("writer"), Content_Type=NDJSON
    )
    assert answer.json["accepted"] == len(some), answer.body


SEEN = ["evt_1", "evt_3", "evt_9"]


def test_a_global_stream_has_what_happens_in_them_live_and_from_the_log(server: Server, client: Client) -> None:
    fields = f"Authorization: {bearer('team')}"
    live = client.subscribe("/global/event", fields)
    narrow = client.subscribe("/global/event?types=test.*&sync=none", fields)
    publish_some(server)
    late = client.subscribe("/global/event?after=earliest", fields)

    assert [frame.event for frame in live.events(3)] == SEEN
    assert [frame.event for frame in narrow.events(2)] == SEEN[:2]
    assert [frame.event for frame in late.until("server.stream.live")[:-1]] == SEEN


def test_what_is_announced_of_other_directories_does_not_reach_it(server: Server, client: Client) -> None:
    stream = client.subscribe("/global/event", f"Authorization: {bearer('team')}")

    for directory in ("/srv/other", "/srv/team", None):
        server.call(functools.partial(server.broker.announce, "server.test", {}, directory))

    assert [frame.json.get("directory") for frame in stream.frames(2)] == ["/srv/team", None]


@pytest.mark.parametrize(
    "directory",
    ["/srv/other", "/srv", "/", "srv/team", "/srv/team/../other", "/srv/teams", "global", "/srv/team%2F..%2Fother"],
)
def test_an_instance_elsewhere_is_refused(directory: str, client: Client) -> None:
    refused = send(client, "team", "GET", f"/event?directory={directory}")

    assert refused.status == 403
    assert refused.json["field"] == "directory"


def test_an_instance_in_one_of_them_is_served_and_the_query_is_what_counts(client: Client) -> None:
    fields = [f"Authorization: {bearer('team')}", "x-opencode-directory: %2Fsrv%2Fother"]

    client.subscribe("/event?directory=/srv/team/sub", *fields)

    assert client.ask("/event", *fields).read_head().status == 403


def test_the_history_has_the_rows_of_them_only(server: Server, client: Client) -> None:
    publish_some(server)

    rows = send(client, "team", "POST", "/sync/history", {}).json
    everything = send(client, "reader", "POST", "/sync/history", {}).json

    assert [row["aggregate_id"] for row in rows] == ["ses_t"]
    assert [row["aggregate_id"] for row in everything] == ["ses_t", "ses_o"]
    assert set(rows[0]) == {"id", "aggregate_id", "seq", "type", "data"}


def test_publishing_elsewhere_is_refused_with_its_place(client: Client) -> None:
    outside = envelope(2, "/srv/other")

    def refused(answer: Answer) -> tuple[int, object, object, object]:
        return answer.status, answer.json["field"], answer.json.get("index"), answer.json.get("line")

    assert refused(send(client, "team", "POST", "/global/event", outside)) == (403, "directory", None, None)
    assert refused(send(client, "team", "POST", "/global/event", envelope(3, None))) == (403, "directory", None, None)
    both = [envelope(1, "/srv/team"), outside]
    assert refused(send(client, "team", "POST", "/global/event", both)) == (403, "directory", 1, None)
    instance = send(client, "team", "POST", "/event?directory=/srv/team/..", payload(4))
    assert refused(instance) == (403, "directory", None, None)
    by_line = client.send("POST", "/global/event", lines(both), Authorization=bearer("team"), Content_Type=NDJSON)
    assert refused(by_line) == (403, "directory", None, 2)
    assert by_line.json["accepted"] == 1
    assert send(client, "team", "POST", "/event?directory=/srv/team/x", payload(5)).json["accepted"] == 1


# --- what becomes of it


def test_the_operator_sees_what_bounds_a_stream_and_no_token(server: Server, client: Client) -> None:
    client.subscribe("/global/event", f"Authorization: {bearer('team')}")

    answers = [send(client, "operator", "GET", path) for path in ("/-/subscribers", "/-/status", "/-/metrics")]

    assert answers[0].json["subscribers"][0]["selection"]["within"] == ["/srv/team"]
    shown = b"".join(answer.body for answer in answers) + repr(server.lines).encode()
    assert [name for name, token in TOKENS.items() if token.encode() in shown] == []


def take_away(server: Server, file: Path) -> None:
    """Have the team's token be another one from now on."""
    file.write_text(FILE.replace('["/srv/team"]', '["/srv/team/sub"]'))
    commit = server.keys.prepare_tokens(server.settings, server.revoke)
    assert commit is not None
    server.call(commit)


def test_whose_token_is_taken_away_is_ended_and_nobody_else(server: Server, client: Client, file: Path) -> None:
    gone = client.subscribe("/global/event", f"Authorization: {bearer('team')}")
    stays = client.subscribe("/global/event", f"Authorization: {bearer('reader')}")

    take_away(server, file)

    assert gone.rest()[-1].properties["reason"] == "operator"
    send(client, "writer", "POST", "/global/event", envelope(1))
    assert stays.frame().event == "evt_1"


def test_an_upload_ends_with_its_token(server: Server, client: Client, file: Path) -> None:
    head = (f"Content-Type: {NDJSON}", "Content-Length: 1000")
    gone, stays = client.connect(), client.connect()
    for sock, name in ((gone, "team"), (stays, "writer")):
        begun = lines([envelope(name, "/srv/team")])
        sock.sendall(client.request("/global/event", *head, f"Authorization: {bearer(name)}", method="POST") + begun)
    until(lambda: server.call(lambda: server.broker.head_position) == 2)

    take_away(server, file)

    with pytest.raises(ConnectionResetError):
        gone.recv(65_536)
    stays.sendall(b" " * (1000 - len(begun)))
    assert parse_head(stays.recv(65_536).partition(b"\r\n\r\n")[0]).status == 200
