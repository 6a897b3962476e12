"""What is served differently before an opencode server: streams cut out of its one, and everything else passed on."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from opencode_events import events
from opencode_events.broker.announcement import Announcement
from opencode_events.errors import Busy
from opencode_events.events import Event
from opencode_events.parts import Behind
from opencode_events.web.shield import Shield, spelled_out
from tests.clients import Client, dumps, envelope, until
from tests.samples import make
from tests.servers import Server, settings

STREAMS = ["/event", "/global/event"]


class Upstream:
    """A server behind, made up: where its directories lead, and what is wrong with it."""

    def __init__(self) -> None:
        self.directories = {"": "/srv/own", "/srv/link": "/srv/a"}
        self.error: Exception | None = None
        self.trouble: str | None = None
        self.is_locked_out = False
        self.asked: list[str] = []
        self.announcements: list[Announcement] = []

    async def pass_through(self, request: web.Request) -> web.StreamResponse:
        """Answer with what was asked."""
        body = (await request.read()).decode()
        return web.json_response({"method": request.method, "target": request.path_qs, "body": body}, status=299)

    async def find_directory(self, asked: str) -> str:
        self.asked.append(asked)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.directories.get(asked, asked)


class ShieldServer(Server):
    """The web part of a daemon that stands before `behind`."""

    def __init__(self, state_dir: Path, behind: Upstream, *, password: str = "", **changes: Any) -> None:
        wanted = settings(state_dir, **{"upstream": "http://127.0.0.1:4096"} | changes)  # where nobody is asked
        shield = Shield(
            pass_through=behind.pass_through,
            find_directory=behind.find_directory,
            trouble=lambda: behind.trouble,
            is_locked_out=lambda: behind.is_locked_out,
            announcements=lambda: behind.announcements,
            allow_publish=wanted.relay.allow_publish,
        )
        super().__init__(wanted, "uvloop", behind=Behind(shield=shield), password=password)

    def happen(self, *some: Event) -> None:
        """Have events come from the server behind."""
        self.run(lambda: self.broker.publish(some))

    @property
    def head(self) -> str:
        return self.call(lambda: self.broker.head)


@pytest.fixture
def behind() -> Upstream:
    return Upstream()


@pytest.fixture
def shield(tmp_path: Path, behind: Upstream) -> Iterator[Callable[..., ShieldServer]]:
    """Start the web part before `behind`. Keywords are settings, and the password that is held."""
    started: list[ShieldServer] = []

    def start(**changes: Any) -> ShieldServer:
        server = ShieldServer(tmp_path / "state", behind, **changes)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def server(shield: Callable[..., ShieldServer]) -> ShieldServer:
    return shield()


@pytest.fixture
def client(server: ShieldServer) -> Client:
    return server.client


def one(number: int, directory: str = "/srv/a", **more: Any) -> Event:
    return make(dumps(envelope(number, directory, **more)))


# --- which instance


def test_a_stream_of_no_directory_is_of_upstreams_own(server: ShieldServer, behind: Upstream) -> None:
    stream = server.client.subscribe("/event")
    server.happen(one(1), one(2, "/srv/own"))

    assert stream.frame().event == "evt_2"
    assert behind.asked == [""]


@pytest.mark.parametrize(
    ("target", "fields"),
    [("/event?directory=/srv/link", []), ("/event", ["x-opencode-directory: %2Fsrv%2Flink"])],
    ids=["query", "header"],
)
def test_a_stream_is_of_the_directory_that_the_asked_one_leads_to(
    server: ShieldServer, behind: Upstream, target: str, fields: list[str]
) -> None:
    stream = server.client.subscribe(target, *fields)
    server.happen(one(1, "/srv/link"), one(2, "/srv/a"))

    assert stream.frame().event == "evt_2"
    assert behind.asked == ["/srv/link"]
    assert server.client.subscribers()[0]["selection"]["directory"] == "/srv/a"


def test_the_global_stream_asks_for_no_directory(server: ShieldServer, behind: Upstream) -> None:
    stream = server.client.subscribe("/global/event?directory=/srv/link")
    server.happen(one(1), one(2, "/srv/b"))

    assert [frame.event for frame in stream.frames(2)] == ["evt_1", "evt_2"]
    assert behind.asked == []


def test_a_directory_that_cannot_be_told_is_refused_for_now(client: Client, behind: Upstream) -> None:
    behind.error = Busy("upstream's own directory is not known yet", retry_after_s=1)
    answer = client.get("/event")

    assert answer.status == 503
    assert answer.head["Content-Type"] == "application/problem+json"
    assert answer.head["Retry-After"] == "1"
    assert "not known yet" in answer.json["detail"]
    assert client.subscribers() == []


def test_what_is_no_filter_is_refused_before_upstream_is_asked(client: Client, behind: Upstream) -> None:
    assert client.get("/event?sync=only").status == 400
    assert client.get("/event?end=never").status == 400
    assert behind.asked == []


# --- what is passed on


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/global/health"),
        ("POST", "/sync/history"),
        ("GET", "/session?x=1&y=%2F"),
        ("DELETE", "/session/ses_1"),
        ("OPTIONS", "/session"),
        ("GET", "/api/event"),
        ("GET", "/events"),
        ("GET", "/-"),
        ("PUT", "/event"),
        ("DELETE", "/global/event"),
        ("PURGE", "/x"),
        ("GET", "/a%0Ab"),
    ],
)
def test_what_is_not_ours_is_passed_on(client: Client, method: str, target: str) -> None:
    answer = client.send(method, target, b"{}" if method == "POST" else None)

    assert answer.status == 299
    assert answer.json == {"method": method, "target": target, "body": "{}" if method == "POST" else ""}


@pytest.mark.parametrize("target", STREAMS)
def test_the_head_of_a_stream_is_upstreams_to_answer(client: Client, target: str) -> None:
    assert client.send("HEAD", target).status == 299


@pytest.mark.parametrize("target", STREAMS)
def test_a_preflight_of_a_stream_is_ours(client: Client, target: str) -> None:
    answer = client.send("OPTIONS", target, Origin="http://localhost:3000")

    assert answer.status == 204
    assert answer.head["Access-Control-Allow-Origin"] == "http://localhost:3000"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/-/healthy", 200), ("GET", "/-/status", 200), ("GET", "/-/session", 404), ("GET", "/-/", 200),
        ("POST", "/-/healthy", 405), ("DELETE", "/-/x/y", 404), ("GET", "/-/%0A", 404),
    ],
)  # fmt: skip
def test_what_operates_the_daemon_is_ours_and_hides_nothing_else(
    client: Client, method: str, target: str, status: int
) -> None:
    answer = client.send(method, target)

    assert answer.status == status
    assert status == 200 or answer.head["Content-Type"] == "application/problem+json"


# --- publishing


@pytest.mark.parametrize("target", ["/event?directory=/srv/a", "/global/event"])
def test_nobody_else_may_publish(client: Client, target: str) -> None:
    answer = client.post(target, dumps(envelope(1)))

    assert answer.status == 403
    assert answer.head["Content-Type"] == "application/problem+json"
    assert "allow_publish" in answer.json["detail"]


def test_others_may_publish_where_the_setting_lets_them(shield: Callable[..., ShieldServer]) -> None:
    client = shield(allow_publish=True).client
    stream = client.subscribe("/event?directory=/srv/link")

    assert client.publish(envelope(1, "/srv/a"))["accepted"] == 1
    assert stream.frame().event == "evt_1"


# --- trouble


def test_it_is_ready_when_upstream_is_heard(client: Client, behind: Upstream) -> None:
    assert client.get("/-/ready").json == {"ready": True, "reasons": []}
    behind.trouble = "upstream is away: nobody answers"
    answer = client.get("/-/ready")

    assert answer.status == 503
    assert answer.json == {"ready": False, "reasons": ["upstream is away: nobody answers"]}
    assert client.get("/-/healthy").status == 200


def test_streams_are_served_while_upstream_is_away(server: ShieldServer, behind: Upstream) -> None:
    behind.trouble = "upstream is away: nobody answers"
    stream = server.client.subscribe("/global/event")
    server.happen(one(1))

    assert stream.frame().event == "evt_1"


@pytest.mark.parametrize("target", [*STREAMS, "/event?directory=/srv/a"])
def test_no_stream_is_served_while_upstream_wants_a_password(
    server: ShieldServer, behind: Upstream, target: str
) -> None:
    client = server.client
    stayed = client.subscribe(target)
    behind.is_locked_out, behind.trouble = True, "upstream is away: it wants a password"
    answer = client.get(target)

    assert answer.status == 503
    assert answer.head["Content-Type"] == "application/problem+json"
    assert "password" in answer.json["detail"]
    assert client.get("/session").status == 299
    behind.is_locked_out, behind.trouble = False, None
    came = client.subscribe(target)
    server.happen(one(1), one(2, "/srv/own"))
    assert came.frame().event == stayed.frame().event


@pytest.mark.parametrize("target", [*STREAMS, "/session", "/-/status", "/-/ready", "/-%2Fhealthy"])
def test_who_does_not_show_the_password_gets_nothing(shield: Callable[..., ShieldServer], target: str) -> None:
    client = shield(password="secret").client
    shown = "Basic b3BlbmNvZGU6c2VjcmV0"

    assert client.get(target).status == 401
    assert client.send("GET", target, Authorization="Basic b3BlbmNvZGU6d3Jvbmc=").status == 401
    if target in STREAMS:
        assert client.subscribe(target, f"Authorization: {shown}").connected is not None
        assert client.subscribe(f"{target}?auth_token={shown.removeprefix('Basic ')}").connected is not None
    else:
        assert client.send("GET", target, Authorization=shown).status in (200, 299)


# --- how streams go on, and end


@pytest.mark.parametrize("target", STREAMS)
def test_streams_catch_up_and_end_with_a_cut_unless_they_ask_for_something_else(
    server: ShieldServer, target: str
) -> None:
    client = server.client
    usual = client.subscribe(target)
    asked = client.subscribe(f"{target}?on_overflow=end&end=clean")
    terms = [(handle["on_overflow"], handle["end"]) for handle in client.subscribers()]
    assert terms == [("catchup", "abort"), ("end", "clean")]
    assert usual.read_head().all("Connection") == []
    assert asked.read_head()["Connection"] == "close"
    for handle in client.subscribers():
        client.send("DELETE", f"/-/subscribers/{handle['id']}")
    for stream, end in ((usual, "cut"), (asked, "clean")):
        assert stream.rest()[-1].type == "server.stream.closing"
        assert stream.ended == end


@pytest.mark.parametrize("on_overflow", ["end", "catchup"])
def test_the_operator_may_choose_what_happens_at_a_cap(shield: Callable[..., ShieldServer], on_overflow: str) -> None:
    client = shield(on_overflow=on_overflow).client
    client.subscribe("/global/event")

    assert [handle["on_overflow"] for handle in client.subscribers()] == [on_overflow]


@pytest.mark.parametrize("target", ["/event?directory=/srv/a", "/global/event"])
@pytest.mark.parametrize("kind", ["trimmed", "epoch", "malformed"])
def test_whoever_cannot_be_resumed_goes_on_at_the_head(
    shield: Callable[..., ShieldServer], target: str, kind: str
) -> None:
    server = shield(log_max_events=5)
    server.happen(one(1))
    first = server.head
    server.happen(*(one(number) for number in range(2, 20)))
    until(lambda: server.call(lambda: server.broker.oldest_position) > 10)
    asked = {"trimmed": first, "epoch": "0123456789-1", "malformed": "x"}[kind]
    stream = server.client.subscribe(target, f"Last-Event-ID: {asked}")
    expired = stream.frame()
    server.happen(one(20))

    assert stream.connected is not None
    assert stream.connected.id is None
    assert stream.connected.properties["resumed"] is False
    assert (expired.type, expired.properties["reason"]) == ("server.stream.expired", kind)
    assert stream.frame().event == "evt_20"


def test_whoever_can_be_resumed_misses_nothing(server: ShieldServer) -> None:
    server.happen(one(1))
    first = server.head
    server.happen(one(2), one(3, "/srv/b"))
    for target, missed in (("/event?directory=/srv/link", ["evt_2"]), ("/global/event", ["evt_2", "evt_3"])):
        stream = server.client.subscribe(target, f"Last-Event-ID: {first}")
        found = stream.until("server.stream.live")
        assert [frame.event for frame in found[:-1]] == missed


@pytest.mark.parametrize("query", ["", "types=x.*", "session=ses_9", "sync=none", "workspace=w"])
def test_a_gap_comes_past_every_filter_and_can_be_resumed_after(server: ShieldServer, query: str) -> None:
    targets = ["/event?directory=/srv/a", "/event?directory=/srv/never", "/global/event?x=1"]
    streams = [server.client.subscribe(f"{target}&{query}") for target in targets]
    before = server.head
    server.happen(events.gap(1, 2, 3))
    for target, stream in zip(targets, streams, strict=True):
        gap = stream.frame()
        assert (gap.type, gap.properties) == ("server.stream.gap", {"from": 1, "to": 2, "refilled": 3})
        assert gap.id == server.head
        resumed = server.client.subscribe(f"{target}&{query}", f"Last-Event-ID: {before}")
        assert json.loads(resumed.frame().data) == json.loads(gap.data)


# --- tokens

TEAM, PASSER = "team-" + "7" * 32, "passer-" + "7" * 32


@pytest.fixture
def held(shield: Callable[..., ShieldServer], tmp_path: Path) -> ShieldServer:
    """A shield with a token for one directory, and one for what is passed through."""
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(
        f'[team]\ntoken = "{TEAM}"\nscopes = ["subscribe", "publish"]\ndirectories = ["/srv/a"]\n'
        f'[passer]\ntoken = "{PASSER}"\nscopes = ["upstream"]\n'
    )
    return shield(tokens_file=str(path))


def status(server: Server, method: str, target: str, token: str) -> int:
    return server.client.send(method, target, Authorization=f"Bearer {token}").status


def test_a_directory_is_judged_as_it_is_asked_for_and_again_where_it_leads(
    held: ShieldServer, behind: Upstream
) -> None:
    behind.directories |= {"/srv/a/link": "/srv/b", "/srv/a/x": "/srv/a/y"}

    assert status(held, "GET", "/event?directory=/srv/a/link", TEAM) == 403
    assert status(held, "GET", "/event", TEAM) == 403
    assert behind.asked == ["/srv/a/link", ""]
    assert status(held, "GET", "/event?directory=/srv/b", TEAM) == 403
    assert status(held, "GET", "/event?directory=/srv/link", TEAM) == 403
    assert behind.asked == ["/srv/a/link", ""], "an instance was started for who may not have it"
    held.client.subscribe("/event?directory=/srv/a/x", f"Authorization: Bearer {TEAM}")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/session"), ("POST", "/session/x/shell"), ("GET", "/-%2Fhealthy"), ("GET", "/sync/history"),
        ("GET", "/global/health"), ("HEAD", "/event"),
    ],
)  # fmt: skip
def test_what_is_passed_through_has_a_scope_of_its_own(method: str, target: str, held: ShieldServer) -> None:
    assert status(held, method, target, TEAM) == 403
    assert status(held, method, target, PASSER) == 299
    assert held.client.send(method, target).status == 401


def test_a_history_that_no_directory_bounds_is_not_for_who_is_bounded(held: ShieldServer) -> None:
    assert status(held, "POST", "/sync/history", TEAM) == 403
    assert status(held, "POST", "/sync/history", PASSER) == 403


# --- other spellings


@pytest.mark.parametrize(
    "target",
    [
        "/global/event/",
        "//global/event",
        "/global//event",
        "/GLOBAL/Event",
        "/global/event;x=1",
        "/%67lobal/event/",
        "/global/event#?x",
    ],
)  # fmt: skip
def test_a_stream_in_another_spelling_is_ours(server: ShieldServer, target: str) -> None:
    stream = server.client.subscribe(target)
    server.happen(one(1))

    assert stream.connected is not None
    assert stream.connected.id is not None
    assert stream.frame().event == "evt_1"


@pytest.mark.parametrize("target", ["/global/events", "/api/event", "/event/x", "/session/event"])
def test_what_only_looks_like_a_stream_is_passed_through(server: ShieldServer, target: str) -> None:
    assert server.client.send("GET", target).status == 299


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "/"),
        ("/event", "/event"),
        ("//Event///", "/event"),
        ("/global;a=b/event;c", "/global/event"),
        ("/;x", "/"),
        ("/global/event#", "/global/event"),
        ("/event/#/x", "/event"),
    ],
)
def test_a_path_is_spelled_out_as_upstream_reads_it(path: str, expected: str) -> None:
    assert spelled_out(path) == expected


# --- behind a gap


def test_a_fresh_global_stream_is_told_what_was_announced_a_moment_ago(server: ShieldServer, behind: Upstream) -> None:
    """A client that lost its connection in the gap, and has no cursor, comes too late for the announcement itself."""
    behind.announcements = [Announcement(events.DISPOSED, {"directory": "/srv/a"}, "/srv/a")]
    cursor = server.head
    fresh, resumed = server.client.subscribe("/global/event"), server.client.subscribe(f"/global/event?after={cursor}")
    instance = server.client.subscribe("/event?directory=/srv/a")
    server.happen(one(1))

    told = fresh.frame()
    assert (told.type, told.id, told.properties) == (events.DISPOSED, None, {"directory": "/srv/a"})
    assert json.loads(told.data)["directory"] == "/srv/a"
    assert [fresh.frame().event, instance.frame().event] == ["evt_1", "evt_1"]
    assert [frame.type for frame in resumed.until("server.stream.live")] == ["server.stream.live"]


def test_a_token_s_stream_is_told_of_its_own_directories_only(held: ShieldServer, behind: Upstream) -> None:
    behind.announcements = [
        Announcement(events.DISPOSED, {"directory": directory}, directory) for directory in ("/srv/b", "/srv/a/x")
    ]
    stream = held.client.subscribe("/global/event", f"Authorization: Bearer {TEAM}")
    held.happen(one(1))

    assert [json.loads(frame.data).get("directory") for frame in (stream.frame(), stream.frame())] == [
        "/srv/a/x", "/srv/a",
    ]  # fmt: skip
