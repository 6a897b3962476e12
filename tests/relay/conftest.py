"""What tests of the relay share: shields before upstreams, on each loop."""

from collections.abc import Callable, Iterator

import pytest

from tests.relay.shield import Shield, Upstream, stack
from tests.servers import LOOPS


@pytest.fixture(params=LOOPS)
def shielded(request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[Upstream, Shield]]]:
    """Start an upstream and a shield before it. Keywords are those of `stack`."""
    with stack(request.param) as start:
        yield start
