"""A log's file, and what opens it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.eventlog.steps import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "events.sqlite3"


@pytest.fixture
def open_file(path: Path, clock: Clock) -> Iterator[Callable[..., SqliteLog]]:
    """Open the log at `path`; the last one is closed in the end. Keywords are settings."""
    with contextlib.ExitStack() as stack:

        def opened(**changes: Any) -> SqliteLog:
            log = SqliteLog(path, EventLogSettings(**changes), clock=clock)
            stack.callback(log.close)
            return log

        yield opened


@pytest.fixture
def log(open_file: Callable[..., SqliteLog]) -> SqliteLog:
    return open_file()
