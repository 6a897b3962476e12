"""What the kernel knows of a connection: one system call, as each platform has it.

Linux: TCP_INFO (tcp(7), `struct tcp_info` of linux/tcp.h) and SIOCOUTQ (tcp(7)). macOS: TCP_CONNECTION_INFO (`struct
tcp_connection_info` of netinet/tcp.h); written from its header, not run. Elsewhere nothing is known, and progress is
what the transport has given to the kernel. A reply may be shorter than the structure we know: kernels append to it.
"""

import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from opencode_events.sockets import unacknowledged
from opencode_events.watchdog.classify import Tcp


class Sample(NamedTuple):
    """One look. Bytes are those of the kernel's send queue. None: the platform, or an old kernel, does not tell.

    `acked` counts bytes that the peer has acknowledged since the connection began, `unacked` segments in flight,
    `received` bytes that came from the peer; `last_ack_s` is the time since anything was heard of it.
    """

    state: Tcp | None = None
    outq: int = 0
    acked: int | None = None
    unacked: int = 0
    last_ack_s: float | None = None
    received: int | None = None


# Offsets of struct tcp_info: tcpi_state 0, tcpi_unacked 24, tcpi_last_ack_recv 56, tcpi_bytes_acked 120,
# tcpi_bytes_received 128, tcpi_notsent_bytes 144.
_TCP_INFO = struct.Struct("=B23xI28xI60xQQ8xI")
_TCP_INFO_BYTES = 192

# Offsets of struct tcp_connection_info: tcpi_state 0, tcpi_snd_sbbytes 32, tcpi_rxbytes 88.
_TCP_CONNECTION_INFO = 0x106
_TCP_CONNECTION_INFO_BYTES = 112
_BSD = struct.Struct("=B31xI52xQ")
_BSD_STATES = {
    0: Tcp.CLOSE,
    1: Tcp.LISTEN,
    2: Tcp.SYN_SENT,
    3: Tcp.SYN_RECV,
    4: Tcp.ESTABLISHED,
    5: Tcp.CLOSE_WAIT,
    6: Tcp.FIN_WAIT1,
    7: Tcp.CLOSING,
    8: Tcp.LAST_ACK,
    9: Tcp.FIN_WAIT2,
    10: Tcp.TIME_WAIT,
}
_BSD_ESTABLISHED = 4
_STATES = {int(state): state for state in Tcp}
_ESTABLISHED = int(Tcp.ESTABLISHED)
_UNKNOWN_32, _UNKNOWN_64 = 2**32 - 1, 2**64 - 1

# What most connections are at most times: established, and nothing unacknowledged. One object for all of them.
AT_REST = Sample(Tcp.ESTABLISHED)

Probe = Callable[[socket.socket, bool], Sample | None]


def probe_linux(sock: socket.socket, briefly: bool = False) -> Sample | None:
    """Return what Linux knows of a connection, None when its descriptor is closed.

    `briefly`: of one at rest it is enough to know that it is.
    """
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _TCP_INFO.size:  # before Linux 4.6
            info = info.ljust(_TCP_INFO.size, b"\xff")
        state, unacked, last_ack_ms, acked, received, notsent = _TCP_INFO.unpack_from(info)
        if briefly and state == _ESTABLISHED and not unacked and not notsent:
            return AT_REST
        outq = unacknowledged(sock) if unacked or notsent else 0
    except (OSError, ValueError):  # asyncio's socket says the one, uvloop's the other
        return None
    return Sample(
        _STATES.get(state),
        outq,
        None if acked == _UNKNOWN_64 else acked,
        0 if unacked == _UNKNOWN_32 else unacked,
        None if last_ack_ms == _UNKNOWN_32 else last_ack_ms / 1000,
        None if received == _UNKNOWN_64 else received,
    )


def probe_macos(sock: socket.socket, briefly: bool = False) -> Sample | None:
    """Return what macOS knows of a connection, None when its descriptor is closed."""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_CONNECTION_INFO, _TCP_CONNECTION_INFO_BYTES)
    except (OSError, ValueError):
        return None
    if len(info) < _BSD.size:
        return Sample()
    state, outq, received = _BSD.unpack_from(info)
    if briefly and state == _BSD_ESTABLISHED and not outq:
        return AT_REST
    return Sample(_BSD_STATES.get(state), outq, received=received)


def probe_nothing(sock: socket.socket, briefly: bool = False) -> Sample | None:
    """Return that nothing is known of a connection, None when its descriptor is closed."""
    try:
        return Sample() if sock.fileno() >= 0 else None
    except (OSError, ValueError):
        return None


def best_probe(platform: str = sys.platform) -> Probe:
    """Return the probe for a platform."""
    if platform == "linux":
        return probe_linux
    return probe_macos if platform == "darwin" else probe_nothing
