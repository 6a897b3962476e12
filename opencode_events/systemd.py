"""What the daemon says to systemd, and the sockets it gets from it: sd_notify(3) and sd_listen_fds(3).

By hand: both protocols are promised to stay as they are, and are a page together. systemd's own package for Python is
an extension that needs a compiler and its headers to install; sdnotify, the one without, has had no release since 2017
and knows nothing of sockets. Without systemd (no NOTIFY_SOCKET, no LISTEN_FDS) nothing here does anything.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Self

from opencode_events.errors import DaemonError

FIRST_FD = 3
"""SD_LISTEN_FDS_START: inherited sockets have the descriptors from here on."""
FEEDS = 4
"""How often the watchdog is fed within its time: a loop may be late by half of that time, and is not killed for it."""
STATUS_S = 5.0
SEND_S = 0.1
"""Seconds that a manager which does not read may hold us up. What it does not take is lost."""


class Notifier:
    """Tells the service manager at `address` how the daemon fares; None: there is nobody to tell.

    `watchdog_s` is the time within which the manager wants to hear of the loop, None if it does not ask.
    """

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._status = ""
        self._socket: socket.socket | None = None
        # "@" stands for the null byte of an abstract address. Other kinds (vsock) are those of virtual machines.
        if address is None or address[:1] not in ("/", "@") or sys.platform != "linux":
            return
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(SEND_S)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the one that NOTIFY_SOCKET and WATCHDOG_USEC ask for. Raises DaemonError for a time that is none."""
        watchdog_s = None
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            watchdog_s = _number(environment, "WATCHDOG_USEC") / 1_000_000 or None
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=watchdog_s)

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to tell."""
        return self._socket is not None

    @property
    def pause_s(self) -> float:
        """Seconds between two ticks."""
        return STATUS_S if self.watchdog_s is None else min(STATUS_S, self.watchdog_s / FEEDS)

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """The daemon answers; or it has reloaded, whatever came of that."""
        self._send("READY=1", self._changed(status))

    def reloading(self) -> None:
        """The daemon reads its settings anew; `ready` tells when that is done."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str, within_s: float) -> None:
        """The daemon ends, and needs so many seconds for that at most: it is not to be killed before, if it can be."""
        self._status = status
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within_s * 1_000_000)}", f"STATUS={status}")

    def tick(self, status: str) -> None:
        """Feed the watchdog, if it wants to be fed, and say how the daemon fares, if that has changed."""
        self._send("WATCHDOG=1" if self.watchdog_s is not None else "", self._changed(status))

    async def run(self, status: Callable[[], str]) -> None:
        """Tick until cancelled. This is the event loop's own word: while it is stuck, nothing is said."""
        while self.is_heard:
            self.tick(status())
            await asyncio.sleep(self.pause_s)

    def _changed(self, status: str) -> str:
        """Return the line that tells `status`, nothing if it was the last one told."""
        if status == self._status:
            return ""
        self._status = status
        return f"STATUS={status}"

    def _send(self, *lines: str) -> None:
        """Send the lines that are not empty, in one datagram. One that cannot be sent is no reason to end.

        The status that was lost with it is told again, with what is said next.
        """
        text = "\n".join(filter(None, lines))
        if text and self._socket is not None:
            try:
                self._socket.sendto(text.encode(), self._address)
            except OSError:
                self._status = ""


def describe(subscribers: int, lagging: int) -> str:
    """Return what `systemctl status` shows: "12 subscribers, 3 lagging"."""
    return f"{subscribers} subscriber{'' if subscribers == 1 else 's'}, {lagging} lagging"


def inherited(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that the service manager, or `systemd-socket-activate`, has opened for us.

    They are taken once: the variables go, so that no child takes them for its own. Raises DaemonError for one that is
    no listening TCP socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), _number(environment, "LISTEN_FDS")
    environment.pop("LISTEN_FDS", None)
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):  # meant for a process that we descend from
        return []
    found: list[socket.socket] = []
    try:
        found.extend(_adopt(descriptor) for descriptor in range(FIRST_FD, FIRST_FD + count))
    except BaseException:
        for each in found:
            each.close()
        raise
    return found


def _adopt(descriptor: int) -> socket.socket:
    """Return one inherited socket, which no child will inherit."""
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise DaemonError(f"LISTEN_FDS: descriptor {descriptor} is no socket: {error.strerror}") from error
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        what = "is no TCP socket: ListenStream= takes ADDRESS:PORT"
    elif not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        what = "does not listen: the socket unit needs Accept=no"
    else:
        return sock
    sock.close()
    raise DaemonError(f"LISTEN_FDS: descriptor {descriptor} {what}")


def _number(environment: Mapping[str, str], name: str) -> int:
    """Return a variable's whole number, 0 if there is none. Raises DaemonError."""
    text = environment.get(name, "0")
    if not (text.isascii() and text.isdigit()):
        raise DaemonError(f"{name}: expects a whole number, not {text!r}")
    return int(text)
