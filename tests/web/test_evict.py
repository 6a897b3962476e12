"""Who is watched, who was, and how a subscriber is ended, by the watchdog or by hand: on both paths and both loops."""

import ctypes
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from opencode_events.broker.broker import CLOSED_KEPT
from opencode_events.broker.connection import Terms
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.watchdog.classify import Tcp
from tests.clients import Client, Stream, envelope, until
from tests.servers import LOOPS, Server

Serve = Callable[..., Server]

# A look each 20 ms, and limits that pass while a test waits; those that a test is not about are left far away.
TICK = {"tick_s": 0.02}
TIGHT = 4096
FILL = 200_000
SO_ATTACH_FILTER = 26
SEEN = {
    "tcp_state", "unacked_bytes", "unacked_segments", "pending_bytes", "last_ack_s", "last_progress_s", "fin_s",
    "verdict", "evict_in_s",
}  # fmt: skip

pytestmark = [
    pytest.mark.parametrize("loop_name", LOOPS),
    pytest.mark.parametrize("takeover", [True, False], ids=["taken over", "plain"]),
]


@pytest.fixture
def start(serve: Serve, takeover: bool) -> Serve:
    """Start a server whose connections hold little; keywords are settings."""
    return lambda **changes: serve(takeover=takeover, send_buffer=TIGHT, **TICK | changes)


def only(client: Client) -> dict[str, Any]:
    """Return the one handle that there is."""
    (found,) = client.subscribers()
    return found


def closed(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/-/subscribers?closed=1").json["closed"]
    return found


def evict(client: Client, number: object) -> dict[str, Any]:
    answer = client.send("DELETE", f"/-/subscribers/{number}")
    assert (answer.status, answer.head["Cache-Control"]) == (200, "no-store"), answer.body
    found: dict[str, Any] = answer.json["evicted"]
    return found


def stalled(server: Server, target: str = "/global/event") -> Stream:
    """Return a subscriber that does not read, with more on the way to it than its connection holds."""
    stream = server.client.stall(target)
    server.client.publish(*(envelope(number, pad="x" * FILL) for number in range(3)))
    until(lambda: (seen := only(server.client))["is_parked"] and seen["queued_events"] + seen["sent_events"] == 3)
    return stream


def deafen(sock: socket.socket) -> None:
    """Have the kernel of a client drop all that comes, as if the path were dead. Its filter takes 0 bytes of each."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program)))


def nothing_is_left(server: Server) -> bool:
    """Tell whether neither the server nor the kernel has anything of a subscriber any more."""
    return server.subscribed == 0 and not server.kernel and server.tasks() == []


def left(server: Server) -> dict[str, Any]:
    """Return the line of the one subscriber that is over."""
    (line,) = until(lambda: server.told("subscriber.closed"))
    found: dict[str, Any] = line
    return found


# --- what is shown


def test_a_healthy_subscriber_is_shown_at_rest(start: Serve) -> None:
    client = start().client
    client.subscribe()
    client.publish(envelope(1))

    seen = until(lambda: found if (found := only(client))["verdict"] == "idle" else None)

    assert seen.keys() >= SEEN
    assert seen["last_ack_s"] >= 0
    assert {name: seen[name] for name in SEEN - {"last_ack_s"}} == {
        "tcp_state": "ESTABLISHED", "unacked_bytes": 0, "unacked_segments": 0, "pending_bytes": 0,
        "last_progress_s": 0, "fin_s": None, "verdict": "idle", "evict_in_s": None,
    }  # fmt: skip


def test_a_stalled_subscriber_is_shown_with_the_time_it_has_left(start: Serve) -> None:
    server = start()
    stalled(server)

    # What the window did not let in is sent again once or twice, and is in flight until then.
    seen = until(lambda: found if (found := only(server.client))["last_progress_s"] > 0.3 else None)

    assert (seen["verdict"], seen["unacked_segments"]) == ("suspect", 0)
    assert (seen["tcp_state"], seen["fin_s"]) == ("ESTABLISHED", None)
    assert seen["unacked_bytes"] > 0
    assert seen["pending_bytes"] == seen["unacked_bytes"] + seen["transport_bytes"] + seen["queued_bytes"]
    assert seen["last_progress_s"] > 0
    assert seen["evict_in_s"] == pytest.approx(180 - seen["last_progress_s"], abs=0.002)
    later = until(lambda: found if (found := only(server.client))["evict_in_s"] < seen["evict_in_s"] else None)
    assert later["last_progress_s"] > seen["last_progress_s"]
    watchdog = server.client.status()["watchdog"]
    assert watchdog["watched"] >= watchdog["not_at_rest"] >= 1
    assert watchdog["kernel_unsent_bytes"] >= seen["unacked_bytes"]
    assert (watchdog["close_wait"], watchdog["evictions"]) == (0, {})


def test_one_that_is_being_ended_is_shown_with_why_and_how_long(start: Serve) -> None:
    server = start()
    stream = stalled(server)
    evict(server.client, only(server.client)["id"])

    seen = only(server.client)

    assert (seen["state"], seen["reason"], seen["verdict"]) == ("closing", "operator", "draining")
    assert 25 < seen["evict_in_s"] <= 30
    stream.reset()


def test_one_whose_head_is_not_out_has_no_connection_to_show(start: Serve) -> None:
    server = start()

    def come() -> int:
        terms = Terms(peer="192.0.2.1:5", on_overflow="end", end="clean", is_chunked=True)
        return server.broker.subscribe(Selection(stream="global"), terms).id

    number = server.call(come)

    assert only(server.client)["id"] == number
    assert only(server.client).keys() & SEEN == set()
    evict(server.client, number)
    evict(server.client, number)


# --- who was there


def test_those_who_left_are_remembered_with_the_newest_first(start: Serve, takeover: bool) -> None:
    server = start()
    streams = [server.client.subscribe(), server.client.subscribe()]
    server.client.publish(envelope(1), envelope(2))
    for stream in streams:
        stream.events(2)
    streams[0].close()
    until(lambda: server.subscribed == 1)
    streams[1].reset()
    until(lambda: server.subscribed == 0)

    second, first = closed(server.client)

    assert [first["subscriber"], second["subscriber"]] == [1, 2]
    # On the plain path aiohttp ends the handler either way, and does not say how the client went.
    assert [first["reason"], second["reason"]] == ["client_closed", "client_reset" if takeover else "client_closed"]
    assert first.keys() == second.keys() == {
        "at", "subscriber", "peer", "reason", "open_s", "sent_events", "sent_bytes", "peak_queued_events",
        "peak_queued_bytes",
    }  # fmt: skip
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["at"])
    assert first["at"] <= second["at"]
    assert first["open_s"] > 0
    assert (first["sent_events"], first["peak_queued_events"]) == (2, 0)
    assert first["sent_bytes"] > 0
    assert server.client.get("/-/subscribers?closed=0").json == {"subscribers": []}


def test_only_the_last_who_left_are_remembered(start: Serve) -> None:
    server = start()
    server.come_and_go(CLOSED_KEPT + 5)

    found = closed(server.client)

    assert len(found) == CLOSED_KEPT
    assert [found[0]["peer"], found[-1]["peer"]] == [f"192.0.2.1:{CLOSED_KEPT + 4}", "192.0.2.1:5"]


# --- ended by the watchdog


def test_a_stalled_subscriber_is_ended_and_nothing_is_left(start: Serve) -> None:
    server = start(stalled_s=0.4)
    stream = stalled(server)
    healthy = server.client.subscribe()

    until(lambda: server.told("connection.evicted"))

    (line,) = server.told("connection.evicted")
    assert line.keys() >= SEEN | {"subscriber", "peer", "reason"}
    assert (line["subscriber"], line["reason"], line["verdict"]) == (1, "stalled", "evict")
    assert line["last_progress_s"] >= 0.4
    assert line["unacked_bytes"] > 0
    assert (left(server)["reason"], left(server)["log_level"]) == ("stalled", "warning")
    assert closed(server.client)[0]["reason"] == "stalled"
    assert server.client.status()["watchdog"]["evictions"] == {"stalled": 1}
    assert server.client.status()["broker"]["subscribers_closed"] == {"stalled": 1}
    server.client.publish(envelope("after"))
    assert healthy.events(1)[0].event == "evt_after"
    healthy.close()
    until(lambda: nothing_is_left(server))
    assert server.client.status()["broker"]["held_bytes"] == 0
    assert stream.drain() == "reset"


def test_a_zombie_is_ended_and_nothing_is_left(start: Serve) -> None:
    """On either path long before the limit: whoever says goodbye and has not read is gone."""
    server = start()
    stream = stalled(server)

    stream.say_goodbye()

    until(lambda: nothing_is_left(server), timeout_s=5)
    assert left(server)["reason"] in ("client_closed", "client_reset")
    assert stream.drain() == "reset"


def test_a_subscriber_whose_path_is_dead_is_ended_and_nothing_is_left(start: Serve) -> None:
    server = start(path_dead_s=0.6)
    stream = server.client.subscribe()
    other = server.client.subscribe()
    deafen(stream.sock)
    server.client.publish(envelope(1))
    shown = server.client.subscribers()[0]
    assert (shown["verdict"], shown["unacked_segments"], shown["tcp_state"]) == ("suspect", 1, "ESTABLISHED")

    until(lambda: server.told("connection.evicted"))

    (line,) = server.told("connection.evicted")
    assert (line["subscriber"], line["reason"], line["unacked_segments"]) == (1, "path_dead", 1)
    assert line["last_ack_s"] >= 0.6
    assert left(server)["reason"] == "path_dead"
    assert other.events(1)[0].event == "evt_1"
    other.close()
    until(lambda: nothing_is_left(server))
    stream.reset()


def test_a_reader_that_resumes_just_before_its_limit_gets_every_event(start: Serve) -> None:
    server = start(stalled_s=1.0)
    stream = stalled(server)
    until(lambda: 0 < only(server.client)["evict_in_s"] < 0.3)

    events = stream.events(3)

    assert [event.event for event in events] == ["evt_0", "evt_1", "evt_2"]
    assert server.told("connection.evicted") == []
    until(lambda: only(server.client)["verdict"] == "idle")


# --- ended by hand


def test_who_is_ended_by_hand_is_told_and_may_come_again(start: Serve) -> None:
    server = start()
    stream = server.client.subscribe()
    receipt = server.client.publish(envelope(1))
    stream.events(1)

    found = evict(server.client, 1)

    assert (found["id"], found["state"], found["reason"]) == (1, "live", None)
    (last,) = stream.rest()
    assert (last.type, last.properties) == (
        "server.stream.closing", {"reason": "operator", "cursor": receipt["last"]},
    )  # fmt: skip
    assert stream.ended == "clean"
    stream.close()
    assert (left(server)["reason"], left(server)["log_level"]) == ("operator", "warning")
    until(lambda: nothing_is_left(server))
    assert closed(server.client)[0]["reason"] == "operator"


def test_who_does_not_read_what_waits_is_ended_when_the_time_is_over(start: Serve) -> None:
    server = start(close_flush_s=0.5)
    stream = stalled(server)

    evict(server.client, 1)

    until(lambda: nothing_is_left(server))
    assert left(server)["reason"] == "operator"
    assert left(server)["open_s"] >= 0.5
    assert stream.drain() == "reset"


def test_who_resumes_in_time_reads_all_of_it_to_a_clean_end(start: Serve) -> None:
    server = start()
    stream = stalled(server)
    evict(server.client, 1)

    frames = stream.rest()

    assert [frame.type for frame in frames] == ["server.connected", *["test.tick"] * 3, "server.stream.closing"]
    assert stream.ended == "clean"
    until(lambda: server.subscribed == 0)


def test_asking_again_ends_it_at_once(start: Serve) -> None:
    server = start()
    stream = stalled(server)
    assert evict(server.client, 1)["state"] == "live"

    assert evict(server.client, 1)["state"] == "closing"

    until(lambda: nothing_is_left(server))
    assert left(server)["reason"] == "operator"
    assert stream.drain() == "reset"


def test_who_has_everything_and_does_not_close_is_let_go(start: Serve) -> None:
    """It has acknowledged the last byte and our goodbye; nobody waits until it reads them."""
    server = start()
    stream = server.client.subscribe()

    evict(server.client, 1)

    until(lambda: nothing_is_left(server), timeout_s=5)
    assert [frame.type for frame in stream.rest()] == ["server.stream.closing"]
    assert stream.ended == "clean"


@pytest.mark.parametrize("end", ["clean", "abort"])
def test_one_that_was_reset_a_moment_ago_can_be_ended_all_the_same(start: Serve, end: str) -> None:
    """The loop has not been told yet."""
    server = start()
    stream = server.client.subscribe(f"/global/event?end={end}")
    port = stream.sock.getsockname()[1]

    def reset_and_end() -> None:
        stream.reset()
        until(lambda: server.kernel.get(port) is not Tcp.ESTABLISHED)
        server.broker.subscribers[1].close(Reason.OPERATOR)

    server.call(reset_and_end)

    until(lambda: server.subscribed == 0)
    assert left(server)["reason"] == "operator"


@pytest.mark.parametrize(
    "number",
    ["2", "0", "-1", "+1", "01x", "1.0", "x", "%C2%B2", "%D9%A1", "%20", "1%2F2", "9" * 19, "9" * 5_000, "None"],
    ids=lambda text: text if len(text) < 10 else f"{len(text)} digits",
)
def test_one_that_is_not_there_cannot_be_ended(start: Serve, number: str) -> None:
    server = start()
    server.client.subscribe()

    answer = server.client.send("DELETE", f"/-/subscribers/{number}")

    assert (answer.status, answer.head["Content-Type"]) == (404, "application/problem+json")
    assert answer.json["title"] in ("No such subscriber", "Not Found")
    assert server.subscribed == 1


def test_one_that_is_over_cannot_be_ended(start: Serve) -> None:
    server = start()
    server.client.subscribe().close()
    until(lambda: server.subscribed == 0)

    answer = server.client.send("DELETE", "/-/subscribers/1")

    assert (answer.status, answer.json["title"], answer.json["field"]) == (404, "No such subscriber", "id")
    assert answer.json["detail"] == "there is no subscriber 1"


def test_no_page_may_end_anybody(start: Serve) -> None:
    server = start()
    asking = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "DELETE"}

    answer = server.client.send("OPTIONS", "/-/subscribers/1", None, **asking)

    assert "DELETE" not in answer.head["Access-Control-Allow-Methods"]


# --- a page that only the path tells apart


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
def test_another_method_is_405(start: Serve, method: str) -> None:
    answer = start().client.send(method, "/-/subscribers/1")

    assert (answer.status, set(answer.head["Allow"].split(", "))) == (405, {"DELETE", "OPTIONS"})
