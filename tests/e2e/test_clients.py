"""Other people's clients against a real daemon: curl, Chromium's EventSource, httpx-sse and aiohttp.

A client that is not installed fails its tests: `make test` installs them.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx_sse
import pytest

from tests.clients import DEADLINE_S, NDJSON, disposal, dumps, envelope, lines, parse_block, parse_line, payload, until
from tests.servers import Daemon

# --- curl


@pytest.fixture
def curl(daemon: Daemon, tmp_path: Path) -> Iterator[Callable[..., "Curl"]]:
    """Start curls with arguments and a target of `daemon`."""
    running: list[Curl] = []

    def start(target: str, *arguments: str, body: bytes = b"") -> Curl:
        running.append(Curl(tmp_path / f"curl{len(running)}", [*arguments, daemon.url + target], body))
        return running[-1]

    yield start
    for each in running:
        each.process.kill()
        each.process.wait()


class Curl:
    """One run of curl."""

    def __init__(self, output: Path, arguments: list[str], body: bytes) -> None:
        self._output = output
        source = output.with_suffix(".in")
        source.write_bytes(body)
        command = ["curl", "--silent", "--no-buffer", "--globoff", "--noproxy", "*", *arguments]
        with output.open("wb") as target, source.open("rb") as stdin:
            self.process = subprocess.Popen(command, stdin=stdin, stdout=target)

    @property
    def received(self) -> bytes:
        return self._output.read_bytes()

    def wait(self) -> int:
        """Return the exit code."""
        return self.process.wait(DEADLINE_S)


@pytest.mark.parametrize(
    ("arguments", "end", "code"),
    [((), "clean", 0), ((), "abort", 18), (("--http1.0",), "clean", 0), (("--http1.0",), "abort", 0)],
)
def test_curl_sees_how_a_stream_ends(
    daemon: Daemon, curl: Callable[..., Curl], arguments: tuple[str, ...], end: str, code: int
) -> None:
    """18 is a partial file: what was promised by chunks has not come."""
    run = curl(f"/global/event?end={end}", *arguments)
    until(lambda: run.received.count(b"\n\n") == 1)

    daemon.client.publish(envelope(1, text="é"))
    until(lambda: run.received.count(b"\n\n") == 2)
    daemon.signal(signal.SIGTERM)

    assert run.wait() == code
    frames = [parse_block(block) for block in run.received.split(b"\n\n")[:-1]]
    assert [frame.type for frame in frames] == ["server.connected", "test.tick", "server.stream.closing"]
    assert frames[1].data == dumps(envelope(1, text="é"))


def test_curl_gets_lines_for_jq(daemon: Daemon, curl: Callable[..., Curl]) -> None:
    run = curl("/event?directory=/d", "--header", f"Accept: {NDJSON}")
    until(lambda: run.received.count(b"\n") == 1)

    daemon.client.publish(envelope(1), disposal(2))

    assert run.wait() == 0
    frames = [parse_line(line) for line in run.received.splitlines()]
    assert [frame.event for frame in frames[1:]] == ["evt_1", "evt_2"]
    assert all(list(frame.json)[-1] == "cursor" for frame in frames)


def test_curl_publishes(daemon: Daemon, curl: Callable[..., Curl]) -> None:
    stream = daemon.client.subscribe()

    for arguments in (["--data-binary", "@-"], ["--upload-file", "-", "--request", "POST"]):
        name = arguments[0].strip("-")
        body = lines(envelope(f"{name}{number}", pad="x" * 10_000) for number in range(200))
        run = curl("/global/event", "--header", f"Content-Type: {NDJSON}", *arguments, body=body)
        assert run.wait() == 0
        assert json.loads(run.received)["accepted"] == 200
        assert [frame.event for frame in stream.events(200)] == [f"evt_{name}{number}" for number in range(200)]


# --- libraries


def test_httpx_sse_reads_a_stream_and_comes_back(daemon: Daemon) -> None:
    with httpx.Client(timeout=DEADLINE_S, trust_env=False) as http:
        with httpx_sse.connect_sse(http, "GET", f"{daemon.url}/event", params={"directory": "/d"}) as source:
            daemon.client.publish(envelope(1, text="\u2028\x85é"), disposal(2))
            first = list(source.iter_sse())
        headers = {"Last-Event-ID": first[-1].id}
        with httpx_sse.connect_sse(http, "GET", f"{daemon.url}/global/event", headers=headers) as source:
            again = next(source.iter_sse())

    assert [each.event for each in first] == ["message"] * 3
    assert first[0].json()["type"] == "server.connected"
    assert first[0].retry is not None
    assert first[1].data.encode() == dumps(payload(1, text="\u2028\x85é"))
    assert len({each.id for each in first}) == 3
    assert again.json()["payload"]["properties"]["resumed"] is True


async def test_aiohttp_reads_lines_and_goes_on_with_the_same_session(daemon: Daemon) -> None:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(daemon.url, timeout=timeout) as session:
        async with session.get("/event?directory=/d", headers={"Accept": NDJSON}) as response:
            assert response.content_type == NDJSON
            async with session.post("/global/event", data=dumps([envelope(1), disposal(2)]), headers=JSON) as answer:
                receipt = await answer.json()
            received = [json.loads(line) async for line in response.content]
        async with session.get("/global/health") as answer:
            assert (await answer.json())["healthy"] is True

    assert [each["id"] for each in received[1:]] == receipt["ids"]
    assert [each["cursor"] for each in received[1:]] == [receipt["first"], receipt["last"]]


JSON = {"Content-Type": "application/json"}


async def test_aiohttp_tells_a_cut_from_an_end(daemon: Daemon) -> None:
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with (
        aiohttp.ClientSession(daemon.url, timeout=timeout) as session,
        session.get("/global/event?end=abort") as response,
    ):
        assert (await response.content.readline()).startswith(b"retry: ")
        daemon.signal(signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


# --- Chromium

PAGE = """<!doctype html><meta charset="utf-8"><script>
let number = 0;
const tell = (what) => fetch("/report", {method: "POST", body: JSON.stringify({number: number++, ...what})});
const source = new EventSource(TARGET);
source.onopen = () => tell({kind: "open"});
source.onmessage = (message) => tell({kind: "message", id: message.lastEventId, data: message.data});
source.onerror = () => tell({kind: "error", state: source.readyState});
</script>"""

CONNECTING, CLOSED = 0, 2


class Page:
    """A page with an EventSource on `target`, a server for it, and what it has reported, in its own order."""

    def __init__(self, target: str) -> None:
        self._text = PAGE.replace("TARGET", json.dumps(target)).encode()
        self._reports: list[dict[str, Any]] = []
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, page._text if self.path == "/" else b"")

            def do_POST(self) -> None:
                page._reports.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer(204, b"")

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def reports(self) -> list[dict[str, Any]]:
        return sorted(self._reports, key=lambda report: int(report["number"]))

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The data of what came in, and with it the last event id."""
        return [json.loads(each["data"]) | {"_id": each["id"]} for each in self.reports if each["kind"] == "message"]

    def has(self, count: int) -> bool:
        """Whether `count` messages are here, and none before them is missing."""
        return len(self.messages) >= count and [each["number"] for each in self.reports] == [*range(len(self.reports))]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str, str], Page]]:
    """Open pages, each in a browser of its own that finds every host on this machine."""
    pages: list[Page] = []
    browsers: list[subprocess.Popen[bytes]] = []

    def start(target: str, host: str) -> Page:
        pages.append(Page(target))
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
            "--disable-extensions", "--disable-sync", "--no-proxy-server", "--host-resolver-rules=MAP * 127.0.0.1",
            f"--user-data-dir={tmp_path / f'profile{len(browsers)}'}", f"http://{host}:{pages[-1].port}/",
        ]  # fmt: skip
        with (tmp_path / f"chromium{len(browsers)}.err").open("wb") as errors:
            browsers.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
                )
            )
        return pages[-1]

    yield start
    for browser in browsers:
        browser.terminate()
        try:
            browser.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(browser.pid, signal.SIGKILL)  # its session is its own
            browser.wait()
    for page in pages:
        page.close()


def test_an_eventsource_reads_and_comes_back_where_it_was(daemon: Daemon, browse: Callable[[str, str], Page]) -> None:
    """The page is of another origin: that it reads proves the CORS headers; that it comes back, `id` and `retry`."""
    page = browse(f"{daemon.url}/event?directory=/d", "localhost")
    until(lambda: page.has(1))
    receipt = daemon.client.publish(envelope(1, text="\u2028é\U0001f600"), envelope(2), disposal(3))
    until(lambda: page.has(4))
    until(lambda: page.has(6))  # the stream has ended, and there is another one
    after = daemon.client.publish(envelope(4))
    until(lambda: page.has(7))

    connected, *events, again, live, last = page.messages
    assert connected["type"] == "server.connected"
    assert connected["properties"]["resumed"] is False
    assert [event["id"] for event in events] == ["evt_1", "evt_2", "evt_3"]
    assert events[0]["properties"]["text"] == "\u2028é\U0001f600"
    assert [events[0]["_id"], events[-1]["_id"]] == [receipt["first"], receipt["last"]]
    assert again["type"] == "server.connected"
    assert again["properties"] == {"cursor": receipt["last"], "head": receipt["last"], "resumed": True}
    assert (live["type"], live["properties"], live["_id"]) == ("server.stream.live", {"replayed": 0}, receipt["last"])
    assert (last["id"], last["_id"]) == ("evt_4", after["last"])
    kinds = [(each["kind"], each.get("state")) for each in page.reports if each["kind"] != "message"]
    assert kinds == [("open", None), ("error", CONNECTING), ("open", None)]


def test_an_eventsource_gets_what_it_missed(daemon: Daemon, browse: Callable[[str, str], Page]) -> None:
    """It waits for a second or more before it comes back, as `retry` has it, and the publisher goes on meanwhile."""
    page = browse(f"{daemon.url}/event?directory=/d", "localhost")
    until(lambda: page.has(1))
    daemon.client.publish(envelope(1), disposal(2), *(envelope(number) for number in range(3, 103)))
    until(lambda: page.has(105))
    daemon.client.publish(envelope("live"))
    until(lambda: page.has(106))

    others = [each for each in page.messages if each["type"] != "test.tick"]
    assert [each["id"] for each in page.messages if each["type"] == "test.tick"] == [
        "evt_1", *(f"evt_{number}" for number in range(3, 103)), "evt_live",
    ]  # fmt: skip
    assert [each["type"] for each in others] == [
        "server.connected", "server.instance.disposed", "server.connected", "server.stream.live",
    ]  # fmt: skip
    assert others[-1]["properties"] == {"replayed": 100}


def test_an_eventsource_of_another_site_may_not_read(daemon: Daemon, browse: Callable[[str, str], Page]) -> None:
    page = browse(f"{daemon.url}/global/event", "elsewhere.example")

    until(lambda: page.reports)

    assert page.reports == [{"number": 0, "kind": "error", "state": CLOSED}]
    until(lambda: daemon.client.subscribers() == [])
