"""`/-/openapi.json`: schemathesis holds it against a running server, and it has every path that there is."""

import asyncio
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from opencode_events import __version__
from opencode_events.broker.broker import Broker
from opencode_events.broker.connection import Terms
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.parts import Behind
from opencode_events.settings import BrokerSettings, EventLogSettings, ServerSettings
from opencode_events.web.app import build_app
from opencode_events.web.openapi import describe
from opencode_events.web.shield import Shield
from tests.servers import Server, settings

ROOT = Path(__file__).parent.parent.parent
METHODS = {"GET", "POST", "DELETE", "PUT", "PATCH"}
# The page for people is no part of what programs use.
NOT_DESCRIBED = {("GET", "/-/")}


def operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def end_streams(server: Server) -> None:
    """Have each stream end soon, and as a whole answer: schemathesis reads to the end."""
    subscribe = server.broker.subscribe

    def briefly(selection: Selection, terms: Terms, *arguments: Any, **more: Any) -> Subscriber:
        handle = subscribe(selection, dataclasses.replace(terms, end="clean"), *arguments, **more)
        server.broker.call_later(0.002, lambda: handle.close(Reason.OPERATOR))
        return handle

    def begin() -> None:
        server.broker.subscribe = briefly  # type: ignore[method-assign]

    server.call(begin)


def hold(server: Server, directory: Path, *options: str) -> str:
    """Run schemathesis against a server; return what it says. Whatever it finds fails the test."""
    end_streams(server)
    url = f"{server.urls[0]}/-/openapi.json"
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.web.contract_hooks", "no_proxy": "*",
    }  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", url, "--checks", "all", "--no-color",
        "--warnings", "off", "--generation-deterministic", "--request-timeout", "10", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=150)
    # It also sends what is no HTTP, of which aiohttp complains.
    bad = re.compile(r"BadHttpMessage|LineTooLong|InvalidHeader|BadStatusLine|TransferEncodingError")
    server.complaints.lines[:] = [line for line in server.complaints.lines if not bad.search(line)]
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.told("request.failed") == []
    return done.stdout


@pytest.mark.limit_s(180)  # some seconds, on a machine that has nothing else to do
def test_a_server_does_what_the_document_says(server: Server, tmp_path: Path) -> None:
    said = hold(server, tmp_path, "--max-examples", "5")

    count = len(operations(server.client.get("/-/openapi.json").json)) - 1  # but for the document's own
    assert f"Tested: {count}\n" in said
    assert int(re.findall(r"(\d+) generated", said)[0]) > 500


@pytest.mark.limit_s(180)  # some seconds, on a machine that has nothing else to do
def test_whoever_may_ask_gets_what_the_document_says_and_others_nothing(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    tokens, token = tmp_path / "tokens.toml", "0123456789abcdefghijkl"
    tokens.write_text(f'[all]\ntoken = "{token}"\nscopes = ["subscribe", "publish", "operate"]\n')
    tokens.chmod(0o600)
    server = serve(tokens_file=str(tokens))
    shown = f"Authorization: Bearer {token}"
    paths = ("--include-path-regex", "^/-/|^/global/health")
    said = hold(server, tmp_path, "--phases", "coverage", "--header", shown, *paths)

    assert "No issues found" in said


@pytest.mark.limit_s(180)  # some seconds, on a machine that has nothing else to do
def test_a_shield_does_what_its_document_says(tmp_path: Path) -> None:
    server = Shielded(tmp_path / "state")
    server.start()
    try:
        # Posting to a stream is no unknown method there, but forbidden; another one is the server's to answer.
        paths = ("--include-path-regex", "^/(global/)?event$")  # below /-/ nothing is different
        said = hold(server, tmp_path, "--phases", "coverage", "--exclude-checks", "unsupported_method", *paths)
    finally:
        server.stop()

    assert "No issues found" in said


# --- that nothing is left out


def shield(*, allow_publish: bool = False) -> Shield:
    async def pass_through(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404)

    async def find_directory(asked: str) -> str:
        return asked or "/srv/own"

    return Shield(
        pass_through=pass_through,
        find_directory=find_directory,
        trouble=lambda: None,
        is_locked_out=lambda: False,
        announcements=list,
        allow_publish=allow_publish,
    )


class Shielded(Server):
    """The web part of a daemon in front of a server that has nothing."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(settings(state_dir), "uvloop", behind=Behind(shield=shield()))


@pytest.mark.parametrize(
    ("behind", "not_ours"),
    [
        (None, set()),
        (shield(allow_publish=True), {("POST", "/sync/history")}),
        (shield(), {("POST", "/sync/history"), ("POST", "/event"), ("POST", "/global/event")}),
    ],
    ids=["alone", "shield that takes", "shield"],
)
async def test_every_path_and_method_is_described(behind: Shield | None, not_ours: set[tuple[str, str]]) -> None:
    eventlog = SqliteLog(None, EventLogSettings())
    broker = Broker(BrokerSettings(), eventlog, asyncio.get_running_loop())
    app = build_app(ServerSettings(), broker, "1.2.3", {}, shield=behind)
    eventlog.close()
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.method in METHODS and route.resource is not None
    }
    document = describe("1.2.3", is_shield=behind is not None, may_publish=behind is None or behind.allow_publish)

    assert operations(document) == served - not_ours - NOT_DESCRIBED


def test_only_what_is_locked_asks_for_a_key() -> None:
    document = describe("1.2.3", is_shield=False, may_publish=True)
    locked = describe("1.2.3", is_shield=False, may_publish=True, shown=("basic", "bearer"))

    assert "security" not in document
    assert locked["security"] == [{"basic": []}, {"bearer": []}]
    assert locked["paths"]["/-/healthy"]["get"]["security"] == []
    assert "401" in locked["paths"]["/event"]["get"]["responses"]


def test_what_is_answered_before_the_daemon_is_asked_is_described(server: Server) -> None:
    document = server.client.get("/-/openapi.json").json
    answers = [
        server.client.send("GET", "/-/status", Expect="the best"),
        server.client.send("GET", "/-/status", X_Long="x" * 20_000),
    ]

    assert [answer.status for answer in answers] == [417, 400]
    for answer in answers:
        described = document["paths"]["/-/status"]["get"]["responses"][str(answer.status)]
        assert answer.head["Content-Type"].partition(";")[0] in described["content"]
    server.complaints.lines.clear()


def test_what_asks_for_a_password_is_described_as_it_is(serve: Callable[..., Server], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.touch(0o600)
    tokens.write_text('[one]\ntoken = "0123456789abcdefghijkl"\nscopes = ["operate"]\n')
    client = serve(tokens_file=str(tokens)).client
    document = client.send("GET", "/-/openapi.json", Authorization="Bearer 0123456789abcdefghijkl").json
    answer = client.get("/-/status")

    assert (answer.status, answer.body) == (401, b"")
    described = document["paths"]["/-/status"]["get"]["responses"]["401"]
    assert "content" not in described
    assert answer.head["WWW-Authenticate"].startswith("Bearer ")
    assert described["headers"].keys() == {"WWW-Authenticate"}


def test_every_part_that_is_referred_to_is_there() -> None:
    document = describe("1.2.3", is_shield=False, may_publish=True)
    asked = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))

    assert asked == document["components"]["schemas"].keys()


def test_the_document_can_be_had(server: Server) -> None:
    answer = server.client.get("/-/openapi.json")

    assert (answer.status, answer.head["Content-Type"]) == (200, "application/json")
    assert (answer.json["openapi"], answer.json["info"]["version"]) == ("3.2.0", __version__)
    names = [each["operationId"] for methods in answer.json["paths"].values() for each in methods.values()]
    assert len(names) == len(set(names))
