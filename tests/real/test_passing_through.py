"""What is not the shield's is upstream's: the same answers, and connections that go both ways."""

import json
from typing import Any

import aiohttp

from tests.clients import DEADLINE_S, Answer, Client
from tests.real.opencode import Opencode
from tests.servers import Daemon

# Fields that are one connection's, or one moment's.
OWN = ("date", "connection", "transfer-encoding", "content-length", "keep-alive")


def answers(client: Client, project: str) -> dict[str, Answer]:
    """Ask for something of every kind: JSON, HTML, an asset, what is not there, what is wrong, other methods."""
    page = client.get("/").body.decode()
    asset = page.partition('src="')[2].partition('"')[0]
    origin = {"Origin": "http://localhost:3000"}
    requests: dict[str, tuple[Any, ...]] = {
        "health": ("GET", "/global/health"),
        "page": ("GET", "/"),
        "asset": ("GET", asset),
        "head": ("HEAD", "/global/health"),
        "head of a stream": ("HEAD", "/global/event"),
        "unknown path": ("GET", "/no/such/path"),
        "api": ("GET", "/doc"),
        "directory": ("GET", f"/path?directory={project}"),
        "escapes": ("GET", f"/find/file?query=%C3%A9%2F%20&directory={project}"),
        "no such session": ("GET", "/session/ses_nobody"),
        "wrong body": ("POST", "/session", b"{", {"Content-Type": "application/json"}),
        "empty answer": ("POST", "/log", b"{}", {"Content-Type": "application/json"}),
        "another origin": ("GET", "/global/health", None, origin),
        "preflight": ("OPTIONS", "/session", None, origin | {"Access-Control-Request-Method": "POST"}),
    }
    return {
        name: client.send(method, target, *(rest[:1] or [None]), **dict(rest[1]) if rest[1:] else {})
        for name, (method, target, *rest) in requests.items()
    }


def test_answers_are_those_of_the_server_behind(shield: Daemon, opencode: Opencode) -> None:
    bare = answers(opencode.client, str(opencode.project))
    found = answers(shield.client, str(opencode.project))

    for name, answer in found.items():
        assert answer.status == bare[name].status, name
        assert answer.body == bare[name].body, name
        assert answer.head.without(*OWN) == bare[name].head.without(*OWN), name


async def test_a_terminal_of_the_server_is_typed_at_through_the_shield(shield: Daemon, opencode: Opencode) -> None:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    place = {"directory": str(opencode.project)}
    async with aiohttp.ClientSession(shield.url, timeout=timeout) as http:
        async with http.post("/pty", params=place, json={"command": "/bin/sh", "title": "typed at"}) as answer:
            pty = (await answer.json())["id"]
        async with http.ws_connect(f"/pty/{pty}/connect", params=place) as socket:
            await socket.send_str("echo $((6 * 7))-is-the-answer\n")
            seen = ""
            while "42-is-the-answer" not in seen:
                message = await socket.receive(DEADLINE_S)
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
                seen += message.data if isinstance(message.data, str) else message.data.decode(errors="replace")
        async with http.delete(f"/pty/{pty}", params=place) as answer:
            assert answer.status == 200


async def test_the_second_protocol_of_streams_passes_through(shield: Daemon) -> None:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(shield.url, timeout=timeout) as http, http.get("/api/event") as stream:
        assert stream.content_type == "text/event-stream"
        async with http.post("/session", json={"title": "seen by the second"}) as answer:
            session = (await answer.json())["id"]
        while session not in (line := (await stream.content.readline()).decode()):
            pass
        assert json.loads(line.removeprefix("data: "))["type"].startswith("session.")
