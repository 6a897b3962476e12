"""A service manager as a process sees it: a socket that takes its notifications."""

import os
import socket
from pathlib import Path

from tests.clients import DEADLINE_S


class Manager:
    """Hears what is sent to `address`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(DEADLINE_S)

    def close(self) -> None:
        self._socket.close()

    def next(self) -> list[str]:
        """Return the lines of the next datagram, once there is one."""
        return self._socket.recv(65_536).decode().split("\n")

    def until(self, line: str) -> list[list[str]]:
        """Return the datagrams up to and with the one that has `line`."""
        found = [self.next()]
        while line not in found[-1]:
            found.append(self.next())
        return found

    def waiting(self) -> list[list[str]]:
        """Return the datagrams that are there already."""
        found = []
        self._socket.settimeout(0)
        try:
            while True:
                found.append(self.next())
        except BlockingIOError:
            return found
        finally:
            self._socket.settimeout(DEADLINE_S)


def abstract(path: Path) -> str:
    """Return an address that nobody else has."""
    return f"@{os.getpid()}{path}"[:100]
