"""A thousand subscribers die at each point there is, and leave no handle, no task and no descriptor behind.

On both loops, with the connection taken over and on the plain path.
"""

import os
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import Client, Stream, envelope, until
from tests.servers import LOOPS, Daemon, Server

DEATHS = 1_000
# How many are alive at a time.
CROWD = 100
# A small SO_SNDBUF, so that little more than the transport's own 64 KiB fills a connection.
TIGHT = 4096


def publish(client: Client, size: int) -> None:
    client.publish(envelope(os.urandom(8).hex(), pad="x" * size))


def parked(client: Client) -> list[Stream]:
    """Return subscribers that read nothing, and for which the server holds something."""
    streams = [client.ask("/global/event", receive_buffer=1) for _ in range(CROWD)]
    until(lambda: len(client.subscribers()) == CROWD)
    publish(client, 400_000)
    until(lambda: all(each["is_parked"] for each in client.subscribers()))
    return streams


def before_the_request_is_whole(client: Client) -> None:
    for _ in range(CROWD):
        sock = client.connect()
        sock.sendall(b"GET /global/event HTTP/1.1\r\nHost: h\r\n")
        sock.close()


def before_the_head_is_read(client: Client) -> None:
    for _ in range(CROWD):
        client.ask("/global/event").close()


def in_the_middle_of_the_head(client: Client) -> None:
    for _ in range(CROWD):
        stream = client.ask("/global/event")
        stream.read_some(40)
        stream.close()


def having_read_all(client: Client) -> None:
    for stream in [client.subscribe() for _ in range(CROWD)]:
        stream.close()


def in_the_middle_of_a_frame(client: Client) -> None:
    streams = [client.subscribe() for _ in range(CROWD)]
    publish(client, 20_000)
    for stream in streams:
        stream.read_some(1_000)
        stream.close()


def by_reset(client: Client) -> None:
    for stream in [client.subscribe() for _ in range(CROWD)]:
        stream.reset()


def by_half_a_close(client: Client) -> None:
    for stream in [client.subscribe() for _ in range(CROWD)]:
        stream.say_goodbye()
        stream.rest()
        stream.close()


def while_events_come(client: Client) -> None:
    for at, stream in enumerate([client.subscribe() for _ in range(CROWD)]):
        if at % 10 == 0:
            publish(client, 1_000)
        (stream.close, stream.reset)[at % 2]()


def while_parked(client: Client) -> None:
    for stream in parked(client):
        stream.close()


def by_reset_while_parked(client: Client) -> None:
    for stream in parked(client):
        stream.reset()


def by_fin_while_parked(client: Client) -> None:
    for stream in parked(client):
        stream.say_goodbye()
        stream.close()


DYING = [
    before_the_request_is_whole,
    before_the_head_is_read,
    in_the_middle_of_the_head,
    having_read_all,
    in_the_middle_of_a_frame,
    by_reset,
    by_half_a_close,
    while_events_come,
    while_parked,
    by_reset_while_parked,
    by_fin_while_parked,
]


def descriptors(directory: str = "/proc/self/fd") -> int:
    return len(os.listdir(directory))  # noqa: PTH208  # in this process it counts itself, each time


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("takeover", [True, False], ids=["taken over", "plain"])
@pytest.mark.parametrize("die", DYING)
def test_the_dead_leave_nothing(serve: Callable[..., Server], takeover: bool, die: Callable[[Client], None]) -> None:
    server = serve(takeover=takeover, send_buffer=TIGHT)
    client = server.client
    publish(client, 0)
    until(lambda: server.connections == 0)
    before = descriptors()

    for _ in range(DEATHS // CROWD):
        die(client)
        until(lambda: server.subscribed == 0)

    until(lambda: client.subscribers() == [])  # which comes to the server after all of them
    until(lambda: server.connections == 0 and server.tasks() == [])
    until(lambda: descriptors() == before)
    status: dict[str, Any] = client.status()["broker"]
    assert status["held_bytes"] == status["selections"] == status["subscribers"] == 0
    opened = 0 if die is before_the_request_is_whole else DEATHS
    assert status["subscribers_opened"] == sum(status["subscribers_closed"].values()) <= opened


def test_the_dead_leave_nothing_in_a_real_daemon(daemon: Daemon) -> None:
    client = daemon.client
    publish(client, 0)
    having_read_all(client)
    until(lambda: client.subscribers() == [])
    before = daemon.descriptors()  # or one more: the daemon may not have seen the last question's end

    for die in (before_the_head_is_read, in_the_middle_of_a_frame, by_reset, by_half_a_close, while_events_come) * 2:
        die(client)
        until(lambda: client.subscribers() == [])

    until(lambda: daemon.descriptors() <= before)
    assert [line for line in daemon.lines() if line["level"] in ("warning", "error")] == []
    assert daemon.errors().count("\n") == 2  # where it listens; nothing else


def test_a_daemon_without_descriptors_serves_who_is_there(daemon: Daemon) -> None:
    """One descriptor is enough to be served, two are needed to be taken over."""
    client = daemon.client
    first = client.subscribe()
    publish(client, 0)
    first.frame()
    hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[1]
    publisher = client.connect()
    publisher.sendall(client.request("/global/health"))
    assert publisher.recv(65_536).startswith(b"HTTP/1.1 200 ")
    lowest_free = next(fd for fd in range(10_000) if not os.path.lexists(f"/proc/{daemon.pid}/fd/{fd}"))

    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
    second = client.subscribe()
    third = client.ask("/global/event")
    line = b'{"payload":{"id":"a","type":"t","properties":{}}}'
    head = client.request(
        "/global/event", "Content-Type: application/json", f"Content-Length: {len(line)}", method="POST"
    )
    publisher.sendall(head + line)

    assert publisher.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert first.frame().event == second.frame().event == "a"
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    third.close()
    fourth = client.subscribe()
    publish(client, 0)
    assert fourth.frame().type == first.frame().type == second.frame().type == "test.tick"
    second.close()
    until(lambda: len(client.subscribers()) == 2)


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_a_daemon_that_can_accept_nobody_does_not_fill_its_log_with_that(
    start_daemon: Callable[..., Daemon], uvloop: bool
) -> None:
    daemon = start_daemon(uvloop=uvloop, head_timeout_s=60)
    stream = daemon.client.subscribe()
    hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (daemon.descriptors() + 2, hard))
    for _ in range(20):
        daemon.client.connect()

    time.sleep(3.5)

    complaints = [line for line in daemon.lines() if line["event"] == "library.complained"]
    assert sum(1 + line.get("suppressed", 0) for line in complaints) <= 5
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    publish(daemon.client, 0)
    assert stream.frame().type == "test.tick"
