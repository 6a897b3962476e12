"""Another program that has the log's file open."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Open `path` beside the log, and close it in the end. Nothing is waited for."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        yield db
