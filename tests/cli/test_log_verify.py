"""Logs that are damaged in every way that `log verify` knows, and those that only look odd."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events.cli.main import main
from opencode_events.cursor import Cursor
from opencode_events.eventlog import audit, logfile
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import EventLogSettings
from tests.cli import logs
from tests.cli.logs import NAME
from tests.samples import event, make, recorded, twin


def verify(runner: CliRunner) -> list[str]:
    """Return what is found, without the last line, which tells how much."""
    result = runner.invoke(main, ["log", "verify"])
    *found, last = result.stdout.splitlines()
    assert result.stderr == ""
    assert result.exit_code == (1 if found else 0)
    assert last.endswith(f" events looked at, {len(found) or 'nothing'} found")
    return found


@pytest.fixture
def log(state_dir: Path) -> Path:
    """A log of two starts with six events, 4 to 6 of the second one."""
    logs.start(state_dir, event(1), twin(1, session="ses_1"), twin(2, session="ses_1", seq=1))
    logs.start(state_dir, event(4), twin(4, session="ses_2", seq=7), event(5, directory=None, workspace="w"))
    return state_dir


def test_in_a_sound_log_nothing_is_found(runner: CliRunner, log: Path) -> None:
    result = runner.invoke(main, ["log", "verify"])

    assert (result.exit_code, result.output) == (0, "6 events looked at, nothing found\n")


def test_a_recording_of_a_real_server_is_found_sound(runner: CliRunner, state_dir: Path) -> None:
    lines = logs.acceptable(recorded())
    logs.start(state_dir, *(make(line) for line in lines))
    result = runner.invoke(main, ["log", "verify", "--json"])

    told = {"path": str(state_dir / NAME), "events": len(lines), "found": 0, "findings": []}
    assert json.loads(result.stdout) == told


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM event WHERE position IN (4, 5)", ["the events at 4 to 5 are missing"]),
        ("UPDATE mark SET value = 8", ["the events at 7 to 8 are missing"]),
        (
            "UPDATE event SET envelope = x'7b7d' WHERE position = 4",
            ["the event at 4: its envelope is no event: payload: Object missing required field `payload`"],
        ),
        (
            "UPDATE event SET envelope = x'7b22' WHERE position = 4",
            ["the event at 4: its envelope is no event: the text: Input data was truncated"],
        ),
        (
            "UPDATE event SET envelope = CAST(replace(envelope, 'session.idle', 'server.connected') AS BLOB)",
            [f"the event at {position}: it is a server's own frame" for position in (1, 4, 6)],
        ),
        (
            "UPDATE event SET payload_end = payload_end - 1 WHERE position = 4",
            ["the event at 4: its payload is not where the row says"],
        ),
        (
            "UPDATE event SET payload_end = 100000 WHERE position = 4",
            ["the event at 4: its payload is not where the row says"],
        ),
        (
            "UPDATE event SET payload_start = -1 WHERE position = 4",
            ["the event at 4: its payload is not where the row says"],
        ),
        (
            "UPDATE event SET directory = '/srv/b', session = NULL WHERE position = 4",
            ["the event at 4: row and envelope differ in directory, session"],
        ),
        (
            "UPDATE event SET id = 'evt_x', type = 'x' WHERE position = 4",
            ["the event at 4: row and envelope differ in id, type"],
        ),
        (
            "UPDATE event SET workspace = 'v' WHERE position = 6",
            ["the event at 6: row and envelope differ in workspace"],
        ),
        (
            "UPDATE event SET seq = 2 WHERE position = 3",
            [
                "the sync events of ses_1 are 0 to 2, but were counted as 0 to 1",
                "the event at 3: row and envelope differ in seq",
            ],
        ),
        (
            "DELETE FROM aggregate WHERE id = 'ses_2'",
            ["the sync events of ses_2 are 7 to 7, but were not counted"],
        ),
        (
            "UPDATE aggregate SET last = 2 WHERE id = 'ses_1'",
            ["the sync events of ses_1 are 0 to 1, but were counted as 0 to 2"],
        ),
        (
            "UPDATE aggregate SET first = 8 WHERE id = 'ses_2'",
            [
                "the sync events of ses_2 are 7 to 7, but were counted as 8 to 7",
                "the aggregate ses_2 was counted as 8 to 7",
            ],
        ),
    ],
)
def test_damage_is_told_with_its_place(runner: CliRunner, log: Path, damage: str, found: list[str]) -> None:
    logs.change(log, damage)

    assert verify(runner) == found


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM epoch", ["there are no epochs"]),
        (
            "UPDATE epoch SET first = 2 WHERE epoch = 'A'",
            ["the event at 1 is before the first epoch, A, which begins at 2"],
        ),
        ("UPDATE epoch SET last = 2 WHERE epoch = 'A'", ["the epoch B begins at 4, but A ends at 2"]),
        ("UPDATE epoch SET last = 4 WHERE epoch = 'A'", ["the epoch B begins at 4, but A ends at 4"]),
        ("UPDATE epoch SET last = NULL WHERE epoch = 'A'", ["the epoch A has no end, although B follows"]),
        ("UPDATE epoch SET last = 6 WHERE epoch = 'B'", ["the newest epoch, B, has an end"]),
        (
            "UPDATE epoch SET first = 9, last = 7 WHERE epoch = 'B'",
            [
                "the epoch B ends at 7, before it begins, at 9",
                "the epoch B begins at 9, but A ends at 3",
                "the newest epoch, B, has an end",
                "the newest epoch, B, begins at 9, but the last position is 6",
            ],
        ),
    ],
)
def test_epochs_that_do_not_touch_are_told(runner: CliRunner, state_dir: Path, damage: str, found: list[str]) -> None:
    names = {
        logs.start(state_dir, event(1), event(2), event(3)): "A",
        logs.start(state_dir, event(4), event(5), event(6)): "B",
    }
    for name, letter in names.items():
        damage = damage.replace(f"'{letter}'", f"'{name}'")
    logs.change(state_dir, damage)
    told = verify(runner)
    for name, letter in names.items():
        told = [sentence.replace(name, letter) for sentence in told]

    assert told == found


def test_an_epoch_whose_cursors_nobody_could_read_is_told(runner: CliRunner, log: Path) -> None:
    logs.change(log, "UPDATE epoch SET epoch = 'one' WHERE last IS NULL")

    assert verify(runner) == ["the epoch 'one' makes no cursors"]


def test_starts_without_events_and_an_empty_log_are_sound(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir)
    assert verify(runner) == []

    for _ in range(3):
        logs.start(state_dir)
    logs.start(state_dir, event(1))
    logs.start(state_dir)
    assert verify(runner) == []

    runner.invoke(main, ["log", "trim", "--keep-events", "0"])
    assert verify(runner) == []


def test_what_was_trimmed_is_not_missing(runner: CliRunner, log: Path) -> None:
    runner.invoke(main, ["log", "trim", "--keep-events", "2"])

    assert verify(runner) == []


def test_cursors_of_events_that_somebody_deleted_do_not_mean_the_next_ones(runner: CliRunner, state_dir: Path) -> None:
    """All events of the second start are deleted, some of the first, and what was noted of them."""
    first = logs.start(state_dir, *(event(number) for number in range(1, 11)))
    second = logs.start(state_dir, *(event(number) for number in range(11, 14)))
    logs.change(state_dir, "DELETE FROM event WHERE position > 5", "UPDATE mark SET value = 0")
    third = logs.start(state_dir, *(event(number) for number in range(14, 24)))

    assert verify(runner) == []
    with logfile.reading(state_dir / NAME) as db:
        epochs = logfile.cursors(db)
    assert [str(epochs.cursor(position)) for position in (4, 6, 12)] == [f"{first}-4", f"{third}-6", f"{third}-12"]
    assert epochs.is_known(Cursor(first, 5), 15)
    assert not epochs.is_known(Cursor(first, 6), 15)
    assert not epochs.is_known(Cursor(second, 12), 15)


def test_a_migrated_log_is_sound(runner: CliRunner, state_dir: Path) -> None:
    state_dir.mkdir()
    lines = [line for line in recorded() if b'"type":"server.' not in line]
    logs.make_schema_1(state_dir / NAME, [make(line) for line in lines])
    SqliteLog(state_dir / NAME, EventLogSettings()).close()

    assert verify(runner) == []


def test_an_index_that_does_not_agree_is_found_by_sqlite(runner: CliRunner, log: Path) -> None:
    with logs.opened(log / NAME) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'is_sync = 0', 'is_sync = 1') WHERE type = 'index'")
    found = verify(runner)

    assert found
    assert all(sentence.startswith("SQLite: ") for sentence in found)


def test_a_damaged_page_is_told_and_the_rest_is_looked_at(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, *(event(number, pad=3000) for number in range(200)))
    with (state_dir / NAME).open("r+b") as file:
        file.seek(100 * 4096)
        file.write(b"\xff" * 4096)
    result = runner.invoke(main, ["log", "verify", "--json"])

    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["found"] > 0
    assert any("cannot be read to the end" in sentence or "SQLite: " in sentence for sentence in told["findings"])


def test_twenty_findings_are_shown_and_the_others_counted(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, *(event(number) for number in range(1200)))
    logs.change(state_dir, "UPDATE event SET type = 'x'")
    result = runner.invoke(main, ["log", "verify"])
    as_json = json.loads(runner.invoke(main, ["log", "verify", "--json"]).stdout)

    lines = result.stdout.splitlines()
    assert lines[0] == "the event at 1: row and envelope differ in type"
    assert lines[20:] == ["... and 1180 more", "1200 events looked at, 1200 found"]
    assert (as_json["found"], as_json["findings"]) == (1200, lines[:20])
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("name", "value"), [("PAGE_EVENTS", 2), ("PAGE_BYTES", 1)], ids=["a page of two", "a page of one large event"]
)
def test_pages_have_no_seam(
    runner: CliRunner, log: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: int
) -> None:
    monkeypatch.setattr(audit, name, value)
    assert verify(runner) == []

    logs.change(log, "DELETE FROM event WHERE position IN (2, 3, 5)")
    assert verify(runner)[-2:] == ["the events at 2 to 3 are missing", "the events at 5 to 5 are missing"]


@pytest.mark.parametrize("last", [2, 4, 6])
def test_what_is_trimmed_meanwhile_is_not_missing(log: Path, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    monkeypatch.setattr(audit, "PAGE_EVENTS", 1)

    def trim(count: int) -> None:
        logs.change(log, f"DELETE FROM event WHERE position <= {last}")

    with logfile.reading(log / NAME) as db:
        assert list(audit.findings(db, trim)) == []


def test_ctrl_c_is_no_finding(log: Path) -> None:
    def check() -> None:
        with logfile.reading(log / NAME) as db:
            db.set_progress_handler(lambda: 1, 1)
            list(audit.findings(db, lambda count: None))

    with pytest.raises(KeyboardInterrupt):
        check()
