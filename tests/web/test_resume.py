"""Coming back over real connections: what was missed, in order and once, then what is live.

On both loops and both ways of serving a stream. How pages, the newest events and the feed join is tested without
sockets; here is what a client sees.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import NDJSON, Client, Stream, disposal, dumps, envelope, payload, until
from tests.servers import LOOPS, Daemon, Server
from tests.web.events import FILTERED, FILTERED_BY_INSTANCE, LIVE, MIXED, after, missed, names, place

Serve = Callable[..., Server]
StartDaemon = Callable[..., Daemon]

INSTANCE = "/event?directory=/d"
EVERYTHING = "/global/event"
# A small SO_SNDBUF, so that little more than the transport's own 64 KiB fills a connection.
TIGHT = 4096
PAD = "x" * 1_000


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["taken over", "plain"])
def takeover(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def server(serve: Serve, takeover: bool) -> Server:
    return serve(takeover=takeover)


@pytest.fixture
def client(server: Server) -> Client:
    return server.client


# --- what was missed, then what is live


@pytest.mark.parametrize("target", [EVERYTHING, INSTANCE])
@pytest.mark.parametrize("how", ["header", "query"])
def test_who_comes_back_gets_what_it_missed_then_is_live(server: Server, target: str, how: str) -> None:
    client = server.client
    first = client.publish(*(envelope(number, n=number) for number in range(1, 6)))["first"]
    cursor = after(first, 1)

    stream = (
        client.subscribe(target, f"Last-Event-ID: {cursor}")
        if how == "header"
        else client.subscribe(f"{target}{'&' if '?' in target else '?'}after={cursor}")
    )
    events = missed(stream)
    client.publish(envelope(6))

    assert stream.connected is not None
    assert stream.connected.id == cursor
    assert stream.connected.properties == {"cursor": cursor, "head": after(first, 4), "resumed": True}
    assert [frame.id for frame in events] == [after(first, 2), after(first, 3), after(first, 4)]
    shape = envelope if target == EVERYTHING else lambda number, n: payload(number, n=n)
    assert [frame.data for frame in events] == [dumps(shape(number, n=number)) for number in (3, 4, 5)]
    live = stream.frame()
    assert (live.event, live.id) == ("evt_6", after(first, 5))


def test_who_comes_back_to_the_head_has_missed_nothing(client: Client) -> None:
    last = client.publish(envelope(1), envelope(2))["last"]

    stream = client.subscribe(EVERYTHING, f"Last-Event-ID: {last}")

    assert missed(stream) == []
    assert stream.connected is not None
    assert stream.connected.properties == {"cursor": last, "head": last, "resumed": True}
    client.publish(envelope(3))
    assert stream.frame().event == "evt_3"


def test_a_log_without_events_can_be_resumed(client: Client) -> None:
    head = client.status()["broker"]["head"]

    for query in (f"?after={head}", "?after=earliest"):
        stream = client.subscribe(EVERYTHING + query)
        assert missed(stream) == []
        assert stream.connected is not None
        assert stream.connected.id == head


def test_earliest_is_all_that_is_retained(client: Client) -> None:
    receipt = client.publish(*(envelope(number) for number in range(1, 4)))

    stream = client.subscribe(f"{EVERYTHING}?after=earliest")

    assert stream.connected is not None
    assert stream.connected.id == after(receipt["first"], -1)
    assert stream.connected.properties == {
        "cursor": stream.connected.id, "head": receipt["last"], "resumed": True,
    }  # fmt: skip
    assert names(missed(stream)) == ["1", "2", "3"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON])
def test_either_version_of_http_and_either_format_replays_the_same(client: Client, version: str, accept: str) -> None:
    client.publish(*(envelope(number, text="\u2028" * (number % 9)) for number in range(1_500)), disposal("last"))

    stream = client.subscribe(f"{INSTANCE}&after=earliest", f"Accept: {accept}", version=version)
    events = stream.rest()

    assert names(events) == [*map(str, range(1_500)), "last"]
    assert [place(frame) for frame in events] == list(range(1, 1_502))
    assert stream.ended == ("clean" if version == "1.1" else "cut")


def test_a_line_of_ndjson_is_replayed_as_it_was_sent(client: Client) -> None:
    live = client.subscribe(EVERYTHING, f"Accept: {NDJSON}")
    client.publish(*MIXED)

    again = client.subscribe(f"{EVERYTHING}?after=earliest", f"Accept: {NDJSON}")

    assert [frame.data for frame in missed(again)] == [frame.data for frame in live.frames(len(MIXED))]


# --- filters


@pytest.mark.parametrize("recent_events", [1_000, 1], ids=["from memory", "from the file"])
def test_filters_hold_for_what_was_missed_as_for_what_is_live(serve: Serve, takeover: bool, recent_events: int) -> None:
    client = serve(takeover=takeover, recent_events=recent_events).client
    client.publish(*MIXED)

    for path, filters in ((EVERYTHING, FILTERED), ("/event", FILTERED_BY_INSTANCE)):
        for query, expected in filters.items():
            for accept in ("text/event-stream", NDJSON):
                target = f"{path}{query}{'&' if query else '?'}after=earliest"
                stream = client.subscribe(target, f"Accept: {accept}")
                assert names(missed(stream)) == expected, target
                stream.close()


def test_a_filter_that_nothing_passes_comes_to_the_head_all_the_same(serve: Serve, takeover: bool) -> None:
    client = serve(takeover=takeover, recent_events=1, heartbeat_s=0.05).client
    last = client.publish(*(envelope(number) for number in range(3_000)))["last"]

    stream = client.subscribe(f"{EVERYTHING}?types=never&after=earliest")

    *beats, live = stream.until(LIVE)
    assert live.properties == {"replayed": 0}
    assert {frame.type for frame in beats} <= {"server.heartbeat"}
    assert stream.frame().id == last
    client.publish(envelope("now", kind="never"))
    assert stream.events(1)[0].event == "evt_now"


# --- the end of an instance


@pytest.mark.parametrize("end", ["clean", "abort"])
@pytest.mark.parametrize("recent_events", [1_000, 1], ids=["from memory", "from the file"])
def test_an_instance_that_ended_meanwhile_ends_the_stream_at_its_place(
    serve: Serve, takeover: bool, recent_events: int, end: str
) -> None:
    client = serve(takeover=takeover, recent_events=recent_events).client
    client.publish(envelope(1), disposal(2), envelope(3), disposal(4), envelope(5))

    seen, cursor = [], "earliest"
    for _ in range(2):
        stream = client.subscribe(f"{INSTANCE}&end={end}&types=test.*&after={cursor}")
        frames = stream.rest()
        seen.append(names(frames))
        assert stream.ended == "clean"
        cursor = frames[-1].id or ""
    last = client.subscribe(f"{INSTANCE}&after={cursor}")

    assert seen == [["1", "2"], ["3", "4"]]
    assert names(missed(last)) == ["5"]
    assert names(missed(client.subscribe(f"{EVERYTHING}?after=earliest"))) == ["1", "2", "3", "4", "5"]


# --- while publishers go on


@pytest.mark.parametrize("durability", ["normal", "full"])
def test_nothing_is_missing_twice_or_out_of_order_while_others_publish(
    serve: Serve, takeover: bool, durability: str
) -> None:
    """Those who come back read from the file, from memory and from the feed, and cannot tell where one ends."""
    server = serve(takeover=takeover, durability=durability, recent_events=50, replay_events=20)
    client = server.client
    first = client.publish(*(envelope(f"a{number}") for number in range(1_000)))["first"]

    def publish(name: str, batch: int) -> None:
        with contextlib.closing(Client(server.urls[0])) as own:
            for start in range(0, 1_000, batch):
                own.publish(*(envelope(f"{name}{start + number}", kind=f"kind.{batch}") for number in range(batch)))

    threads = [threading.Thread(target=publish, args=each) for each in (("b", 200), ("c", 10), ("d", 25))]
    for thread in threads:
        thread.start()
    streams: list[tuple[int, Stream]] = []
    while any(thread.is_alive() for thread in threads) and len(streams) < 20:
        at = 199 * len(streams) % 1_000
        query = ("", "&types=kind.10,last")[len(streams) % 2]
        streams.append((at, client.subscribe(f"{EVERYTHING}?after={after(first, at - 1)}{query}")))
    for thread in threads:
        thread.join()
    client.publish(envelope("end", kind="last"))

    everything = missed(client.subscribe(f"{EVERYTHING}?after=earliest"))
    assert [place(frame) for frame in everything] == list(range(1, 4_002))
    for number, (at, stream) in enumerate(streams):
        frames = stream.until("last")
        frames += [] if LIVE in [frame.type for frame in frames] else [stream.frame()]
        wanted = [frame for frame in everything[at:] if number % 2 == 0 or frame.type in ("kind.10", "last")]
        assert [frame.id for frame in frames if not frame.is_control] == [frame.id for frame in wanted]
        told = [frame.type for frame in frames if frame.is_control]
        assert [kind for kind in told if kind != "server.heartbeat"] == [LIVE]  # it may take its time
    assert len(streams) > 3


def test_two_connections_of_one_client_both_get_everything(client: Client) -> None:
    """A client may be back before its old connection is found dead."""
    stream = client.subscribe()
    client.publish(*(envelope(number) for number in range(4)))
    seen = stream.events(2)
    header = f"Last-Event-ID: {seen[-1].id}"

    one, other = client.subscribe(EVERYTHING, header), client.subscribe(EVERYTHING, header)
    client.publish(envelope(4))
    third = client.subscribe(EVERYTHING, header)
    client.publish(envelope(5))

    assert names(stream.events(4)) == names(one.events(4)) == names(other.events(4)) == ["2", "3", "4", "5"]
    assert names(third.events(4)) == ["2", "3", "4", "5"]


def test_the_header_wins_over_the_query(client: Client) -> None:
    """A reconnecting EventSource sends it beside its old query."""
    first = client.publish(*(envelope(number) for number in range(1, 6)))["first"]

    for old in ("earliest", "latest", "nonsense", first):
        stream = client.subscribe(f"{EVERYTHING}?after={old}", f"Last-Event-ID: {after(first, 2)}")
        assert names(missed(stream)) == ["4", "5"]
        stream.close()


# --- across starts


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_cursors_of_an_earlier_start_stay_good(start_daemon: StartDaemon, end: str) -> None:
    before = start_daemon()
    first = before.client.publish(*(envelope(number) for number in range(1, 4)))["first"]
    getattr(before, end)()
    client = start_daemon().client

    in_between = client.subscribe(EVERYTHING)
    later = client.publish(envelope(4), envelope(5))["first"]
    assert in_between.connected is not None

    assert later.split("-")[0] != first.split("-")[0]
    assert later.split("-")[1] == "4"
    for cursor, expected in (
        (after(first, -1), ["1", "2", "3", "4", "5"]),
        (after(first, 1), ["3", "4", "5"]),
        (after(first, 2), ["4", "5"]),
        (str(in_between.connected.id), ["4", "5"]),
        (later, ["5"]),
    ):
        stream = client.subscribe(EVERYTHING, f"Last-Event-ID: {cursor}")
        assert names(missed(stream)) == expected
    assert client.subscribe(EVERYTHING, f"Last-Event-ID: {after(first, 3)}").frame().properties["reason"] == "epoch"
    assert client.subscribe(EVERYTHING, f"Last-Event-ID: {after(later, -2)}").frame().properties["reason"] == "epoch"
    events = missed(client.subscribe(f"{EVERYTHING}?after=earliest"))
    assert [frame.id for frame in events] == [first, after(first, 1), after(first, 2), later, after(later, 1)]


# --- who is slow


def test_who_does_not_read_its_replay_costs_a_page(serve: Serve, takeover: bool) -> None:
    server = serve(takeover=takeover, send_buffer=TIGHT, replay_events=50)
    client = server.client
    client.publish(*(envelope(number, pad=PAD) for number in range(3_000)))

    stream = client.stall(f"{EVERYTHING}?after=earliest")
    until(lambda: client.subscribers()[0]["is_parked"])
    client.publish(*(envelope(number, pad=PAD) for number in range(3_000, 4_000)))
    shown = client.subscribers()[0]

    assert shown["state"] == "replaying"
    assert shown["queued_events"] <= 50
    assert shown["lag_events"] > 3_000
    assert stream.frame().type == "server.connected"
    assert names(missed(stream)) == list(map(str, range(4_000)))
    until(lambda: client.subscribers()[0]["state"] == "live")


def test_who_asked_for_it_is_caught_up_instead_of_ended(serve: Serve, takeover: bool) -> None:
    server = serve(takeover=takeover, send_buffer=TIGHT, backlog_events=100, recent_events=100)
    client = server.client
    stream = client.stall(f"{EVERYTHING}?on_overflow=catchup")
    published = 0
    while client.subscribers()[0]["state"] == "live":
        assert published < 20_000
        client.publish(*(envelope(published + number, pad=PAD) for number in range(100)))
        published += 100
    shown = client.subscribers()[0]

    frames = stream.until(LIVE)
    client.publish(envelope("now"))

    assert (shown["state"], shown["on_overflow"]) == ("catching_up", "catchup")
    assert shown["queued_events"] <= 100
    assert frames[0].type == "server.connected"
    events = [frame for frame in frames if not frame.is_control]
    assert names(events) == list(map(str, range(published)))
    assert [place(frame) for frame in events] == list(range(1, published + 1))
    assert 0 < frames[-1].properties["replayed"] < published
    assert {frame.type for frame in frames if frame.is_control} <= {"server.connected", "server.stream.lagging", LIVE}
    assert stream.frame().event == "evt_now"
    status = client.status()["broker"]
    assert (status["fell_behind"], status["caught_up"], status["subscribers_closed"]) == (1, 1, {})


def test_catching_up_is_what_the_daemon_is_set_to_do_unless_somebody_asks_otherwise(serve: Serve) -> None:
    client = serve(on_overflow="catchup").client
    client.subscribe()
    client.subscribe(f"{EVERYTHING}?on_overflow=end")

    assert [each["on_overflow"] for each in client.subscribers()] == ["catchup", "end"]


# --- what is told of it


def test_how_much_a_stream_replays_is_logged(server: Server) -> None:
    client = server.client
    first = client.publish(*(envelope(number) for number in range(10)))["first"]

    for query in ("", "?after=earliest", f"?after={after(first, 8)}&types=x", "?after=nonsense"):
        client.subscribe(EVERYTHING + query)

    opened = [line for line in server.lines if line["event"] == "subscriber.opened"]
    assert [line["replays"] for line in opened] == [0, 10, 1, 0]


def test_replays_are_counted(client: Client) -> None:
    client.publish(*(envelope(number) for number in range(10)))
    for _ in range(2):
        missed(client.subscribe(f"{EVERYTHING}?after=earliest"))

    broker: dict[str, Any] = client.status()["broker"]
    assert (broker["replayed_events"], broker["caught_up"], broker["fell_behind"]) == (20, 2, 0)
    assert 1 <= broker["replay_pages"] <= 2
    assert [each["sent_events"] for each in client.subscribers()] == [10, 10]
