"""Who has a port: found where it can be seen, and nothing said where not."""

import os
import socket
from pathlib import Path

import pytest

from opencode_events import holder, sockets
from opencode_events.errors import DaemonError
from opencode_events.settings import ServerSettings


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_process_that_listens_is_named(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as taken:
        name = Path("/proc/self/comm").read_text().strip()

        assert holder.find(taken.getsockname()[1]) == f"pid {os.getpid()} ({name})"


def test_a_port_that_is_only_connected_to_has_no_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_connection(taken.getsockname()) as client:
        assert holder.find(client.getsockname()[1]) == ""


def test_what_cannot_be_seen_is_not_told(tmp_path: Path) -> None:
    assert holder.find(1, tmp_path) == ""
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text("head\n0: 0100007F:0001 00000000:0000 0A 0:0 0:0 0 0 0 77 1\n")
    (tmp_path / "5").mkdir()

    assert holder.find(1, tmp_path) == ""


def test_a_port_that_is_taken_is_told_with_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(DaemonError, match=rf"^port {port} of 127.0.0.1 is taken by pid {os.getpid()} \(.+\)$"):
            sockets.listen(ServerSettings(port=port, state_dir=tmp_path))
