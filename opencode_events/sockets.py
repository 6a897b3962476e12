"""The sockets that a daemon listens on, made before its loop starts to serve them."""

import contextlib
import errno
import fcntl
import resource
import socket
import ssl
import struct
import sys

from opencode_events import holder
from opencode_events.errors import DaemonError
from opencode_events.settings import ServerSettings

# Descriptors that are not a subscriber's: the log, listeners, publishers, and two for each subscriber that is being
# taken over.
SPARE_DESCRIPTORS = 512


# linux/tcp.h; Python 3.11 has no name for it. macOS has another number, and the same meaning.
TCP_NOTSENT_LOWAT = 0x201 if sys.platform == "darwin" else 25
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_TRIES = 3
# Seconds that the kernel keeps a connection which we have closed (FIN-WAIT-2) and whose client, who has acknowledged
# everything, does not close its own half. Linux's default is a minute.
FIN_WAIT_S = 1
SIOCOUTQ = 0x5411  # tcp(7): bytes in the send queue that the peer has not acknowledged
# SO_LINGER with a timeout of nothing: closing sends RST, and the kernel gives the send queue back at once. A plain
# close would leave what is unsent in an orphan (LAST-ACK, FIN-WAIT) for minutes.
LINGER_NONE = struct.pack("ii", 1, 0)
LINGER_USUAL = struct.pack("ii", 0, 0)

# asyncio takes the backlog also as the number of tries to accept in one turn. With no descriptor left it complains of
# each that fails, and each of them has it try as often again a second later: 16 were soon a thousand tracebacks a
# second. A storm of clients is accepted as fast one by one.
ACCEPTS_A_TURN = 1


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Return a listening socket for each address of `host`, all on one port. Raises DaemonError when one is taken.

    With port 0 the first address picks a port, and the others use it.
    """
    sockets: list[socket.socket] = []
    port = settings.port
    try:
        for family, address in _families(settings.host):
            found = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(found)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _limit_connections(found, settings)
            if family == socket.AF_INET6:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                found.bind((address, port))
            except OSError as error:
                raise DaemonError(f"port {port} of {address} {_why_not(error, port)}") from error
            found.listen(settings.listen_backlog)
            found.setblocking(False)
            port = found.getsockname()[1]
    except BaseException:
        for made in sockets:
            made.close()
        raise
    return sockets


def adopt(inherited: list[socket.socket], settings: ServerSettings) -> list[socket.socket]:
    """Return listening sockets that somebody else has opened, made like our own. `host` and `port` are not asked."""
    for found in inherited:
        _limit_connections(found, settings)
        found.setblocking(False)
    return inherited


def _why_not(error: OSError, port: int) -> str:
    """Say why a port cannot be had, and who has it, if that can be found out."""
    if error.errno != errno.EADDRINUSE:
        return f"cannot be used: {error.strerror}"
    who = holder.find(port)
    return f"is taken by {who}" if who else "is taken"


def _limit_connections(listener: socket.socket, settings: ServerSettings) -> None:
    """Set what each accepted connection inherits: a bound on unsent bytes, keepalive, and a last resort.

    TCP_USER_TIMEOUT is no timer of progress in front of a closed window (a live reader of 1 KB/s was cut by one of
    120 s), so it is far above the watchdog's limits: it cleans up where the loop hangs.
    """
    wanted = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, settings.tcp_unsent_bytes),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPIDLE", None), settings.tcp_keepalive_s),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPINTVL", None), KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPCNT", None), KEEPALIVE_TRIES),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_USER_TIMEOUT", None), settings.tcp_user_timeout_s * 1000),
        (socket.IPPROTO_TCP, getattr(socket, "TCP_LINGER2", None), FIN_WAIT_S),
    )
    for level, option, value in wanted:
        if option is not None:  # where a system lacks one, the watchdog does without
            with contextlib.suppress(OSError):
                listener.setsockopt(level, option, value)


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """Return what to serve HTTPS with, None for plain HTTP. Raises DaemonError, naming the file that cannot be used."""
    if not settings.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except (OSError, ssl.SSLError) as error:
        files = " and ".join(filter(None, (settings.tls_cert, settings.tls_key)))
        raise DaemonError(f"tls_cert, tls_key: {files} cannot be used: {error}") from error
    return context


def unacknowledged(sock: socket.socket) -> int:
    """Return the bytes that the kernel holds for the peer; 0 where that cannot be known, or the socket is closed."""
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock, SIOCOUTQ, b"\0\0\0\0"), sys.byteorder)
    except (OSError, ValueError):
        return 0


def reset_on_close(sock: socket.socket) -> None:
    """Have the close of `sock` send RST, with nothing left in the kernel."""
    _linger(sock, LINGER_NONE)


def close_politely(sock: socket.socket) -> None:
    """Have the close of `sock` send FIN, as usual."""
    _linger(sock, LINGER_USUAL)


def _linger(sock: socket.socket, how: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed already: asyncio says the one, uvloop the other
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


def url(listener: socket.socket, scheme: str = "http") -> str:
    """Return where a client on this machine finds `listener`."""
    address, port = listener.getsockname()[:2]
    if address in ("0.0.0.0", "::"):
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}[address]
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


def allow_descriptors(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted` and some spare, as far as it may. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + SPARE_DESCRIPTORS
    if soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def addresses(hosts: str) -> list[str]:
    """Return the addresses that comma-separated names stand for. Raises DaemonError for one that has none."""
    return [address for _, address in _families(hosts)]


def _families(hosts: str) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses that comma-separated names stand for, each once, with their families."""
    found: dict[tuple[socket.AddressFamily, str], None] = {}
    names = [part.strip() for part in hosts.split(",")]
    for host in (host for name in names for host in (_loopback() if name == "localhost" else (name,))):
        try:
            infos = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as error:
            raise DaemonError(f"host {host!r} has no address: {error}") from error
        found.update({(info[0], str(info[4][0])): None for info in infos})
    return list(found)


def _loopback() -> tuple[str, ...]:
    """Return the addresses of `localhost`; many a hosts file knows only the older one."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ("127.0.0.1",)
    return ("127.0.0.1", "::1")
