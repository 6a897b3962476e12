"""Sockets that the manager has opened: taken, refused, and not meant for us. Each in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opencode_events.systemd import inherited

ROOT = Path(__file__).parents[2]

# Puts the descriptors that it is given at 3 and following, says that they are meant for it, and takes them.
CHILD = """
import os, sys
from opencode_events import errors, systemd

for place, given in enumerate([os.dup2(int(each), 100 + at) for at, each in enumerate(sys.argv[1:])], 3):
    os.dup2(given, place)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sys.argv) - 1), "LISTEN_FDNAMES": "a:b"}
try:
    found = systemd.inherited(os.environ)
except errors.DaemonError as error:
    print(error)
else:
    print(*(f"{each.getsockname()[1]} {os.get_inheritable(each.fileno())}" for each in found))
print([name for name in os.environ if name.startswith("LISTEN_")])
"""


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def take(*sockets: socket.socket) -> list[str]:
    """Return what a process says that gets these sockets."""
    numbers = [each.fileno() for each in sockets]
    command = [sys.executable, "-c", CHILD, *map(str, numbers)]
    done = subprocess.run(command, pass_fds=numbers, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.splitlines()


def test_all_sockets_are_taken_in_their_order_and_no_child_gets_them(opened: contextlib.ExitStack) -> None:
    found = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]

    said = take(*found)

    assert said == [" ".join(f"{each.getsockname()[1]} False" for each in found), "[]"]


def test_a_socket_that_does_not_listen_is_refused(opened: contextlib.ExitStack) -> None:
    bound = opened.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))

    assert take(bound)[0] == "LISTEN_FDS: descriptor 3 does not listen: the socket unit needs Accept=no"


@pytest.mark.parametrize(
    ("family", "kind"), [(socket.AF_UNIX, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM)]
)
def test_a_socket_of_another_kind_is_refused(opened: contextlib.ExitStack, family: int, kind: int) -> None:
    good = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    bad = opened.enter_context(socket.socket(family, kind))

    assert take(good, bad)[0] == "LISTEN_FDS: descriptor 4 is no TCP socket: ListenStream= takes ADDRESS:PORT"


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert take(file)[0].startswith("LISTEN_FDS: descriptor 3 is no socket: ")  # type: ignore[arg-type]


def test_sockets_of_another_process_are_left_alone() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1", "PATH": "/bin"}

    assert inherited(environment) == []
    assert environment == {"PATH": "/bin"}


def test_without_any_there_are_none() -> None:
    assert inherited({}) == []
