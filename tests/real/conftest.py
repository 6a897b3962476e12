"""Real opencode servers and their clients, with the shield between them.

`opencode` serves the whole run; whoever kills one takes `new_opencode`. `shield` stands before `opencode`, and what
`new_shield` starts stands before whichever it is given, on one state directory and one port, so that it can be started
again.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients import until
from tests.real.opencode import Opencode
from tests.real.sdk import Sdk
from tests.real.stub import Stub
from tests.servers import Daemon, free_port


@pytest.fixture(scope="session")
def stub() -> Iterator[Stub]:
    """The model of all of them."""
    with Stub() as listening:
        yield listening


@pytest.fixture(scope="session")
def opencode(stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opencode]:
    """A server that asks for no password."""
    server = Opencode(tmp_path_factory.mktemp("opencode"), stub)
    server.start()
    yield server
    server.close()


@pytest.fixture
def new_opencode(stub: Stub, tmp_path: Path) -> Iterator[Callable[..., Opencode]]:
    """Start servers. Keywords are those of `Opencode`."""
    with contextlib.ExitStack() as stack:

        def start(**changes: str) -> Opencode:
            server = Opencode(tmp_path / "opencode", stub, **changes)
            stack.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def new_shield(start_daemon: Callable[..., Daemon]) -> Callable[..., Daemon]:
    """Start shields before an upstream, and wait until they are ready. Other keywords are settings."""
    port = free_port()

    def start(upstream: Opencode, *, is_ready: bool = True, **changes: object) -> Daemon:
        daemon = start_daemon(port=port, upstream=upstream.url, **changes)
        if is_ready:
            until(lambda: daemon.client.get("/-/ready").status == 200)
        return daemon

    return start


@pytest.fixture
def shield(new_shield: Callable[..., Daemon], opencode: Opencode) -> Daemon:
    """A shield with the default settings."""
    return new_shield(opencode)


@pytest.fixture
def new_sdk(opencode: Opencode, tmp_path: Path) -> Iterator[Callable[..., Sdk]]:
    """Make clients of the SDK, in the project of `opencode` unless another one is named."""
    with contextlib.ExitStack() as stack:

        def start(url: str, directory: Path = opencode.project, **changes: str) -> Sdk:
            made = Sdk(url, directory, tmp_path / "sdk.err", **changes)
            stack.callback(made.close)
            return made

        yield start


@pytest.fixture
def sdk(new_sdk: Callable[..., Sdk], shield: Daemon) -> Sdk:
    """The SDK as a client of the shield."""
    return new_sdk(shield.url)
