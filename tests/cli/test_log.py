"""What `log` says of a log without a daemon, what it deletes, and the files that it leaves alone."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events.cli.exits import Exit
from opencode_events.cli.log import log
from opencode_events.cli.main import main
from opencode_events.errors import DaemonError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.retention import STEP_EVENTS
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from opencode_events.statedir import StateDir
from tests.cli import logs
from tests.cli.logs import NAME
from tests.samples import event, twin

DAY_S = 86_400.0
# On the file, whatever is in it.
COMMANDS = [["stat"], ["verify"], ["export"], ["trim", "--keep-events", "1"], ["vacuum"]]
READERS = [["stat"], ["stat", "--json"], ["verify"], ["export"], ["trim", "--keep-events", "1", "--dry-run"]]


def words(value: object) -> str | None:
    """Return the id of a list; other parameters have their own."""
    return " ".join(map(str, value)) or "nothing" if isinstance(value, list) else None


# --- stat


def test_what_is_in_a_log_is_told(runner: CliRunner, state_dir: Path) -> None:
    first = logs.start(state_dir, event(1), twin(1), event(2, directory="/srv/b"), event(3, directory=None))
    second = logs.start(state_dir, event(4), at_s=1_000_000_060.0)
    result = runner.invoke(main, ["log", "stat", "--json"])

    told = json.loads(result.stdout)
    size = (state_dir / NAME).stat().st_size
    assert {name: told.pop(name) for name in ("file_bytes", "used_bytes", "free_bytes")} == {
        "file_bytes": size,
        "used_bytes": size,
        "free_bytes": 0,
    }
    assert told == {
        "path": str(state_dir / NAME),
        "schema": 3,
        "wal_bytes": 0,
        "events": 5,
        "oldest": {"cursor": f"{first}-1", "stored_ms": 1_000_000_000_000},
        "newest": {"cursor": f"{second}-5", "stored_ms": 1_000_000_060_000},
        "directories": 2,
        "epochs": 2,
        "aggregates": 1,
    }


def test_a_person_reads_one_line_for_each_of_it(
    runner: CliRunner, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = logs.start(state_dir, *(event(number) for number in range(1234)))
    result = runner.invoke(main, ["log", "stat"])

    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["events"] == "1 234"
    assert lines["newest"].startswith(f"{epoch}-1234, 2001-09-0")
    assert result.exit_code == 0


def test_a_log_without_events_has_no_oldest(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir)
    result = runner.invoke(main, ["log", "stat"])

    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert (lines["events"], lines["oldest"], lines["newest"], lines["directories"]) == ("0", "none", "none", "0")


# --- files that are no log, and those that are left as they are


@pytest.mark.parametrize("command", COMMANDS, ids=words)
def test_where_there_is_no_log_none_is_made(runner: CliRunner, state_dir: Path, command: list[str]) -> None:
    result = runner.invoke(main, ["log", *command])

    assert (result.exit_code, result.output) == (1, f"error: there is no event log at {state_dir / NAME}\n")
    assert not state_dir.exists()


def make_newer(path: Path) -> None:
    logs.start(path.parent)
    logs.change(path.parent, "PRAGMA user_version = 4")


def make_foreign(path: Path) -> None:
    with logs.opened(path) as db:
        db.execute("CREATE TABLE t (a)")


UNUSABLE = {
    "newer": (make_newer, "has schema 4, made by a newer version; this one knows 3 at most"),
    "older": (
        lambda path: logs.make_schema_1(path, [event(1)]),
        "has schema 1, of an earlier version; a start of the daemon, or `log import`, migrates it to 3",
    ),
    "foreign": (make_foreign, "is another program's database"),
    "text": (lambda path: path.write_text("these are words, and no database\n" * 100), "file is not a database"),
    "empty": (lambda path: path.touch(), "is empty: no daemon has begun it yet"),
    "directory": (lambda path: path.mkdir(), "unable to open database file"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=words)
@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_file_that_is_no_log_of_ours_is_left_as_it_is(
    runner: CliRunner, state_dir: Path, command: list[str], kind: str
) -> None:
    state_dir.mkdir()
    make, says = UNUSABLE[kind]
    make(state_dir / NAME)
    before = logs.files(state_dir) if kind != "directory" else {}
    result = runner.invoke(main, ["log", *command])

    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert result.output.endswith(f"{says}\n")
    assert result.output.count("\n") == 1
    assert (logs.files(state_dir) if kind != "directory" else {}) == before


@pytest.mark.parametrize("command", [*COMMANDS, ["import", "-"]], ids=words)
def test_a_log_in_memory_has_no_file(runner: CliRunner, state_dir: Path, command: list[str]) -> None:
    result = runner.invoke(main, ["log", *command, "--log-path", ":memory:"])

    assert result.output == "error: log_path: :memory: has no file, and ends with its daemon\n"
    assert result.exit_code == Exit.USAGE


@pytest.mark.parametrize("command", READERS, ids=words)
def test_reading_a_log_that_nobody_has_open_changes_nothing(
    runner: CliRunner, state_dir: Path, command: list[str]
) -> None:
    logs.start(state_dir, event(1), twin(1), event(2))
    before = logs.files(state_dir)
    result = runner.invoke(main, ["log", *command])

    assert result.exit_code == 0
    assert logs.files(state_dir) == before


def test_what_a_killed_daemon_left_in_the_wal_is_read_and_left_there(runner: CliRunner, state_dir: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.cli import logs; from tests.samples import event\n"
        "from opencode_events.eventlog.sqlite import SqliteLog; from opencode_events.settings import EventLogSettings\n"
        "log = SqliteLog(Path(sys.argv[1]), EventLogSettings()); log.append_nowait([[event(1), event(2)]]); os._exit(9)"
    )
    state_dir.mkdir()
    subprocess.run([sys.executable, "-c", program, str(state_dir / NAME)], check=False, timeout=30)
    before = logs.files(state_dir)
    result = runner.invoke(main, ["log", "stat", "--json"])

    assert json.loads(result.stdout)["events"] == 2
    assert before[f"{NAME}-wal"][1]
    for name in (NAME, f"{NAME}-wal"):
        assert logs.files(state_dir)[name] == before[name]


def test_where_nobody_may_write_a_log_is_read_without_a_file_beside_it(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.start(state_dir, event(1))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a superuser may write everywhere but on such a disk
    with logfile.reading(state_dir / NAME) as db:
        assert logfile.head(db) == 1
        assert {path.name for path in state_dir.iterdir()} == {NAME, f"{NAME}.lock"}


def test_a_reader_cannot_write(state_dir: Path) -> None:
    logs.start(state_dir, event(1))
    with pytest.raises(DaemonError, match="cannot be read: attempt to write"), logfile.reading(state_dir / NAME) as db:
        db.execute("DELETE FROM event")


def test_ctrl_c_within_a_long_statement_is_ctrl_c(state_dir: Path) -> None:
    logs.start(state_dir, event(1))

    def check() -> None:
        with logfile.reading(state_dir / NAME) as db:
            db.set_progress_handler(lambda: signal.raise_signal(signal.SIGINT), 1)
            db.execute("PRAGMA integrity_check")

    with pytest.raises(KeyboardInterrupt):
        check()


def test_a_log_with_odd_characters_in_its_path_is_found(runner: CliRunner, tmp_path: Path) -> None:
    directory = tmp_path / "a b?c=d%20#é"
    logs.start(directory, event(1))
    result = runner.invoke(main, ["log", "stat", "--json", "--log-path", str(directory / NAME)])

    assert json.loads(result.stdout)["events"] == 1


@pytest.mark.parametrize("command", COMMANDS, ids=words)
def test_a_path_that_cannot_be_is_told(runner: CliRunner, command: list[str]) -> None:
    path = "/" + "x" * 300
    result = runner.invoke(main, ["log", *command, "--log-path", path])

    assert (result.exit_code, result.output) == (1, f"error: the event log {path} cannot be read: File name too long\n")


def test_a_log_whose_epochs_are_gone_is_told(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, event(1))
    logs.change(state_dir, "DELETE FROM epoch")
    result = runner.invoke(main, ["log", "stat"])

    assert result.output == "error: the event log has no epochs, so its events have no cursors\n"
    assert result.exit_code == 1


# --- trim


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (["--keep-events", "2"], [5, 6]),
        (["--keep-events", "0"], []),
        (["--keep-events", "6"], [1, 2, 3, 4, 5, 6]),
        (["--keep-events", "1000"], [1, 2, 3, 4, 5, 6]),
        (["--keep-days", "1.5"], [3, 4, 5, 6]),
        (["--keep-days", "0"], []),
        (["--keep-days", "1.5", "--keep-events", "5"], [3, 4, 5, 6]),
        (["--keep-days", "1.5", "--keep-events", "1"], [6]),
        (["--before", "3"], [3, 4, 5, 6]),
        (["--before", "1"], [1, 2, 3, 4, 5, 6]),
        (["--before", "3", "--keep-events", "2"], [5, 6]),
    ],
    ids=words,
)
@pytest.mark.parametrize("is_dry", [False, True], ids=["trimmed", "only told"])
def test_what_is_beyond_any_limit_goes(
    runner: CliRunner,
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: list[str],
    kept: list[int],
    is_dry: bool,
) -> None:
    epoch = logs.start(state_dir, event(1), event(2), at_s=10 * DAY_S)
    for first, at_s in ((3, 11 * DAY_S), (5, 12 * DAY_S)):
        latest = logs.start(state_dir, event(first), event(first + 1), at_s=at_s)
    monkeypatch.setattr("time.time", lambda: 12.25 * DAY_S)
    if "--before" in limits:
        place = limits.index("--before") + 1
        position = int(limits[place])
        with logfile.reading(state_dir / NAME) as db:
            limits = [*limits[:place], str(logfile.cursors(db).cursor(position)), *limits[place + 1 :]]
        assert epoch != latest
    result = runner.invoke(main, ["log", "trim", *limits, *["--dry-run"] * is_dry])

    gone = 6 - len(kept)
    assert result.output == (f"{gone} events would be deleted\n" if is_dry else f"{gone} events deleted\n")
    assert result.exit_code == 0
    assert logs.positions(state_dir) == ([1, 2, 3, 4, 5, 6] if is_dry else kept)


def test_many_events_go_in_steps(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, *(event(number, pad=10_000) for number in range(2 * STEP_EVENTS + 2)))
    result = runner.invoke(main, ["log", "trim", "--keep-events", "1"])

    assert result.output == f"{2 * STEP_EVENTS + 1} events deleted\n"
    assert logs.positions(state_dir) == [2 * STEP_EVENTS + 2]


def test_positions_of_a_log_that_was_trimmed_empty_are_not_given_away_again(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, event(1), event(2))
    runner.invoke(main, ["log", "trim", "--keep-events", "0"])
    logs.start(state_dir, event(3))

    assert logs.positions(state_dir) == [3]
    assert runner.invoke(main, ["log", "verify"]).exit_code == 0


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ([], "--keep-events, --keep-days or --before"),
        (["--dry-run"], "--keep-events, --keep-days or --before"),
        (["--keep-days", "1", "--before", "0123456789-1"], "--keep-days and --before exclude each other"),
        (["--keep-events", "-1"], "'--keep-events'"),
        (["--keep-days", "soon"], "'--keep-days'"),
        (["--keep-days", "-1"], "--keep-days: expects 0 to 100000, not -1.0"),
        (["--keep-days", "nan"], "--keep-days: expects 0 to 100000, not nan"),
        (["--keep-days", "1e300"], "--keep-days: expects 0 to 100000, not 1e+300"),
        (["--before", "yesterday"], "--before: 'yesterday' is no cursor of this log"),
        (["--before", "0123456789-1"], "--before: '0123456789-1' is no cursor of this log"),
    ],
    ids=words,
)
def test_limits_that_cannot_be_are_refused_by_their_name(
    runner: CliRunner, state_dir: Path, limits: list[str], says: str
) -> None:
    logs.start(state_dir, event(1), event(2))
    result = runner.invoke(main, ["log", "trim", *limits])

    assert says in result.output
    assert result.exit_code == 2
    assert logs.positions(state_dir) == [1, 2]


def test_a_log_that_somebody_else_writes_to_is_not_waited_for_for_ever(
    runner: CliRunner, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.start(state_dir, event(1), event(2))
    monkeypatch.setattr(logfile, "BUSY_S", 0.0)
    with logs.opened(state_dir / NAME) as db:
        db.execute("BEGIN IMMEDIATE")
        result = runner.invoke(main, ["log", "trim", "--keep-events", "1"])

    assert result.output == f"error: the event log {state_dir / NAME} cannot be written: database is locked\n"
    assert result.exit_code == 1


def test_a_daemon_that_starts_waits_for_a_step_of_a_trim(state_dir: Path) -> None:
    logs.start(state_dir, event(1))
    db = sqlite3.connect(state_dir / NAME, isolation_level=None, check_same_thread=False)
    db.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, db.execute, ["COMMIT"])
    timer.start()
    started = SqliteLog(state_dir / NAME, EventLogSettings())

    assert started.head == 1
    started.close()
    timer.join()
    db.close()


# --- vacuum


def test_the_room_of_deleted_events_is_given_back(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, *(event(number, pad=1000) for number in range(600)))
    before = (state_dir / NAME).stat().st_size
    runner.invoke(main, ["log", "trim", "--keep-events", "10"])
    assert (state_dir / NAME).stat().st_size == before
    result = runner.invoke(main, ["log", "vacuum"])

    after = (state_dir / NAME).stat().st_size
    assert after < before / 5
    assert result.output.replace(" ", "") == f"{before}bytesbefore,{after}after\n"
    assert logs.positions(state_dir) == list(range(591, 601))
    assert runner.invoke(main, ["log", "verify"]).exit_code == 0


def test_a_log_is_not_written_anew_beside_a_daemon(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, event(1))
    before = logs.files(state_dir)[NAME]
    with StateDir(state_dir):
        result = runner.invoke(main, ["log", "vacuum"])

        assert result.output == (
            f"error: a daemon runs on {state_dir}: its publishers would be refused for as long as this takes;"
            " stop it first\n"
        )
    assert result.exit_code == Exit.ALREADY_RUNNING
    assert logs.files(state_dir)[NAME] == before


# --- all of them


def test_every_command_of_the_log_has_help_and_says_where_the_log_is(runner: CliRunner) -> None:
    assert log.commands.keys() == {"stat", "trim", "export", "import", "verify", "vacuum"}
    for name in log.commands:
        result = runner.invoke(main, ["log", name, "--help"])

        assert result.exit_code == 0
        for option in ("--state-dir", "--log-path", "--config"):
            assert option in result.output


@pytest.mark.parametrize(
    ("command", "label"),
    [
        (["verify"], b"verifying"),
        (["trim", "--keep-events", "1"], b"trimming"),
        (["export", "/dev/null"], b"exporting"),
    ],
    ids=["verify", "trim", "export"],
)
def test_whoever_waits_at_a_terminal_sees_a_bar(state_dir: Path, command: list[str], label: bytes) -> None:
    logs.start(state_dir, event(1), event(2))
    terminal, end = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "opencode_events", "log", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=end, timeout=30, check=True,
        )  # fmt: skip
        shown = os.read(terminal, 65_536)
    finally:
        os.close(terminal)
        os.close(end)

    assert label in shown
    assert b"100%" in shown
    assert label not in done.stdout
