"""What tests of the relay share: an upstream for it, what is logged, no waiting between tries, shields on each loop."""

from collections.abc import AsyncIterator, Iterator

import pytest
from structlog.testing import capture_logs

from opencode_events.relay import patience, refill
from tests.relay.fake_upstream import FakeUpstream
from tests.relay.shield import Start, stack
from tests.relay.stage import Lines
from tests.servers import LOOPS


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what failed be tried again at once."""
    for module in (refill, patience):
        monkeypatch.setattr(module, "RETRY_S", 0.01)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What is logged."""
    with capture_logs() as found:
        yield found


@pytest.fixture
async def fake() -> AsyncIterator[FakeUpstream]:
    """An upstream that has just come up, and has no past."""
    async with FakeUpstream() as started:
        yield started


@pytest.fixture(params=LOOPS)
def shielded(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Start an upstream and a shield before it. Keywords are those of `stack`."""
    with stack(request.param) as start:
        yield start
