"""Fixtures of the tests of what stands between the daemon and systemd."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.manager import Manager, abstract


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager that listens."""
    found = Manager(abstract(tmp_path))
    yield found
    found.close()
