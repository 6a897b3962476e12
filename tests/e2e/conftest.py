"""Fixtures of the tests from end to end."""

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.scene import Scene
from tests.servers import Daemon


@pytest.fixture
def scene(start_daemon: Callable[..., Daemon]) -> Iterator[Scene]:
    """A scene that has begun."""
    with Scene(start_daemon) as begun:
        yield begun
