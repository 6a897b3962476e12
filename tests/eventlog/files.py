"""A log's files, seen from outside: another program that has them open, copies of them, and damage to them."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Open `path` beside the log, and close it in the end. Nothing is waited for."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as db:
        yield db


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def files_of(path: Path) -> list[Path]:
    """Return the files that are there of a log's."""
    return [file for suffix in ("", "-wal", "-shm") if (file := beside(path, suffix)).exists()]


def copy_of(path: Path, directory: Path) -> Path:
    """Copy the files of an open log, as a process that is killed would leave them."""
    directory.mkdir()
    for file in files_of(path):
        (directory / file.name).write_bytes(file.read_bytes())
    return directory / path.name


def deny(db: sqlite3.Connection, pragma: str | None) -> None:
    """Have a connection fail at a pragma; None lets it do everything again."""

    def authorize(action: int, name: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_PRAGMA and name == pragma else sqlite3.SQLITE_OK

    db.set_authorizer(None if pragma is None else authorize)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


def names_in(directory: Path) -> list[str]:
    """Return what is there but for locks, which stay, and say nothing of a log."""
    return sorted(file.name for file in directory.iterdir() if file.suffix != ".lock")


def inode_of(path: Path) -> int:
    return path.stat().st_ino


def size_of(path: Path) -> int:
    return path.stat().st_size


def overwrite(path: Path, pages: Iterable[int], content: bytes) -> None:
    """Write a page's content over some pages, the first of which is 0."""
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * len(content))
            file.write(content)
