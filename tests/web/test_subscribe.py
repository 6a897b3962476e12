"""Subscribing over real connections: the head, the first frame, heartbeats, both formats, filters, and what is refused.

Both ways of serving a stream give the same bytes, so most tests here run on each: with the connection taken over,
and on the plain path.
"""

import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import NDJSON, Answer, Client, Frame, disposal, dumps, envelope, payload, until
from tests.servers import LOOPS, Daemon, Server
from tests.web.events import FILTERED, FILTERED_BY_INSTANCE, MIXED

Serve = Callable[..., Server]

CURSOR = re.compile(r"[0-9a-f]{10}-[0-9]+")
INSTANCE = "/event?directory=/d"
EVERYTHING = "/global/event"


@pytest.fixture(params=[True, False], ids=["taken over", "plain"])
def takeover(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def server(serve: Serve, takeover: bool) -> Server:
    return serve(takeover=takeover)


@pytest.fixture
def client(server: Server) -> Client:
    return server.client


def refusal(client: Client, target: str, **fields: str) -> dict[str, Any]:
    """Return the members of the problem document that a GET of `target` gets, which must be a 400."""
    answer = client.send("GET", target, None, **fields)
    assert answer.status == 400, answer.body
    return members(answer)


def members(answer: Answer) -> dict[str, Any]:
    assert answer.head["Content-Type"] == "application/problem+json"
    assert answer.head["Vary"] == "Origin"
    document: dict[str, Any] = answer.json
    assert document["status"] == answer.status
    assert all(document.pop(name) for name in ("type", "title", "status", "detail"))
    return document


# --- the head and the first frame

HEAD = {
    "content-type": "text/event-stream",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-content-type-options": "nosniff",
    "vary": "Origin",
    "transfer-encoding": "chunked",
}


@pytest.mark.parametrize("target", [EVERYTHING, INSTANCE])
@pytest.mark.parametrize(
    ("end", "connection"), [("", {"connection": "close"}), ("clean", {"connection": "close"}), ("abort", {})]
)
def test_the_head_is_upstreams_and_tells_how_the_stream_will_end(
    client: Client, target: str, end: str, connection: dict[str, str]
) -> None:
    query = f"{'&' if '?' in target else '?'}end={end}" if end else ""

    stream = client.subscribe(target + query)

    assert stream.head is not None
    assert stream.head.version == "HTTP/1.1"
    assert stream.head.without("date", "server") == HEAD | connection


def test_ndjson_has_its_own_content_type(client: Client) -> None:
    stream = client.subscribe(EVERYTHING, f"Accept: {NDJSON}")

    assert stream.head is not None
    assert stream.head.without("date", "server") == HEAD | {"connection": "close", "content-type": NDJSON}


def test_the_first_frame_tells_where_the_stream_starts(client: Client) -> None:
    client.publish(envelope(1), envelope(2))
    head = client.status()["broker"]["head"]

    for target in (EVERYTHING, INSTANCE):
        stream = client.subscribe(target)

        assert stream.connected is not None
        assert stream.connected.id == head
        assert CURSOR.fullmatch(head)
        assert stream.connected.retry is not None
        assert 1_000 <= stream.connected.retry <= 3_000
        assert stream.connected.properties == {"cursor": head, "head": head, "resumed": False}
        assert stream.connected.event.startswith("evt_")


def test_the_first_frame_has_the_shape_of_its_stream(client: Client) -> None:
    everything, instance = client.subscribe(EVERYTHING).connected, client.subscribe(INSTANCE).connected

    assert everything is not None
    assert instance is not None
    assert list(everything.json) == ["payload"]
    assert list(everything.payload) == list(instance.json) == ["id", "type", "properties"]


def test_reconnection_times_are_spread(client: Client) -> None:
    times = {stream.connected and stream.connected.retry for stream in (client.subscribe() for _ in range(20))}

    assert len(times) > 10


def test_a_subscriber_is_registered_before_its_head_is_sent(client: Client) -> None:
    """What is published when the first byte has arrived reaches it."""
    stream = client.ask(EVERYTHING)
    stream.read_head()

    client.publish(envelope(1))

    assert [frame.type for frame in stream.frames(2)] == ["server.connected", "test.tick"]


def test_an_event_carries_its_cursor(client: Client) -> None:
    everything, instance = client.subscribe(EVERYTHING), client.subscribe(INSTANCE)

    receipt = client.publish(envelope(1, n=1))

    frames = [everything.frame(), instance.frame()]
    assert [frame.data for frame in frames] == [dumps(envelope(1, n=1)), dumps(payload(1, n=1))]
    assert [frame.id for frame in frames] == [receipt["first"]] * 2


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON])
def test_either_version_of_http_and_either_format_gives_the_same_frames(
    client: Client, version: str, accept: str
) -> None:
    stream = client.subscribe(INSTANCE, f"Accept: {accept}", version=version)
    assert stream.head is not None
    assert stream.head.all("Transfer-Encoding") == (["chunked"] if version == "1.1" else [])

    client.publish(*(envelope(number, text="\u2028" * number) for number in range(1_500)), disposal("last"))

    events = stream.events(1_501)
    assert [frame.event for frame in events] == [*(f"evt_{number}" for number in range(1_500)), "evt_last"]
    assert stream.rest() == []
    assert stream.ended == ("clean" if version == "1.1" else "cut")


# --- heartbeats


@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON])
def test_a_heartbeat_carries_the_place_that_was_looked_at(serve: Serve, takeover: bool, accept: str) -> None:
    """So that the cursor of a filter which nothing passes does not go stale."""
    client = serve(takeover=takeover, heartbeat_s=0.05).client
    stream = client.subscribe("/global/event?types=never", f"Accept: {accept}")
    assert stream.connected is not None
    assert stream.frame().id == stream.connected.id

    last = client.publish(envelope(1), envelope(2))["last"]

    beat = stream.frame()
    while beat.id != last:
        beat = stream.frame()
    assert beat.type == "server.heartbeat"
    assert beat.properties == {}
    assert beat.retry is None


def test_heartbeats_keep_coming_in_the_order_of_events(serve: Serve) -> None:
    client = serve(heartbeat_s=0.02).client
    stream = client.subscribe(INSTANCE)

    for number in range(30):
        client.publish(envelope(number))
    frames = [stream.frame()]
    while frames[-1].type != "test.tick" or frames[-1].event != "evt_29":
        frames.append(stream.frame())
    frames += stream.until("server.heartbeat")

    places = [int((frame.id or "").split("-")[1]) for frame in frames]
    assert places == sorted(places)
    assert sum(frame.type == "server.heartbeat" for frame in frames) >= 1


# --- NDJSON


def test_ndjson_is_the_same_data_with_the_cursor_last(client: Client) -> None:
    everything = client.subscribe(EVERYTHING, f"Accept: {NDJSON}")
    instance = client.subscribe(INSTANCE, f"Accept: application/json;q=0.1, {NDJSON}")

    receipt = client.publish(envelope(1, text="\u2028\U0001f600"))

    cursor = {"cursor": receipt["last"]}
    assert everything.frame().data == dumps(envelope(1, text="\u2028\U0001f600") | cursor)
    assert instance.frame().data == dumps(payload(1, text="\u2028\U0001f600") | cursor)
    assert everything.connected is not None
    assert list(everything.connected.json) == ["payload", "cursor"]


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/json", "text/html"])
def test_whoever_does_not_name_ndjson_gets_an_event_stream(client: Client, accept: str) -> None:
    assert client.subscribe(EVERYTHING, f"Accept: {accept}").head == client.subscribe(EVERYTHING).head


# --- filters


@pytest.mark.parametrize(("query", "expected"), FILTERED.items())
def test_filters_of_the_global_stream(client: Client, query: str, expected: list[str]) -> None:
    stream = client.subscribe(EVERYTHING + query)

    client.publish(*MIXED, disposal("end"))

    frames = stream.until("server.instance.disposed")[:-1]
    seen = [frame.event.removeprefix("evt_") + ("s" if frame.type == "sync" else "") for frame in frames]
    assert seen == expected


@pytest.mark.parametrize(("query", "expected"), FILTERED_BY_INSTANCE.items())
def test_filters_of_an_instance_stream(client: Client, query: str, expected: list[str]) -> None:
    stream = client.subscribe("/event" + query)
    directory = query.split("=")[1].split("&")[0]

    client.publish(*MIXED, disposal("end", directory))
    if directory == "global":
        assert client.subscribers()[0]["sent_events"] == 0
        return

    seen = [frame.event.removeprefix("evt_") for frame in stream.rest()]
    assert seen == [*expected, "end"]
    assert stream.ended == "clean"


def test_the_directory_may_come_in_a_header_and_the_query_wins(client: Client) -> None:
    header = "x-opencode-directory: %2Fsrv%2F%C3%A4%20b"
    by_header = client.subscribe("/event", header)
    by_query = client.subscribe("/event?directory=/d", header)
    by_empty_query = client.subscribe("/event?directory=", header)

    client.publish(envelope(1, "/srv/ä b"), envelope(2, "/d"))

    assert by_header.frame().event == by_empty_query.frame().event == "evt_1"
    assert by_query.frame().event == "evt_2"


def test_an_instance_stream_ends_with_its_instance(client: Client) -> None:
    instance, filtered = client.subscribe(INSTANCE), client.subscribe(INSTANCE + "&types=x")
    other, everything = client.subscribe("/event?directory=/e"), client.subscribe(EVERYTHING)
    cut = client.subscribe(INSTANCE + "&end=abort")

    client.publish(envelope(1), disposal(2), envelope(3), envelope(4, "/e"))

    assert [frame.event for frame in instance.rest()] == ["evt_1", "evt_2"]
    assert [frame.event for frame in filtered.rest()] == ["evt_2"]
    assert [frame.event for frame in cut.rest()] == ["evt_1", "evt_2"]
    assert (instance.ended, filtered.ended, cut.ended) == ("clean", "clean", "clean")
    assert other.frame().event == "evt_4"
    assert [frame.event for frame in everything.frames(4)] == ["evt_1", "evt_2", "evt_3", "evt_4"]


def test_an_instance_can_be_subscribed_to_again(client: Client) -> None:
    client.subscribe(INSTANCE)
    client.publish(disposal(1))

    stream = client.subscribe(INSTANCE)
    client.publish(envelope(2))

    assert stream.frame().event == "evt_2"


# --- where it starts


@pytest.mark.parametrize("query", ["?after=latest", "?after="])
def test_latest_is_the_default(client: Client, query: str) -> None:
    stream = client.subscribe(EVERYTHING + query)

    assert stream.connected is not None
    assert stream.connected.properties["resumed"] is False
    assert stream.connected.id is not None


# --- what is refused


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/event", "directory"),
        ("/event?directory=", "directory"),
        ("/event?directory=/d&sync=only", "sync"),
        ("/event?directory=/d&sync=some", "sync"),
        ("/global/event?sync=", "sync"),
        ("/global/event?on_overflow=drop", "on_overflow"),
        ("/global/event?end=never", "end"),
        ("/global/event?types=", "types"),
        ("/global/event?types=a,,b", "types"),
        ("/global/event?session=", "session"),
        ("/global/event?workspace=,", "workspace"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(server: Server, target: str, field: str) -> None:
    assert refusal(server.client, target) == {"field": field}
    assert server.subscribed == 0


def test_too_many_values_of_a_filter_are_refused_with_the_limit(client: Client) -> None:
    target = "/global/event?types=" + ",".join(f"t{number}" for number in range(257))

    assert refusal(client, target) == {"field": "types", "limit": 256}


def test_a_directory_that_is_no_text_is_refused(client: Client) -> None:
    assert refusal(client, "/event", x_opencode_directory="/\xff") == {"field": "directory"}


def test_one_subscriber_too_many_is_told_to_come_again(serve: Serve, takeover: bool) -> None:
    client = serve(takeover=takeover, max_subscribers=3).client
    streams = [client.subscribe() for _ in range(3)]

    answer = client.get(EVERYTHING)

    assert answer.status == 503
    assert answer.head["Retry-After"] == "5"
    assert members(answer) == {"limit": 3}
    streams[0].close()
    until(lambda: len(client.subscribers()) == 2)
    assert client.subscribe().connected


def test_one_selection_too_many_is_told_to_come_again(serve: Serve) -> None:
    client = serve(max_selections=2).client
    streams = [client.subscribe("/global/event?types=a"), client.subscribe("/global/event?types=b")]

    answer = client.get("/global/event?types=c")

    assert (answer.status, members(answer)) == (503, {"limit": 2})
    assert client.subscribe("/global/event?types=a").connected
    streams[1].close()
    until(lambda: client.status()["broker"]["selections"] == 1)
    assert client.subscribe("/global/event?types=c").connected


# --- other sites' pages

ALLOWED = [
    "http://localhost",
    "http://localhost:3000",
    "http://127.0.0.1:8080",
    "https://app.opencode.ai",
    "tauri://localhost",
    "https://mine.example",
]
DENIED = [
    "https://localhost:3000",
    "http://localhost.evil.example",
    "http://evil.example",
    "http://localhost:3000.evil.example",
    "https://app.opencode.ai.evil.example",
    "https://mine.example:444",
    "null",
    "\xff",
]


@pytest.mark.parametrize("origin", ALLOWED)
def test_pages_of_known_origins_may_read(serve: Serve, takeover: bool, origin: str) -> None:
    client = serve(takeover=takeover, cors_origins="https://mine.example, https://other.example").client
    stream = client.subscribe(EVERYTHING, f"Origin: {origin}")
    assert stream.head is not None

    heads = [stream.head]
    heads += [client.send("GET", target, Origin=origin).head for target in ("/event", "/global/health", "/nowhere")]

    for head in heads:
        assert head["Access-Control-Allow-Origin"] == origin
        assert head["Vary"] == "Origin"


@pytest.mark.parametrize("origin", DENIED)
def test_pages_of_other_origins_are_served_and_may_not_read(serve: Serve, origin: str) -> None:
    client = serve(cors_origins="https://mine.example").client
    stream = client.subscribe(EVERYTHING, f"Origin: {origin}")

    assert stream.head is not None
    assert stream.head.all("Access-Control-Allow-Origin") == []
    assert stream.head["Vary"] == "Origin"


@pytest.mark.parametrize("target", ["/event", EVERYTHING])
def test_a_preflight_allows_what_clients_send(client: Client, target: str) -> None:
    asked = "Last-Event-ID, authorization, x-opencode-directory, content-type, x-other"

    answer = client.send(
        "OPTIONS",
        target,
        Origin="http://localhost:3000",
        Access_Control_Request_Method="GET",
        Access_Control_Request_Headers=asked,
    )

    assert (answer.status, answer.body) == (204, b"")
    assert answer.head["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert {"GET", "POST"} <= set(answer.head["Access-Control-Allow-Methods"].split(", "))
    allowed = answer.head["Access-Control-Allow-Headers"]
    assert allowed == "last-event-id, authorization, x-opencode-directory, content-type"


def test_a_preflight_of_nonsense_is_answered(client: Client) -> None:
    answer = client.send("OPTIONS", EVERYTHING, Origin="\xff", Access_Control_Request_Headers="x-opencode-\xff, \xfe")

    assert answer.status == 204
    assert answer.head.all("Access-Control-Allow-Origin") == []


# --- where it listens


@pytest.mark.parametrize(
    ("host", "addresses"), [("::1", ["::1"]), ("127.0.0.1", ["127.0.0.1"]), ("localhost", ["127.0.0.1", "::1"])]
)
def test_it_listens_where_it_is_told(serve: Serve, host: str, addresses: list[str]) -> None:
    server = serve(host=host)
    clients = [Client(url) for url in server.urls]
    try:
        assert sorted(each.host for each in clients) == sorted(addresses)
        assert len({each.port for each in clients}) == 1
        streams = [each.subscribe() for each in clients]
        server.client.publish(envelope(1))
        assert {stream.frame().event for stream in streams} == {"evt_1"}
        peers = {each["peer"].rpartition(":")[0] for each in server.client.subscribers()}
        assert peers == {f"[{address}]" if ":" in address else address for address in addresses}
    finally:
        for each in clients:
            each.close()


def test_a_daemon_tells_an_ipv6_address_that_clients_can_use(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(host="::1")

    assert daemon.url.startswith("http://[::1]:")
    stream = daemon.client.subscribe()
    daemon.client.publish(envelope(1))
    assert stream.frame().event == "evt_1"


# --- no descriptor left


def test_a_connection_that_cannot_be_taken_over_is_served_all_the_same(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> int:
        raise OSError(24, "Too many open files")

    server = serve()
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", refuse)
        stream = server.client.subscribe()
    assert server.connections == 1

    server.client.publish(envelope(1))
    assert stream.frame().event == "evt_1"
    stream.close()
    until(lambda: server.subscribed == 0 and server.connections == 0 and server.tasks() == [])


def test_what_clients_see_of_a_stream_is_json_throughout(client: Client) -> None:
    stream = client.subscribe(EVERYTHING, "Last-Event-ID: \x22\\")

    assert json.loads(stream.frame().data)["payload"]["properties"]["requested"] == '"\\'


# --- in the middle of things


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_whoever_comes_in_the_middle_of_a_flood_gets_everything_after_its_head(
    serve: Serve, takeover: bool, durability: str
) -> None:
    server = serve(takeover=takeover, durability=durability)
    client = server.client
    first = client.subscribe()

    def publish(name: str, batch: int) -> None:
        own = Client(server.urls[0])
        for start in range(0, 1_000, batch):
            events = [envelope(f"{name}{start + number}", kind=f"kind.{number % 2}") for number in range(batch)]
            assert own.post("/global/event", dumps(events)).status == 200

    threads = [threading.Thread(target=publish, args=each) for each in (("a", 500), ("b", 50), ("c", 1_000))]
    for thread in threads:
        thread.start()
    streams = [first]
    while any(thread.is_alive() for thread in threads) and len(streams) < 30:
        streams.append(client.subscribe(EVERYTHING + ("", "?types=kind.1")[len(streams) % 2]))
    for thread in threads:
        thread.join()

    client.publish(envelope("last", kind="kind.1"))
    events = {place(frame): frame for frame in first.events(3_001)}
    assert list(events) == list(range(1, 3_002))
    for number, stream in enumerate(streams[1:], 1):
        assert stream.connected is not None
        wanted = [
            at for at in events if at > place(stream.connected) and (number % 2 == 0 or events[at].type == "kind.1")
        ]
        assert [place(frame) for frame in stream.events(len(wanted))] == wanted
    assert len(streams) > 3


def place(frame: Frame) -> int:
    """Return a frame's position."""
    assert frame.id is not None
    return int(frame.id.split("-")[1])


def test_whoever_comes_to_an_instance_just_before_its_end_sees_it(client: Client) -> None:
    for number in range(30):
        early = client.subscribe(INSTANCE)
        late = client.ask(INSTANCE)
        client.publish(envelope(f"{number}a"), disposal(f"{number}b"))

        assert [frame.event for frame in early.rest()] == [f"evt_{number}a", f"evt_{number}b"]
        late.read_head()
        if late.frame().properties["head"] == (early.connected and early.connected.id):
            assert late.rest()[-1].event == f"evt_{number}b"
            assert late.ended == "clean"
        late.close()
