"""The sockets that a daemon listens on, made before its loop starts to serve them."""

import contextlib
import errno
import resource
import socket

from opencode_events.errors import DaemonError
from opencode_events.settings import ServerSettings

# Descriptors that are not a subscriber's: the log, listeners, publishers, and two for each subscriber that is being
# taken over.
SPARE_DESCRIPTORS = 512


# asyncio takes the backlog also as the number of tries to accept in one turn, and complains of each that fails: with no
# descriptor left, 4 096 of them are a second of work, every second.
ACCEPTS_A_TURN = 16


def listen(settings: ServerSettings) -> list[socket.socket]:
    """Return a listening socket for each address of `host`, all on one port. Raises DaemonError when one is taken.

    With port 0 the first address picks a port, and the others use it.
    """
    sockets: list[socket.socket] = []
    port = settings.port
    try:
        for family, address in _addresses(settings.host):
            found = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(found)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                found.bind((address, port))
            except OSError as error:
                what = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
                raise DaemonError(f"port {port} of {address} {what}") from error
            found.listen(settings.listen_backlog)
            found.setblocking(False)
            port = found.getsockname()[1]
    except BaseException:
        for made in sockets:
            made.close()
        raise
    return sockets


def url(listener: socket.socket) -> str:
    """Return where a client on this machine finds `listener`."""
    address, port = listener.getsockname()[:2]
    if address in ("0.0.0.0", "::"):
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}[address]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def allow_descriptors(wanted: int) -> int:
    """Raise this process's limit of open files to `wanted` and some spare, as far as it may. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = wanted + SPARE_DESCRIPTORS
    if soft < need:
        soft = need if hard == resource.RLIM_INFINITY else min(need, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _addresses(hosts: str) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses that comma-separated names stand for, each once."""
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
