"""What happens while events are published and read and the log cannot be written, or not be read: the disk is full, the
file is locked, the directory is read-only, a page is damaged.

Nothing acknowledged is lost, who listens notices nothing but a pause, and it recovers by itself.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.clients import envelope, until
from tests.e2e.disks import fill, mounted
from tests.e2e.ledger import read_log
from tests.e2e.scene import Scene, is_ready, is_unavailable, publish, wait_unready
from tests.servers import Daemon

StartDaemon = Callable[..., Daemon]

# --- no room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The state directory, on a disk of 8 MiB."""
    with mounted(tmp_path / "state") as path:
        yield path


def test_a_full_disk_is_told_serves_who_listens_and_takes_again_when_there_is_room(disk: Path, scene: Scene) -> None:
    scene.go_on()
    witness = scene.client.subscribe("/global/event?types=nothing")

    fill(disk / "ballast")
    until(lambda: is_unavailable(publish(scene.client, "big", 200_000), "full"))
    wait_unready(scene.client, "full")
    assert [frame.type for frame in witness.frames(3)] == ["server.heartbeat"] * 3
    rows = read_log(scene.log)
    replayed = scene.client.subscribe("/global/event?after=earliest").events(len(rows))
    assert [(frame.id, frame.data) for frame in replayed] == [(row.cursor, row.envelope) for row in rows]
    until(lambda: scene.ledger.refusals)

    (disk / "ballast").unlink()
    until(lambda: is_ready(scene.client))
    assert publish(scene.client, "big", 200_000).status == 200
    scene.go_on()

    assert witness.ended is None
    assert scene.said("eventlog.failed") >= scene.said("eventlog.recovered") > 0
    scene.end()


def test_on_a_full_disk_it_does_not_claim_to_be_ready(disk: Path, start_daemon: StartDaemon) -> None:
    """That a few bytes would still fit is no sign that it is well."""
    daemon = start_daemon(heartbeat_s=0.2)
    client = daemon.client
    witness = client.subscribe("/global/event?types=nothing")
    fill(disk / "ballast")
    until(lambda: is_unavailable(publish(client, os.urandom(4).hex(), 20_000), "full"))

    for _ in range(15):  # 3 s: it looks once a second
        assert not is_ready(client)
        assert witness.frame().type == "server.heartbeat"


def test_a_log_that_is_limited_to_a_part_of_a_small_disk_never_fills_it(disk: Path, start_daemon: StartDaemon) -> None:
    """What is written before it is in its place needs room as well."""
    daemon = start_daemon(log_max_bytes=1024 * 1024)
    last = ""

    for number in range(40):
        last = daemon.client.publish(*(envelope(f"{number}_{each}", pad="x" * 1_000) for each in range(500)))["last"]
        until(lambda: daemon.client.status()["log"]["events"] < 1_500)

    daemon.kill()
    daemon = start_daemon()
    resumed = daemon.client.subscribe("/global/event", f"Last-Event-ID: {last}")
    assert resumed.connected is not None
    assert resumed.connected.properties["resumed"] is True


def test_a_log_that_is_removed_from_a_full_disk_waits_for_room(disk: Path, scene: Scene) -> None:
    """A copy of everything needs as much again."""
    scene.go_on(1_000)
    fill(disk / "ballast")
    scene.log.unlink()

    until(lambda: is_unavailable(publish(scene.client, os.urandom(4).hex()), "full"))
    wait_unready(scene.client, "full")
    assert len(scene.client.subscribe("/global/event?after=earliest").events(1_000)) == 1_000
    assert scene.said("eventlog.rescued") == 0

    (disk / "ballast").unlink()
    until(lambda: is_ready(scene.client))
    assert scene.said("eventlog.rescued") == 1
    scene.go_on()
    scene.end()


def test_a_start_on_a_full_disk_says_so_and_succeeds_when_there_is_room(disk: Path, start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    last = daemon.client.publish(*(envelope(number, pad="x" * 1_000) for number in range(1_000)))["last"]
    fill(disk / "ballast")
    daemon.kill()

    with pytest.raises(AssertionError) as refused:
        start_daemon()
    assert "Traceback" not in str(refused.value)
    assert "No space left on device" in str(refused.value) or "disk is full" in str(refused.value)

    (disk / "ballast").unlink()
    again = start_daemon()
    frames = again.client.subscribe("/global/event?after=earliest").events(1_000)
    assert [frame.event for frame in frames] == [f"evt_{number}" for number in range(1_000)]
    assert frames[-1].id == last


# --- somebody else's lock


def test_a_log_that_is_locked_for_long_is_told_and_taken_again(scene: Scene) -> None:
    scene.go_on()

    with closing(sqlite3.connect(scene.log, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        until(lambda: is_unavailable(publish(scene.client, os.urandom(4).hex()), "locked"))
        wait_unready(scene.client, "locked")
        (count,) = other.execute("SELECT count(*) FROM event").fetchone()
        assert len(scene.client.subscribe("/global/event?after=earliest").events(count)) == count
        other.execute("ROLLBACK")

    until(lambda: is_ready(scene.client))
    scene.go_on()
    scene.end()


def test_a_log_that_is_locked_for_a_moment_is_waited_for(scene: Scene) -> None:

    with closing(sqlite3.connect(scene.log, isolation_level=None)) as other:
        for _ in range(5):
            scene.go_on(50)
            other.execute("BEGIN EXCLUSIVE")
            before = len(scene.ledger)
            for _ in range(5):
                assert scene.client.get("/-/healthy").status == 200
            other.execute("ROLLBACK")
            until(lambda before=before: len(scene.ledger) > before)  # type: ignore[misc]

    assert scene.ledger.refusals == 0
    assert is_ready(scene.client)
    scene.end()


# --- directories that cannot be written


def test_a_read_only_disk_over_the_directory_is_told_and_nothing_is_lost(scene: Scene) -> None:
    scene.go_on()

    with mounted(scene.daemon.state_dir, options="ro"):
        until(lambda: is_unavailable(publish(scene.client, os.urandom(4).hex()), "Read-only file system"))
        wait_unready(scene.client, "Read-only file system")

    until(lambda: is_ready(scene.client))
    scene.go_on()
    scene.end()


def test_a_directory_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with mounted(tmp_path / "state", options="ro") as path, pytest.raises(AssertionError) as refused:
        Daemon(path)
    (line,) = str(refused.value).splitlines()[:1]
    assert f"the state directory {path} cannot be used: Read-only file system" in line
    assert "Traceback" not in str(refused.value)


def test_a_log_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with mounted(tmp_path / "log", options="ro") as path, pytest.raises(AssertionError) as refused:
        Daemon(tmp_path / "state", log_path=path / "events.sqlite3")
    assert f"the event log {path / 'events.sqlite3'} cannot be opened: " in str(refused.value)
    assert "Traceback" not in str(refused.value)


# --- damage


def test_who_waits_for_what_cannot_be_read_is_told_of_by_ready_and_hurts_nobody(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(heartbeat_s=0.2)
    for start in range(0, 5_000, 500):
        daemon.client.publish(*(envelope(number, pad="x" * 500) for number in range(start, start + 500)))
    daemon.stop()
    content = bytearray(daemon.log_path.read_bytes())
    page = content.index(b'"id":"evt_2500"') // 4096 * 4096
    content[page : page + 4096] = b"\xa5" * 4096
    daemon.log_path.write_bytes(content)

    daemon = start_daemon(heartbeat_s=0.2)
    waiting = daemon.client.subscribe("/global/event?after=earliest")
    live = daemon.client.subscribe()
    read = waiting.events(2_000)
    wait_unready(daemon.client, "the event log cannot be read: database disk image is malformed")

    assert [frame.event for frame in read] == [f"evt_{number}" for number in range(2_000)]
    assert publish(daemon.client, "live").status == 200
    assert live.events(1)[0].event == "evt_live"
    waiting.close()
    until(lambda: is_ready(daemon.client))
