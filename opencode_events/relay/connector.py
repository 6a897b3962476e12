"""Connections to upstream, after which the kernel looks.

Who waits for an answer hears nothing while an agent thinks, and nothing when the machine or the path is gone. So the
kernel asks for a sign of life; without that a stream that upstream can no longer end would keep its place for ever.
"""

import contextlib
import socket
from typing import Any

import aiohttp

from opencode_events.sockets import KEEPALIVE_INTERVAL_S, KEEPALIVE_TRIES

# Seconds of silence before the kernel asks. Routers on the way forget a connection after some minutes of it.
KEEPALIVE_IDLE_S = 30


def connector(**options: Any) -> aiohttp.TCPConnector:
    """Return what makes them. `options` are those of aiohttp's."""
    if hasattr(aiohttp, "SocketFactoryType"):  # 3.11 has no way to it: there only the limits of time hold
        options["socket_factory"] = open_socket
    return aiohttp.TCPConnector(**options)


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket for one of `getaddrinfo`'s answers."""
    made = socket.socket(*address[:3])
    wanted = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", None), KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None), KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None), KEEPALIVE_TRIES),
    )
    for level, option, value in wanted:
        if option is not None:
            with contextlib.suppress(OSError):
                made.setsockopt(level, option, value)
    return made
