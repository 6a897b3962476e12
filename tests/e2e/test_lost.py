"""What happens when the log's files go while events are published and read: removed, moved, replaced by others.

SQLite does not notice, and would go on committing into nowhere. Nothing acknowledged is lost, and who listens notices
nothing but a pause.
"""

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.clients import dumps, envelope, until
from tests.e2e.ledger import read_log
from tests.e2e.scene import Scene, is_ready
from tests.servers import Daemon

StartDaemon = Callable[..., Daemon]


def remove(log: Path) -> None:
    log.unlink()


def remove_all(log: Path) -> None:
    """Remove what is in the state directory, as a thorough person does."""
    for path in log.parent.iterdir():
        path.unlink(missing_ok=True)  # it may have noticed, and be at work


def remove_directory(log: Path) -> None:
    gone = log.parent.rename(log.parent.with_name("gone"))
    shutil.rmtree(gone)


def remove_wal(log: Path) -> None:
    log.with_name(f"{log.name}-wal").unlink()


def remove_shm(log: Path) -> None:
    log.with_name(f"{log.name}-shm").unlink()


def move_away(log: Path) -> None:
    log.rename(log.with_name("elsewhere"))


def replace_by_nothing(log: Path) -> None:
    empty = log.with_name("empty")
    empty.touch()
    empty.rename(log)


def replace_by_text(log: Path) -> None:
    text = log.with_name("text")
    text.write_text("not a database\n" * 1_000)
    text.rename(log)


def replace_by_copy(log: Path) -> None:
    """Put a copy there, as one who restores a backup does: it has a part of what is in the log."""
    copy = log.with_name("copy")
    shutil.copyfile(log, copy)
    copy.rename(log)


def replace_by_other(log: Path) -> None:
    """Put another program's database there."""
    other = log.with_name("other")
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE things (name)")
        db.commit()
    other.rename(log)


@pytest.mark.parametrize(
    "harm",
    [
        remove,
        remove_all,
        remove_directory,
        remove_wal,
        remove_shm,
        move_away,
        replace_by_nothing,
        replace_by_text,
        replace_by_copy,
        replace_by_other,
    ],
)
def test_a_file_that_goes_is_noticed_and_all_that_was_in_it_comes_back(
    scene: Scene, harm: Callable[[Path], None]
) -> None:
    """Twice, and then the daemon is killed."""
    for _ in range(2):
        scene.go_on()
        before = scene.said("eventlog.rescued")
        harm(scene.log)
        until(lambda before=before: scene.said("eventlog.rescued") > before)  # type: ignore[misc]
        scene.go_on()

    assert is_ready(scene.client)
    assert not any(line.get("unreadable_events") for line in scene.daemon.lines())
    scene.end()


def test_what_somebody_put_there_is_kept_aside(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.client.publish(envelope(1))

    replace_by_text(daemon.log_path)
    text = daemon.log_path.read_text()
    daemon.client.publish(envelope(2))

    (found,) = daemon.state_dir.glob("events.sqlite3.found-*")
    assert found.read_text() == text
    assert [row.key[0] for row in read_log(daemon.log_path)] == ["evt_1", "evt_2"]


def test_a_daemon_that_is_killed_in_the_middle_of_a_rescue_ends_it_when_it_starts(start_daemon: StartDaemon) -> None:
    """At whatever step: it is killed after longer and longer."""
    daemon, acknowledged = start_daemon(), 0
    for times in range(8):
        receipt = daemon.client.publish(*(envelope(f"{times}_{number}", pad="x" * 500) for number in range(2_000)))
        acknowledged += receipt["accepted"]
        replace_by_copy_of_all(daemon.log_path)
        body = dumps(envelope(f"late{times}"))  # what it has to make room for in the log
        length = f"Content-Length: {len(body)}"
        head = daemon.client.request("/global/event", "Content-Type: application/json", length, method="POST")
        daemon.client.connect().sendall(head + body)
        time.sleep(times * 0.005)
        daemon.kill()
        daemon = start_daemon()
        found = {row.key[0] for row in read_log(daemon.log_path)}
        assert len([name for name in found if "late" not in name]) == acknowledged


def replace_by_copy_of_all(log: Path) -> None:
    """Put another file there that has everything, so that whichever of the two is taken has nothing less."""
    copy = log.with_name("copy")
    with closing(sqlite3.connect(log)) as db:
        db.execute("VACUUM INTO ?", (str(copy),))
    copy.rename(log)
    for suffix in ("-wal", "-shm"):
        log.with_name(log.name + suffix).unlink(missing_ok=True)
