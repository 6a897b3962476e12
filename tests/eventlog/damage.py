"""What people and programs do to a log's files while a daemon has them open."""

import shutil
from collections.abc import Callable
from pathlib import Path

from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.eventlog.files import beside, files_of, other
from tests.samples import event

Damage = Callable[[Path], None]


def named(damage: Damage) -> str:
    return damage.__name__.replace("_", " ")


def make_log(path: Path) -> None:
    """Make a log that is closed, with an event of its own."""
    log = SqliteLog(path, EventLogSettings())
    log.append_nowait([[event(77)]])
    log.close()


def unlink(path: Path) -> None:
    path.unlink()


def unlink_wal(path: Path) -> None:
    beside(path, "-wal").unlink()


def unlink_shm(path: Path) -> None:
    beside(path, "-shm").unlink()


def rename(path: Path) -> None:
    path.rename(beside(path, ".old"))


def rename_back(path: Path) -> None:
    beside(path, ".old").rename(path)


def replace_by_a_copy(path: Path) -> None:
    shutil.copy(path, beside(path, ".copy"))
    beside(path, ".copy").rename(path)


def replace_by_another_log(path: Path) -> None:
    make_log(beside(path, ".new"))
    beside(path, ".new").rename(path)


def replace_by_another_with_its_wal(path: Path) -> None:
    """What it has is not home yet, as if it were open, or its process had been killed."""
    make_log(beside(path, ".new"))
    with other(beside(path, ".new")) as db:
        db.execute("UPDATE event SET id = 'evt_78'")
        copies = {suffix: beside(path, f".new{suffix}").read_bytes() for suffix in ("", "-wal")}
    beside(path, ".new").unlink()
    for file in files_of(path):
        file.unlink()
    for suffix, content in copies.items():
        beside(path, suffix).write_bytes(content)


def replace_wal(path: Path) -> None:
    wal = beside(path, "-wal")
    content = wal.read_bytes()
    wal.rename(beside(path, ".old"))
    wal.write_bytes(content)


def make_it_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def remove_the_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def rename_the_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def rename_the_directory_back(path: Path) -> None:
    path.parent.with_name("moved").rename(path.parent)


def truncate_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def cut_off_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def cut_off_a_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)


LOSSES = [
    unlink, unlink_wal, unlink_shm, rename, replace_by_a_copy, replace_by_another_log, replace_wal,
    replace_by_another_with_its_wal,     make_it_a_directory, remove_the_directory, rename_the_directory,
]  # fmt: skip
CUTS = [truncate_to_nothing, cut_off_a_byte, cut_off_a_page]
