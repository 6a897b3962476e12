"""The ways in which clients die or stall. Each brings a client of its own there, and returns its name at the server."""

import select
import signal
import time

from tests.clients import NDJSON, until
from tests.network.hosts import CLOSE_WAIT, peer_of
from tests.network.stage import Stage
from tests.network.visitors import (
    EMPTY_JSON,
    SMALL,
    asks_for_history,
    asks_for_receipt,
    close,
    curl,
    end,
    reset,
    say_goodbye,
    silent_subscriber,
    stalled,
    subscribed,
    talkative,
    target,
)

# Hosts that are there for one client each, which vanishes with it.
LOST = ("unplugged_busy", "unplugged_idle", "unplugged_stalled", "silenced_busy", "silenced_idle")
BACKLOG = 5_000  # events that a subscriber may have waiting


# --- saying goodbye, or hanging up


def closes_having_read_all(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room)
    stage.feed(room, 3)
    stream.events(3)
    return close(stream)


def closes_with_something_unread(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room)
    stage.feed(room)
    until(lambda: select.select([stream.sock], [], [], 0)[0])
    return close(stream)


def hangs_up_while_idle(stage: Stage, room: str) -> str:
    return reset(subscribed(stage, room))


def hangs_up_in_the_middle_of_an_event(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room)
    stage.feed(room, 5)
    stream.read_some(10_000)
    return reset(stream)


def hangs_up_while_stalled(stage: Stage, room: str) -> str:
    return reset(stalled(stage, room))


def hangs_up_as_a_zombie(stage: Stage, room: str) -> str:
    stream = stalled(stage, room)
    say_goodbye(stream.sock)
    until(lambda: stage.tables()[peer_of(stream.sock)].state == CLOSE_WAIT)
    return reset(stream)


def says_goodbye_and_reads_on(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room)
    peer = say_goodbye(stream.sock)
    stream.rest()
    return peer


def says_goodbye_and_never_reads(stage: Stage, room: str) -> str:
    return say_goodbye(silent_subscriber(stage, room).sock)


def says_goodbye_while_stalled(stage: Stage, room: str) -> str:
    return say_goodbye(stalled(stage, room).sock)


def says_goodbye_while_only_the_kernel_holds_something(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room, receive_buffer=SMALL)
    peer = peer_of(stream.sock)
    stage.feed(room, 1, 10_000)
    until(lambda: stage.unacked(peer))
    handle = stage.handle(peer)
    assert handle is not None
    assert handle["transport_bytes"] == handle["queued_bytes"] == 0
    return say_goodbye(stream.sock)


def talks_on_and_says_goodbye(stage: Stage, room: str) -> str:
    """What comes after its request is more than aiohttp takes at a time."""
    return say_goodbye(talkative(stage, room).sock)


def talks_on_and_says_goodbye_while_stalled(stage: Stage, room: str) -> str:
    stream = talkative(stage, room, receive_buffer=SMALL)
    stage.fill(room, stream)
    return say_goodbye(stream.sock)


def is_a_killed_curl(stage: Stage, room: str) -> str:
    process, peer = curl(stage, room)
    end(process)
    return peer


# --- reading no more


def never_reads_the_head(stage: Stage, room: str) -> str:
    stream = silent_subscriber(stage, room)
    stage.fill(room, stream)
    return peer_of(stream.sock)


def reads_no_more(stage: Stage, room: str) -> str:
    return peer_of(stalled(stage, room).sock)


def is_a_stopped_curl(stage: Stage, room: str) -> str:
    process, peer = curl(stage, room)
    process.send_signal(signal.SIGSTOP)
    while not stage.is_full(peer):
        stage.feed(room, 4)
    return peer


def reads_no_more_and_is_ended_by_the_operator(stage: Stage, room: str) -> str:
    peer = peer_of(stalled(stage, room).sock)
    handle = stage.handle(peer)
    assert handle is not None
    assert stage.operator.send("DELETE", f"/-/subscribers/{handle['id']}").status == 200
    return peer


def reads_no_more_and_its_backlog_is_full(stage: Stage, room: str) -> str:
    stream = stalled(stage, room)
    stage.feed(room, BACKLOG + 1, 10)
    return peer_of(stream.sock)


# --- vanishing


def is_unplugged_while_events_come(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room, "unplugged_busy")
    stage.network.unplug("unplugged_busy")
    stage.feed(room)
    return peer_of(stream.sock)


def is_unplugged_while_idle(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room, "unplugged_idle")
    stage.network.unplug("unplugged_idle")
    return peer_of(stream.sock)


def is_unplugged_while_stalled(stage: Stage, room: str) -> str:
    stream = stalled(stage, room, "unplugged_stalled")
    stage.network.unplug("unplugged_stalled")
    return peer_of(stream.sock)


def is_silenced_while_events_come(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room, "silenced_busy")
    stage.network.silence("silenced_busy")
    stage.feed(room)
    return peer_of(stream.sock)


def is_silenced_while_idle(stage: Stage, room: str) -> str:
    stream = subscribed(stage, room, "silenced_idle")
    stage.network.silence("silenced_idle")
    return peer_of(stream.sock)


# --- connections that are no streams


def says_nothing(stage: Stage, room: str) -> str:
    return stage.knows(stage.client().connect())


def says_nothing_below_tls(stage: Stage, room: str) -> str:
    """The loop gives up a handshake that does not come, and says goodbye."""
    sock, began, limit_s = stage.client().connect_tcp(), time.monotonic(), stage.limits["head_timeout_s"]
    assert sock.recv(1) == b""
    assert limit_s / 2 < time.monotonic() - began < limit_s + 5
    peer = peer_of(sock)
    sock.close()
    return peer


def says_half_a_head(stage: Stage, room: str) -> str:
    sock = stage.client().connect()
    sock.sendall(b"GET /event HTTP/1.1\r\nHost: h")
    return stage.knows(sock)


def says_half_of_its_second_head(stage: Stage, room: str) -> str:
    client = stage.client()
    sock = client.connect()
    sock.sendall(client.request("/-/healthy"))
    assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
    time.sleep(1.5 * stage.limits["head_timeout_s"])  # silence is allowed here, and must not have begun the wait
    assert stage.knows(sock)
    sock.sendall(b"GET /event HTTP/1.1\r\n")
    return peer_of(sock)


def drips_a_head(stage: Stage, room: str) -> str:
    """Something comes all the time, but it never becomes a request."""
    began, limit_s = time.monotonic(), stage.limits["head_timeout_s"]
    sock = stage.client().connect()
    peer = peer_of(sock)
    sock.sendall(b"GET /event HTTP/1.1\r\n")
    try:
        while time.monotonic() - began < limit_s + 5:
            sock.sendall(b"x: y\r\n")
            time.sleep(limit_s / 5)
    except OSError:
        pass
    assert limit_s / 2 < time.monotonic() - began < limit_s + 5
    return peer


def never_reads_a_long_answer(stage: Stage, room: str) -> str:
    return peer_of(asks_for_history(stage))


def never_reads_a_long_answer_and_says_goodbye(stage: Stage, room: str) -> str:
    return say_goodbye(asks_for_history(stage))


def asks_for_a_long_answer_and_says_goodbye_at_once(stage: Stage, room: str) -> str:
    client = stage.client()
    sock = client.connect(receive_buffer=SMALL)
    sock.sendall(client.request("/sync/history", *EMPTY_JSON, method="POST") + b"{}")
    return say_goodbye(sock)


def publishes_and_never_reads_the_receipt(stage: Stage, room: str) -> str:
    return peer_of(asks_for_receipt(stage, room)[0])


def publishes_and_says_goodbye_before_the_receipt_is_read(stage: Stage, room: str) -> str:
    return say_goodbye(asks_for_receipt(stage, room)[0])


def publishes_half_a_line_and_vanishes(stage: Stage, room: str) -> str:
    client = stage.client()
    sock = client.connect()
    sock.sendall(client.request(target(room), f"Content-Type: {NDJSON}", "Content-Length: 99", method="POST") + b"{")
    peer = peer_of(sock)
    sock.close()
    return peer
