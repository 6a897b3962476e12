"""Clients on their way: what brings one to the point at which it dies, stalls or goes on.

Each subscribes and publishes to a directory of its own, its `room`, so that many can be about at a time.
"""

import socket
import subprocess

from tests.clients import Stream, dumps, until
from tests.network.hosts import HELD, peer_of
from tests.network.stage import Stage, settle

# An SO_RCVBUF of two or three segments. With less, a stalled client's kernel takes a little more at each probe.
SMALL = 4096
EMPTY_JSON = ("Content-Type: application/json", "Content-Length: 2")


def target(room: str) -> str:
    return f"/event?directory={room}"


def subscribed(stage: Stage, room: str, host: str = "near", *, receive_buffer: int = 0) -> Stream:
    """Return a subscriber that has read all there is."""
    return stage.client(host).subscribe(target(room), receive_buffer=receive_buffer)


def silent_subscriber(stage: Stage, room: str, *, receive_buffer: int = SMALL) -> Stream:
    """Return a subscriber that reads nothing."""
    stream = stage.client().ask(target(room), receive_buffer=receive_buffer)
    until(lambda: stage.handle(peer_of(stream.sock)))
    return stream


def stalled(stage: Stage, room: str, host: str = "near") -> Stream:
    """Return a subscriber that read until now, and that more waits for than its connection takes."""
    stream = subscribed(stage, room, host, receive_buffer=SMALL)
    stage.fill(room, stream)
    return stream


def say_goodbye(sock: socket.socket) -> str:
    """Send a bare FIN, whatever is spoken above TCP."""
    socket.socket.shutdown(sock, socket.SHUT_WR)
    return peer_of(sock)


def reset(stream: Stream) -> str:
    peer = peer_of(stream.sock)
    stream.reset()
    return peer


def close(stream: Stream) -> str:
    peer = peer_of(stream.sock)
    stream.close()
    return peer


def curl(stage: Stage, room: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a curl on a stream; return it, and its name at the server."""
    shown = f"Authorization: {HELD.authorization}"
    quiet = ["--silent", "--no-buffer", "--insecure", "--noproxy", "*"]
    command = ["curl", *quiet, "--header", shown, stage.url + target(room)]
    process = subprocess.Popen(
        [*stage.network.hosts["near"].entry, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stage.callback(lambda: end(process))

    def peer() -> str | None:
        found = (each for each in stage.subscribers() if each["selection"]["directory"] == room)
        return next((str(each["peer"]) for each in found), None)

    return process, str(until(peer))


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and let go of it."""
    process.kill()
    process.wait()


def talkative(stage: Stage, room: str, *, receive_buffer: int = 0) -> Stream:
    client = stage.client()
    sock = client.connect(receive_buffer=receive_buffer)
    sock.sendall(client.request(target(room)) + 100 * client.request("/-/healthy"))
    stream = Stream(sock)
    until(lambda: stage.handle(peer_of(sock)))
    return stream


def asks_for_history(stage: Stage) -> socket.socket:
    client = stage.client()
    sock = client.connect(receive_buffer=SMALL)
    sock.sendall(client.request("/sync/history", *EMPTY_JSON, method="POST") + b"{}")
    until(lambda: stage.unacked(peer_of(sock)))
    settle(lambda: stage.unacked(peer_of(sock)))
    return sock


def asks_for_receipt(stage: Stage, room: str, *more: str) -> tuple[socket.socket, list[str]]:
    """Publish events with long names in one array, and do not read the answer, which has them all."""
    client = stage.client()
    sock = client.connect(receive_buffer=SMALL)
    names = [f"evt_{room}_{number:0200}" for number in range(3_000)]
    body = dumps([{"id": name, "type": "t", "properties": {}} for name in names])
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}", *more)
    sock.sendall(client.request(target(room), *fields, method="POST") + body)
    until(lambda: stage.unacked(peer_of(sock)))
    settle(lambda: stage.unacked(peer_of(sock)))
    return sock, names
