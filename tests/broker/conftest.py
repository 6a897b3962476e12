"""What the tests of a running broker share: brokers on loops turned by hand, which must be running until the end."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opencode_events.eventlog.base import EventLog
from tests.broker.stepped import Run


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Start brokers. The argument is the log, keywords are settings."""
    runs: list[Run] = []

    def start(log: EventLog | None = None, **changes: Any) -> Run:
        runs.append(Run(log, **changes))
        return runs[-1]

    yield start
    for run in runs:
        run.end()
