"""A rescue that is killed between any two of its steps, or in which any step fails: the next start, or try, ends it."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opencode_events.errors import LogUnavailable
from opencode_events.eventlog import rescue
from opencode_events.eventlog.database import Database
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.eventlog.damage import (
    Damage,
    cut_off_a_byte,
    named,
    rename,
    rename_back,
    rename_the_directory,
    rename_the_directory_back,
    replace_by_another_log,
    replace_by_another_with_its_wal,
    unlink,
    unlink_wal,
)
from tests.eventlog.files import beside, content_of, files_of, inode_of, names_in
from tests.eventlog.steps import check, publish, put
from tests.samples import event

OpenFile = Callable[..., SqliteLog]

STEPS = [(Path, "replace"), (Path, "unlink"), (rescue, "_sync"), (Database, "close"), (rescue, "Database")]
DAMAGES = [unlink, unlink_wal, replace_by_another_log, replace_by_another_with_its_wal, cut_off_a_byte]


@contextlib.contextmanager
def before_each_step(act: Callable[[str], None]) -> Iterator[None]:
    """Call `act`, within the block, before each step of a rescue that changes something outside the process."""

    def stepping(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            act(name)
            return original(*arguments, **options)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, stepping(name, getattr(owner, name)))
        yield


@pytest.mark.parametrize("damage", DAMAGES, ids=named)
async def test_the_next_start_ends_what_was_killed_half_way(
    path: Path, log: SqliteLog, tmp_path: Path, damage: Damage
) -> None:
    """Until a copy is whole, the process's descriptors alone hold what was unlinked. From then on it is found."""
    before = await publish(log, range(6))
    damage(path)
    foreign = {inode_of(file): content_of(file) for file in files_of(path) if not log._database.is_own(file)}
    old = [inode_of(file) for file in files_of(path)]
    killed: list[Path] = []
    whole: list[Path] = []

    def copy(step: str) -> None:
        killed.append(tmp_path / f"{len(killed)}-{step}")
        shutil.copytree(path.parent, killed[-1], copy_function=copy_file)
        if beside(path, rescue.RESCUED).exists() or (path.exists() and inode_of(path) not in old):
            whole.append(killed[-1])

    def copy_file(source: str, target: str) -> None:
        """What is another's has its inode also in the copy: it is told by that."""
        if inode_of(Path(source)) in foreign:
            os.link(source, target)
        else:
            shutil.copyfile(source, target)

    with before_each_step(copy):
        await log.maintain()

    assert len(killed) >= 7
    assert whole == killed[-len(whole) :]
    assert len(whole) >= 4
    for left in whole:
        again = SqliteLog(left / path.name, EventLogSettings())
        await check(again, before)
        await put(again, [event(100)])
        again.close()
        asides = [left / name for name in names_in(left) if ".found-" in name]
        found = {inode_of(aside): content_of(aside) for aside in asides}
        assert found == foreign or not foreign  # its own may be there, too, if it did not come to remove them
        assert set(names_in(left)) == {path.name, *(aside.name for aside in asides)}


@pytest.mark.parametrize("damage", DAMAGES, ids=named)
async def test_whatever_step_fails_the_next_try_ends_it(path: Path, open_file: OpenFile, damage: Damage) -> None:
    log = open_file()
    made = await publish(log, range(6))
    failing_step = steps = 0
    while failing_step <= steps:
        failing_step, steps = failing_step + 1, 0

        def fail(name: str, at: int = failing_step) -> None:
            nonlocal steps
            steps += 1
            if steps == at and name != "close":
                raise OSError(f"no {name}")

        damage(path)
        with before_each_step(fail), contextlib.suppress(LogUnavailable):
            await log.maintain()
        await log.maintain()
        made += await publish(log, range(5 + failing_step, 6 + failing_step))
        await check(log, made)
        assert not [name for name in names_in(path.parent) if rescue.DRAFT in name]

    assert failing_step >= 10
    log.close()
    await check(open_file(), made)


async def test_a_file_that_is_put_back_too_late_is_moved_aside(path: Path, log: SqliteLog, open_file: OpenFile) -> None:
    """Its connections are closed by then, and the copy of it is what goes on."""
    made = await publish(log, range(6))

    def fail(name: str) -> None:
        if name == "replace" and log._database.is_closed:
            raise OSError("no replace")

    rename(path)
    with before_each_step(fail), pytest.raises(LogUnavailable, match="no replace"):
        await log.maintain()
    rename_back(path)
    await log.maintain()
    made += await publish(log, range(6, 9))

    await check(log, made)
    assert len([name for name in names_in(path.parent) if ".found-" in name]) == 1
    log.close()
    await check(open_file(), made)


async def test_a_directory_that_is_put_back_too_late_is_opened_as_it_is(path: Path, log: SqliteLog) -> None:
    """The copy went with the directory that was made for it."""
    made = await publish(log, range(6))

    def fail(name: str) -> None:
        if name == "replace" and log._database.is_closed:
            raise OSError("no replace")

    rename_the_directory(path)
    with before_each_step(fail), pytest.raises(LogUnavailable, match="no replace"):
        await log.maintain()
    shutil.rmtree(path.parent)
    rename_the_directory_back(path)
    await log.maintain()

    await check(log, made + await publish(log, range(6, 9)))
