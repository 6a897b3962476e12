"""What tests over real sockets share: servers on a free port, and a limit of time that holds for every test.

`serve(...)` starts the daemon's parts in this process, on the loop `loop_name`; a module that cares which one it is
parametrises that name over `LOOPS`. `start_daemon(...)` starts a real one; `daemon_url` is where such a one answers.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.clients import Client
from tests.servers import Daemon, Server, settings

# Seconds for each of a test's phases. Whatever takes longer hangs. A test that is known to take longer is marked with
# a limit of its own.
LIMIT_S = 60.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"limit_s(seconds): what each phase may take, instead of {LIMIT_S:g}")


@contextlib.contextmanager
def limited(item: pytest.Item, phase: str) -> Iterator[None]:
    """Fail what runs for longer than the test's limit, wherever in Python it is."""
    marker = item.get_closest_marker("limit_s")
    limit_s = LIMIT_S if marker is None else float(marker.args[0])

    def strike(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"{phase} took more than {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with limited(item, "setup"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with limited(item, "the test"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with limited(item, "teardown"):
        yield


@pytest.fixture
def loop_name() -> str:
    """The loop that servers run on where a test does not care: the daemon's default."""
    return "uvloop"


@pytest.fixture
def serve(tmp_path: Path, loop_name: str) -> Iterator[Callable[..., Server]]:
    """Start servers. Keywords are settings, but for those that `Server` knows."""
    with contextlib.ExitStack() as stack:

        def start(**changes: Any) -> Server:
            own = {name: changes.pop(name) for name in ("send_buffer", "make_runner") if name in changes}
            server = Server(settings(tmp_path / "state", **changes), loop_name, **own)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """A server with the default settings."""
    return serve()


@pytest.fixture
def client(server: Server) -> Client:
    """A client of `server`."""
    return server.client


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons on one state directory. Keywords are settings."""
    with contextlib.ExitStack() as stack:

        def start(**changes: Any) -> Daemon:
            daemon = Daemon(tmp_path / "state", **changes)
            stack.callback(daemon.kill)
            if changes.get("is_awaited", True):
                stack.callback(daemon.client.close)
            return daemon

        yield start


@pytest.fixture
def daemon(start_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with the default settings."""
    return start_daemon()


@pytest.fixture
def daemon_url(daemon: Daemon) -> str:
    """Where `daemon` answers."""
    return daemon.url
