"""A disk that is full or may not be written, and pages that are damaged: told, survived, and over when the cause is."""

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opencode_events.errors import DaemonError, LogUnavailable
from opencode_events.eventlog import database
from opencode_events.eventlog.base import Appended
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings
from tests.eventlog.damage import unlink
from tests.eventlog.disks import Disk, may_write, own_directory, small_disk, unprivileged
from tests.eventlog.files import content_of, names_in, other, overwrite, size_of
from tests.eventlog.steps import EVERYTHING, check, history, publish, put, read_all, settle
from tests.samples import event, twin

NORMAL = EventLogSettings()
OpenFile = Callable[..., SqliteLog]

# --- a full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path) as disk:
        yield disk


async def publish_until_full(log: SqliteLog, *, pad: int) -> list[Event]:
    """Publish batches until one is refused, and again; return what was acknowledged."""
    made: list[Event] = []
    while True:
        number = log.head // 2
        batch = [event(number, pad=pad), twin(number, session="agg", seq=number)]
        try:
            await put(log, batch)
        except LogUnavailable:
            break
        made += batch
    head = log.head
    for _ in range(3):
        with pytest.raises(LogUnavailable):
            await put(log, batch)
    assert log.head == head
    return made


async def stored(log: SqliteLog) -> list[Event]:
    return [one.event for page in await read_all(log) for one in page.events]


@pytest.mark.parametrize("pad", [0, 50_000], ids=["small events", "large events"])
async def test_a_disk_that_fills_up_and_is_freed(disk: Disk, pad: int) -> None:
    path = disk.directory / "log"
    log = SqliteLog(path, NORMAL)
    made: list[Event] = []
    for times in range(1, 4):
        disk.fill(but=400_000)
        made += await publish_until_full(log, pad=pad)
        assert await stored(log) == made
        disk.free()
        assert await log.maintain() is False
        batch = [event(log.head // 2, pad=pad), twin(log.head // 2, session="agg", seq=log.head // 2)]
        assert log.append_nowait([batch]) == [Appended(len(made) + 1, batch, 0, log.epoch)]
        made += batch
        assert len(made) > 2 * times
    assert await stored(log) == made
    log.close()

    with other(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    again = SqliteLog(path, NORMAL)
    assert await stored(again) == made
    assert [row.seq for row in await history(again)] == list(range(len(made) // 2))
    again.close()


async def test_who_publishes_after_a_full_disk_needs_no_maintenance(disk: Disk) -> None:
    log = SqliteLog(disk.directory / "log", NORMAL)
    disk.fill(but=200_000)
    made = await publish_until_full(log, pad=1000)
    disk.free()
    batch = [event(log.head // 2), twin(log.head // 2, session="agg", seq=log.head // 2)]

    assert log.append_nowait([batch]) is None
    assert await log.append([batch]) == [Appended(len(made) + 1, batch, 0, log.epoch)]
    log.close()


async def test_a_log_that_fills_its_own_disk_goes_on_where_there_is_more(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint, too, needs room: the pages in the WAL come home when there is."""
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 1_000_000)
    log = SqliteLog(disk.directory / "log", NORMAL)
    disk.fill(but=3_000_000)
    made = await publish_until_full(log, pad=10_000)
    assert await stored(log) == made
    disk.free()
    for _ in range(100):
        batch = [event(log.head // 2, pad=10_000), twin(log.head // 2, session="agg", seq=log.head // 2)]
        await put(log, batch)
        made += batch

    assert await stored(log) == made
    log.close()


async def test_a_log_within_its_limit_never_fills_its_disk(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_BYTES", 1_000_000)
    log = SqliteLog(disk.directory / "log", EventLogSettings(log_max_bytes=2 * 1024 * 1024))
    for number in range(1500):  # 15 MB
        await put(log, [event(number, pad=10_000)])
        if number % 20 == 0:
            await settle(log)

    assert log.oldest > 1000
    log.close()


async def test_a_file_that_is_removed_on_a_full_disk_is_rescued_when_there_is_room(disk: Disk) -> None:
    path = disk.directory / "log"
    log = SqliteLog(path, NORMAL)
    before = await publish(log, range(100))
    disk.fill(but=100_000)
    unlink(path)
    for _ in range(3):
        with pytest.raises(LogUnavailable, match="full"):
            await put(log, [event(1000)])
        with pytest.raises(LogUnavailable, match="full"):
            await log.maintain()
        assert await stored(log) == before
        assert names_in(disk.directory) == ["ballast", "log-shm", "log-wal"]
    disk.free()
    await log.maintain()

    assert log.append_nowait([[event(1000)]]) == [Appended(201, [event(1000)], 0, log.epoch)]
    await check(log, [*before, event(1000)])
    log.close()


def test_a_start_on_a_full_disk_says_so(disk: Disk) -> None:
    path = disk.directory / "log"
    disk.fill()
    with pytest.raises(DaemonError, match="cannot be opened: database or disk is full"):
        SqliteLog(path, NORMAL)
    disk.free()
    log = SqliteLog(path, NORMAL)
    log.append_nowait([[event(1)]])
    log.close()
    disk.fill()
    with pytest.raises(DaemonError, match=r"cannot be opened: (database or disk is full|disk I/O error)"):
        SqliteLog(path, NORMAL)
    disk.free()

    log = SqliteLog(path, NORMAL)
    assert log.head == 1
    log.close()


# --- no right to write


@pytest.fixture
def directory() -> Iterator[Path]:
    with own_directory() as directory:
        yield directory


@pytest.mark.parametrize("what", ["the directory", "the file"])
def test_a_start_where_nothing_may_be_written_says_so(directory: Path, what: str) -> None:
    path = directory / "log"
    with unprivileged():
        SqliteLog(path, NORMAL).close()
        may_write(directory if what == "the directory" else path, False)
        before = content_of(path)
        with pytest.raises(DaemonError, match=f"{path} cannot be opened: "):
            SqliteLog(path, NORMAL)

    assert content_of(path) == before


async def test_a_directory_that_may_no_longer_be_written_is_no_trouble_while_the_files_are_open(
    directory: Path,
) -> None:
    with unprivileged():
        log = SqliteLog(directory / "log", NORMAL)
        before = await publish(log, range(5))
        may_write(directory, False)
        after = await publish(log, range(5, 10))
        await check(log, before + after)
        may_write(directory, True)
        log.close()


async def test_without_the_right_to_write_a_rescue_is_tried_again_until_there_is(directory: Path) -> None:
    path = directory / "log"
    with unprivileged():
        log = SqliteLog(path, NORMAL)
        before = await publish(log, range(5))
        unlink(path)
        may_write(directory, False)
        for _ in range(3):
            with pytest.raises(LogUnavailable, match="unable to open database"):
                await put(log, [event(1000)])
            with pytest.raises(LogUnavailable, match="unable to open database"):
                await log.maintain()
            assert await stored(log) == before
        may_write(directory, True)
        assert await put(log, [event(1000)]) == [Appended(11, [event(1000)], 0, log.epoch)]
        await check(log, [*before, event(1000)])
        log.close()


# --- damaged pages


@settings(max_examples=25, deadline=None)
@given(data=st.data(), content=st.sampled_from(["zeros", "ones", "noise"]), pad=st.sampled_from([0, 300, 9000]))
async def test_a_damaged_page_crashes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, content: str, pad: int
) -> None:
    """Everything works, or says that it does not; what is read is what was written."""
    path = tmp_path_factory.mktemp("damaged") / "log"
    log = SqliteLog(path, NORMAL)
    made: list[Event] = []
    for number in range(60):
        made += [event(number, pad=pad), twin(number, seq=number)]
        await put(log, made[-2:])
    log.close()
    log = SqliteLog(path, NORMAL)
    pages = size_of(path) // 4096
    page = data.draw(st.integers(0, pages - 1))
    garbage = {"zeros": bytes(4096), "ones": b"\xff" * 4096, "noise": random.Random(page).randbytes(4096)}[content]
    overwrite(path, [page], garbage)

    for query in (EVERYTHING, EVERYTHING._replace(directory="/srv/a"), EVERYTHING._replace(matches=lambda one: True)):
        with contextlib.suppress(LogUnavailable):
            for one in (await log.read(0, log.head, query)).events:
                assert one.event == made[one.position - 1] or content == "noise"
    with contextlib.suppress(LogUnavailable):
        await history(log)
    for batch in ([event(1000)], [event(1001), twin(1001, seq=60)], [event(0)]):
        with contextlib.suppress(LogUnavailable):
            await put(log, batch)
        with contextlib.suppress(LogUnavailable):
            await log.maintain()
    assert not log._database.writer.in_transaction
    log.close()
    with contextlib.suppress(DaemonError):
        SqliteLog(path, NORMAL).close()
    shutil.rmtree(path.parent)


async def test_a_damaged_table_is_told_to_who_reads_and_to_who_publishes(path: Path, open_file: OpenFile) -> None:
    log = open_file()
    await publish(log, range(60))
    log.close()
    log = open_file()
    overwrite(path, range(1, size_of(path) // 4096), bytes(4096))

    with pytest.raises(LogUnavailable, match="malformed"):
        await log.read(0, log.head, EVERYTHING)
    with pytest.raises(LogUnavailable, match="malformed"):
        await history(log)
    with pytest.raises(LogUnavailable, match="malformed"):
        await put(log, [twin(5000, session="new", seq=60)])
    assert log.head == 120
