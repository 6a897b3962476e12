"""One daemon to a directory; a killed one leaves nothing that is believed."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from opencode_events import statedir
from opencode_events.errors import DaemonError
from opencode_events.statedir import DaemonInfo, StateDir

HOLD = """
import sys, pathlib
from opencode_events.statedir import StateDir
with StateDir(pathlib.Path(sys.argv[1])) as state:
    state.announce("http://127.0.0.1:1", "0")
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that has `path` until it is killed, or its standard input ends."""
    root = Path(statedir.__file__).parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    child.communicate(b"", timeout=10)


def test_the_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "state"

    with StateDir(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    with StateDir(tmp_path):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_daemon_json_is_there_from_the_announcement_to_the_end(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        assert statedir.read(tmp_path) is None
        assert statedir.is_held(tmp_path)

        state.announce("http://127.0.0.1:4097", "1.2.3")

        written = json.loads((tmp_path / "daemon.json").read_text())
        assert written == {"pid": os.getpid(), "url": "http://127.0.0.1:4097", "version": "1.2.3"}
        assert statedir.read(tmp_path) == DaemonInfo(os.getpid(), "http://127.0.0.1:4097", "1.2.3")

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["daemon.lock"]
    assert statedir.read(tmp_path) is None
    assert not statedir.is_held(tmp_path)


def test_daemon_json_goes_when_the_block_raises(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with contextlib.suppress(RuntimeError), state:
        state.announce("http://127.0.0.1:4097", "1.2.3")
        raise RuntimeError

    assert not (tmp_path / "daemon.json").exists()
    assert not statedir.is_held(tmp_path)


def test_a_second_daemon_is_refused_and_told_who_has_the_directory(tmp_path: Path) -> None:
    with StateDir(tmp_path) as state:
        state.announce("http://127.0.0.1:4097", "1.2.3")

        with pytest.raises(DaemonError, match=r"http://127\.0\.0\.1:4097") as refused, StateDir(tmp_path):
            pass

        assert refused.value.exit_code == 3
        assert str(os.getpid()) in str(refused.value)
        assert statedir.read(tmp_path) is not None, "the refused one leaves the other's file alone"


def test_a_second_daemon_is_refused_before_the_first_has_announced_itself(tmp_path: Path) -> None:
    with (
        StateDir(tmp_path),
        pytest.raises(DaemonError, match=f"pid {os.getpid()} .*not answering yet"),
        StateDir(tmp_path),
    ):
        pass


def test_an_onlooker_never_makes_a_starting_daemon_fail(tmp_path: Path) -> None:
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            statedir.is_held(tmp_path)

    onlooker = threading.Thread(target=look)
    onlooker.start()
    try:
        for _ in range(50):
            with StateDir(tmp_path):
                pass
    finally:
        over.set()
        onlooker.join()


def test_a_killed_daemons_file_is_stale_though_it_names_a_live_process(tmp_path: Path) -> None:
    info = {"pid": os.getppid(), "url": "http://127.0.0.1:4097", "version": "1"}
    (tmp_path / "daemon.json").write_text(json.dumps(info))

    assert statedir.read(tmp_path) is None
    assert statedir.holder_pid(tmp_path) is None
    assert statedir.remove_stale(tmp_path)
    assert not (tmp_path / "daemon.json").exists()
    assert not statedir.remove_stale(tmp_path)


def test_a_killed_process_leaves_a_free_lock(tmp_path: Path) -> None:
    child = hold(tmp_path)
    assert statedir.read(tmp_path) == DaemonInfo(child.pid, "http://127.0.0.1:1", "0")
    assert statedir.holder_pid(tmp_path) == child.pid
    assert not statedir.remove_stale(tmp_path), "a live daemon's file is not stale"

    child.send_signal(signal.SIGKILL)
    end(child)

    assert (tmp_path / "daemon.json").exists()
    assert statedir.read(tmp_path) is None
    with StateDir(tmp_path):
        assert not (tmp_path / "daemon.json").exists(), "the next daemon does not answer at the old one's url"


def test_the_lock_does_not_pass_to_a_child_process(tmp_path: Path) -> None:
    with StateDir(tmp_path):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert child.stdout is not None
        child.stdout.readline()

    try:
        assert not statedir.is_held(tmp_path)
    finally:
        child.communicate(b"\n", timeout=10)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"pid": "1", "url": "u", "version": "v"}', "\udcff"],
    ids=["empty", "cut short", "a list", "no keys", "wrong type", "not utf-8"],
)
def test_a_file_that_is_not_ours_to_understand_is_nobodys(tmp_path: Path, text: str) -> None:
    with StateDir(tmp_path):
        (tmp_path / "daemon.json").write_bytes(text.encode(errors="surrogateescape"))

        assert statedir.read(tmp_path) is None


def test_keys_that_a_later_version_adds_do_no_harm(tmp_path: Path) -> None:
    with StateDir(tmp_path):
        (tmp_path / "daemon.json").write_text('{"pid": 1, "url": "u", "version": "v", "more": 1}')

        assert statedir.read(tmp_path) == DaemonInfo(1, "u", "v")


def test_a_directory_that_does_not_exist_has_no_daemon(tmp_path: Path) -> None:
    assert statedir.read(tmp_path / "absent") is None
    assert not statedir.is_held(tmp_path / "absent")
    assert not statedir.remove_stale(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_file_in_the_directorys_place_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")

    with pytest.raises(DaemonError, match="cannot be used: File exists") as refused, StateDir(path):
        pass

    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 1
    with pytest.raises(DaemonError, match="Not a directory"):
        statedir.read(path)


def test_a_place_where_even_root_may_not_write_is_told_in_one_line() -> None:
    with pytest.raises(DaemonError, match="cannot be used") as refused, StateDir(Path("/proc/self/state")):
        pass

    assert "\n" not in str(refused.value)


def test_a_directory_that_was_removed_and_taken_by_another_keeps_the_others_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateDir(path) as state:
        state.announce("http://127.0.0.1:4097", "1")
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()
        child = hold(path)

    assert statedir.read(path) == DaemonInfo(child.pid, "http://127.0.0.1:1", "0")
    end(child)
    assert statedir.read(path) is None


def test_a_directory_that_is_gone_cannot_be_announced_in(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateDir(path) as state:
        (path / "daemon.lock").unlink()
        path.rmdir()

        with pytest.raises(DaemonError, match="cannot be used: No such file"):
            state.announce("http://127.0.0.1:4097", "1")


def test_leaving_a_directory_that_is_gone_is_quiet(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with StateDir(path) as state:
        state.announce("http://127.0.0.1:4097", "1")
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()

    assert not path.exists()


@pytest.mark.parametrize(
    ("said", "expected"),
    [("30", 30.0), ("0", 0.0), ("-1", None), ("inf", None), ("nan", None), ("soon", None), ("", None)],
)
def test_how_long_subscribers_have_is_a_number_of_seconds_or_was_not_said(
    tmp_path: Path, said: str, expected: float | None
) -> None:
    with StateDir(tmp_path) as state:
        (tmp_path / statedir.DRAIN_NAME).write_text(f"{os.getpid()} {said}\n")
        assert state.asked_drain_s() == expected
