"""Networks of a server, a router and clients' hosts, each in a network namespace of its own, as root or as anybody.

    server 10.0.0.2 --- 10.0.0.1 router 10.0.N.1 --- 10.0.N.2 host N

Nothing of it has a name outside: a namespace is held by a process of ours and goes with it, so networks neither see
each other nor survive whoever made them. Sockets made in a namespace can be used here: `Space.socket`.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HOLDER = Path(__file__).with_name("holder.py")
# Where `ip` and `iptables` are, whatever the caller's path is.
ENVIRONMENT = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
AS_ROOT = ("unshare", "--net")
AS_ANYBODY = ("unshare", "--map-root-user", "--net")


class NoNamespaces(AssertionError):
    """No network namespace can be made here."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"these tests need network namespaces, and here none can be made: {reason}. Run them as root, or allow "
            "user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone); a container needs "
            "CAP_SYS_ADMIN and a /proc/sys that can be written"
        )


class Space:
    """One namespace. `entry` stands before a command that shall run in it; `pid` is in it as long as it is there."""

    def __init__(self, address: str, make: Sequence[str], *, is_roots: bool) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [*make, sys.executable, "-I", "-S", str(HOLDER)]
            try:
                self._holder = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
                )
            except FileNotFoundError as error:
                self._door.close()
                raise NoNamespaces(f"there is no {error.filename}") from None
        if self._door.recv(16) != b"ready":
            self._door.close()
            raise NoNamespaces(self._complaint())
        self.pid = self._holder.pid
        as_whom = () if is_roots else ("--user", "--preserve-credentials")
        self.entry = ("nsenter", f"--target={self.pid}", *as_whom, "--net", "--")

    def run(self, *command: str) -> None:
        """Run a command to its end."""
        done = subprocess.run([*self.entry, *command], capture_output=True, text=True, env=ENVIRONMENT, check=False)
        if done.returncode:
            raise NoNamespaces(f"`{' '.join(command)}` said: {done.stderr.strip()}")

    def ip(self, *commands: str) -> None:
        """Run commands of `ip`."""
        for command in commands:
            self.run("ip", *command.split())

    def link(self, name: str, other: "Space", other_name: str) -> None:
        """Lay a cable from here to another one."""
        self.ip(f"link add name {name} type veth peer name {other_name} netns {other.pid}")

    def socket(self) -> socket.socket:
        """Return a TCP socket of this namespace."""
        with self._lock:
            self._door.send(b"4")
            descriptors = socket.recv_fds(self._door, 1, 1)[1]
        return socket.socket(fileno=descriptors[0])

    def close(self) -> None:
        """Give it up, with all that runs in it."""
        self._door.close()
        self._holder.wait()
        assert self._holder.stderr is not None
        self._holder.stderr.close()

    def _complaint(self) -> str:
        said = self._holder.communicate()[1].decode(errors="replace")
        return said.strip() or f"exit {self._holder.returncode}"


class Network:
    """A server's host, a router, and `hosts`, by name. A context manager: without it nothing is there."""

    server: Space
    router: Space

    def __init__(self, *hosts: str) -> None:
        self._names = hosts
        self.hosts: dict[str, Space] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stack.close()

    def unplug(self, host: str) -> None:
        """Pull the plug of a host: its router has no way to it any more, and says so."""
        self.router.ip(f"link set lan{self._names.index(host) + 1} down")

    def silence(self, host: str) -> None:
        """Have everything lost, without a word, that comes from a host or goes to it."""
        address = self.hosts[host].address
        self.router.run("iptables", "--append", "FORWARD", "--source", address, "--jump", "DROP")
        self.router.run("iptables", "--append", "FORWARD", "--destination", address, "--jump", "DROP")

    def _make(self) -> None:
        is_roots = os.geteuid() == 0
        try:
            self.router = self._space("10.0.0.1", AS_ROOT if is_roots else AS_ANYBODY, is_roots=is_roots)
        except NoNamespaces:
            if not is_roots:
                raise
            is_roots = False  # root of a container may be nobody outside
            self.router = self._space("10.0.0.1", AS_ANYBODY, is_roots=False)
        more = AS_ROOT if is_roots else (*self.router.entry[:-2], "--", *AS_ROOT)
        self.server = self._space("10.0.0.2", more, is_roots=is_roots)
        self._connect(self.server, 0)
        for number, name in enumerate(self._names, 1):
            self.hosts[name] = self._space(f"10.0.{number}.2", more, is_roots=is_roots)
            self._connect(self.hosts[name], number)
        self.router.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")

    def _space(self, address: str, make: Sequence[str], *, is_roots: bool) -> Space:
        made = Space(address, make, is_roots=is_roots)
        self._stack.callback(made.close)
        return made

    def _connect(self, space: Space, number: int) -> None:
        self.router.link(f"lan{number}", space, "wan")
        self.router.ip(f"addr add 10.0.{number}.1/24 dev lan{number}", f"link set lan{number} up")
        space.ip(
            "link set lo up",
            f"addr add {space.address}/24 dev wan",
            "link set wan up",
            f"route add default via 10.0.{number}.1",
        )
