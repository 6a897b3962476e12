"""`log export` and `log import` without a daemon: what is written, what is taken back, and what is refused."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from opencode_events import statedir
from opencode_events.cli import log_files
from opencode_events.cli.exits import Exit
from opencode_events.cli.main import main
from opencode_events.errors import LogUnavailable
from opencode_events.eventlog import logfile, upkeep
from opencode_events.eventlog.base import Page
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from opencode_events.statedir import StateDir
from tests.cli import logs
from tests.cli.fakedaemon import Answer, FakeDaemon, json_answer
from tests.cli.logs import NAME
from tests.clients import until
from tests.samples import event, make, recorded, twin

Export = Callable[..., list[bytes]]


def line(event: Event, cursor: str) -> bytes:
    """Return an event's line as the NDJSON stream has it."""
    return event.envelope[:-1] + b',"cursor":"%b"}' % cursor.encode()


def text(*events: Event) -> bytes:
    """Return events as a recording without cursors."""
    return b"".join(event.envelope + b"\n" for event in events)


@pytest.fixture
def export(runner: CliRunner) -> Export:
    """Export the log, and return the lines."""

    def run(*arguments: str) -> list[bytes]:
        result = runner.invoke(main, ["log", "export", *arguments])
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout_bytes.splitlines()

    return run


def put(runner: CliRunner, content: bytes, *arguments: str) -> Result:
    """Import from standard input."""
    return runner.invoke(main, ["log", "import", "-", *arguments], input=content)


# --- export


def test_an_export_has_a_line_for_each_event_with_its_cursor_last(state_dir: Path, export: Export) -> None:
    events = [event(1), twin(1), event(2, directory=None, workspace="w"), event(3, directory="/srv/b")]
    first = logs.start(state_dir, *events[:2])
    second = logs.start(state_dir, *events[2:])

    assert export() == [
        line(events[0], f"{first}-1"),
        line(events[1], f"{first}-2"),
        line(events[2], f"{second}-3"),
        line(events[3], f"{second}-4"),
    ]
    assert export("-", "--after", "earliest") == export()


def test_bytes_are_exported_as_they_were_published(state_dir: Path, export: Export) -> None:
    odd = make(b'{"payload":{"id":"x","type":"a","properties":{"t":"\\u0000\\ud800\xf0\x9f\x98\x80\xe2\x80\xa8"}}}')
    epoch = logs.start(state_dir, odd)

    assert export() == [line(odd, f"{epoch}-1")]


def test_an_empty_log_has_an_empty_export(state_dir: Path, export: Export) -> None:
    logs.start(state_dir)

    assert export() == []


def test_a_long_log_is_exported_in_pages_without_a_seam(state_dir: Path, export: Export) -> None:
    count = 2 * logfile.PAGE_EVENTS + 1
    epoch = logs.start(state_dir, *(event(number, pad=number) for number in range(count)))

    assert export() == [line(event(number, pad=number), f"{epoch}-{number + 1}") for number in range(count)]


def test_what_follows_a_cursor_can_be_had_alone(runner: CliRunner, state_dir: Path, export: Export) -> None:
    first = logs.start(state_dir, event(1), event(2))
    second = logs.start(state_dir, event(3))
    whole = export()

    assert export("--after", f"{first}-0") == whole
    assert export("--after", f"{first}-1") == whole[1:]
    assert export("--after", f"{first}-2") == export("--after", f"{second}-2") == whole[2:]
    assert export("--after", f"{second}-3") == []
    runner.invoke(main, ["log", "trim", "--keep-events", "1"])
    assert export("--after", f"{first}-2") == export() == whole[2:]


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ("latest", "'latest' is no cursor of this log"),
        ("0123456789-1", "'0123456789-1' is no cursor of this log"),
        ("EPOCH-4", "is no cursor of this log"),
        ("EPOCH-1", "events that followed EPOCH-1 are trimmed already"),
    ],
)
def test_a_cursor_from_which_there_is_no_way_on_is_refused(
    runner: CliRunner, state_dir: Path, after: str, says: str
) -> None:
    epoch = logs.start(state_dir, event(1), event(2), event(3))
    runner.invoke(main, ["log", "trim", "--keep-events", "1"])
    result = runner.invoke(main, ["log", "export", "--after", after.replace("EPOCH", epoch)])

    assert result.exit_code == 2
    assert "Invalid value for --after: " in result.stderr
    assert says.replace("EPOCH", epoch) in result.stderr
    assert result.stdout == ""


def test_a_directory_s_events_are_exported_with_their_twins(state_dir: Path, export: Export) -> None:
    mine = [event(1, directory="/srv/b"), twin(1, directory="/srv/b"), event(2, directory="/srv/b")]
    others = [event(3), event(4, directory=None), event(5, directory="/srv/b/c")]
    epoch = logs.start(state_dir, mine[0], others[0], mine[1], others[1], others[2], mine[2])

    assert export("--directory", "/srv/b") == [
        line(mine[0], f"{epoch}-1"),
        line(mine[1], f"{epoch}-3"),
        line(mine[2], f"{epoch}-6"),
    ]
    assert export("--directory", "/srv/b", "--after", f"{epoch}-3") == [line(mine[2], f"{epoch}-6")]
    assert export("--directory", "/srv") == []


def test_an_export_goes_to_a_file(state_dir: Path, tmp_path: Path, export: Export) -> None:
    logs.start(state_dir, event(1), event(2))
    file = tmp_path / "events.ndjson"
    file.write_text("something older, and longer than what comes\n" * 100)

    assert export(str(file)) == []
    assert file.read_bytes().splitlines() == export()


@pytest.mark.parametrize("name", [NAME, f"{NAME}-wal", "link"])
def test_the_log_itself_is_not_written_over(runner: CliRunner, state_dir: Path, name: str) -> None:
    logs.start(state_dir, event(1))
    (state_dir / "link").symlink_to(state_dir / NAME)
    before = (state_dir / NAME).read_bytes()
    result = runner.invoke(main, ["log", "export", str(state_dir / name)])

    assert "Invalid value for FILE: is the event log itself" in result.output
    assert result.exit_code == 2
    assert (state_dir / NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("file", "says"), [("/dev/full", "No space left on device"), ("/nowhere/file", "No such file or directory")]
)
def test_a_file_that_cannot_be_written_is_told(runner: CliRunner, state_dir: Path, file: str, says: str) -> None:
    logs.start(state_dir, event(1))
    result = runner.invoke(main, ["log", "export", file])

    assert (result.exit_code, result.output) == (1, f"error: {file} cannot be written: {says}\n")


def test_a_reader_that_has_had_enough_ends_it_in_peace(state_dir: Path) -> None:
    logs.start(state_dir, *(event(number, pad=1000) for number in range(1000)))
    command = [sys.executable, "-m", "opencode_events", "log", "export", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["payload"]["id"] == "evt_0"
        child.stdout.close()

        assert child.stderr.read() == b""
        assert child.wait(20) == 0


def test_what_is_trimmed_before_its_turn_is_told(
    runner: CliRunner, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = logs.start(state_dir, *(event(number) for number in range(1, 8)))
    pages = logfile.pages

    def interrupted(*arguments: Any) -> Iterator[Page]:
        for page in pages(*arguments):
            yield page
            with logfile.writing(state_dir / NAME) as db:
                list(upkeep.trim(db, 4))

    monkeypatch.setattr(logfile, "PAGE_EVENTS", 2)
    monkeypatch.setattr(logfile, "pages", interrupted)
    result = runner.invoke(main, ["log", "export"])

    assert [json.loads(line)["cursor"] for line in result.stdout.splitlines()] == [
        f"{epoch}-{position}" for position in (1, 2, 5, 6, 7)
    ]
    assert result.stderr == f"events up to {epoch}-4 were trimmed before their turn came: not exported\n"
    assert result.exit_code == 1


def test_what_is_appended_meanwhile_is_left_for_the_next_time(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, export: Export
) -> None:
    logs.start(state_dir, event(1), event(2), event(3))
    pages = logfile.pages

    def interrupted(*arguments: Any) -> Iterator[Page]:
        for number, page in enumerate(pages(*arguments)):
            yield page
            logs.start(state_dir, event(10 + number))

    monkeypatch.setattr(logfile, "PAGE_EVENTS", 2)
    with monkeypatch.context() as patch:
        patch.setattr(logfile, "pages", interrupted)
        first = export()

    assert [json.loads(line)["payload"]["id"] for line in first] == ["evt_1", "evt_2", "evt_3"]
    rest = export("--after", json.loads(first[-1])["cursor"])
    assert [json.loads(line)["payload"]["id"] for line in rest] == ["evt_10", "evt_11"]


# --- import


def test_lines_are_taken_into_a_log_that_is_made_for_them(runner: CliRunner, state_dir: Path, export: Export) -> None:
    result = put(runner, text(event(1), twin(1), event(2)))

    lines = export()
    cursors = [json.loads(line)["cursor"] for line in lines]
    assert result.output == f"3 accepted, 0 duplicates, 0 skipped: {cursors[0]} to {cursors[2]}\n"
    assert result.exit_code == 0
    assert lines == [line(each, cursor) for each, cursor in zip((event(1), twin(1), event(2)), cursors, strict=True)]
    assert runner.invoke(main, ["log", "verify"]).exit_code == 0
    assert not statedir.is_held(state_dir)


def test_an_export_and_an_import_give_the_same_log_but_for_its_cursors(
    runner: CliRunner, tmp_path: Path, export: Export
) -> None:
    lines = logs.acceptable(recorded())
    file = tmp_path / "export.ndjson"
    put(runner, b"\n".join(lines))
    exported = export()
    export(str(file))
    again = ["--state-dir", str(tmp_path / "again")]
    result = runner.invoke(main, ["log", "import", str(file), *again])

    assert result.output.startswith(f"{len(lines)} accepted, 0 duplicates, 0 skipped: ")
    reimported = export(*again)
    assert [make(line).envelope for line in exported] == [make(line).envelope for line in reimported] == lines
    assert all(one != other for one, other in zip(exported, reimported, strict=True))
    second = runner.invoke(main, ["log", "import", str(file), *again])
    assert second.output == f"0 accepted, {len(lines)} duplicates, 0 skipped\n"


def test_many_lines_are_taken_in_batches(runner: CliRunner, export: Export) -> None:
    count = 2 * log_files.BATCH_EVENTS + 1
    result = put(runner, text(*(event(number) for number in range(count)), event(0), event(count)))

    assert result.output.startswith(f"{count + 1} accepted, 1 duplicates, 0 skipped: ")
    assert [json.loads(line)["payload"]["id"] for line in export()] == [f"evt_{number}" for number in range(count + 1)]


def test_a_recording_of_an_event_stream_is_taken_without_its_control_frames(runner: CliRunner, export: Export) -> None:
    stream = (
        b'retry: 2000\nid: a-1\ndata: {"payload":{"type":"server.connected","properties":{}}}\n\n'
        b"id: a-2\ndata: " + event(1).envelope + b"\n\ndata: {"
    )
    result = put(runner, stream)

    assert result.stdout.startswith("1 accepted, 0 duplicates, 1 skipped: ")
    assert result.stderr == "the last line of the recording is cut short and was left out\n"
    assert len(export()) == 1


def test_nothing_is_nothing(runner: CliRunner, export: Export) -> None:
    assert put(runner, b"").output == "0 accepted, 0 duplicates, 0 skipped\n"
    assert export() == []


@pytest.mark.parametrize(
    ("lines", "says", "taken"),
    [
        (
            text(event(1)) + b"\n" + text(event(1), event(2)) + b'{"payload":{"type":7}}\n' + text(event(3)),
            "line 5: payload.type: Expected `str`, got `int` (before that: 2 accepted, 1 duplicates, 0 skipped)",
            ["evt_1", "evt_2"],
        ),
        (b"nonsense\n", "line 1: JSON is malformed: ", []),
        (
            text(event(1), twin(1, seq=5), twin(2, seq=6), event(2), twin(3, seq=8), event(3)),
            "line 5: payload.syncEvent.seq: ses_1 has come to 6: 7 is next, not 8"
            " (before that: 4 accepted, 0 duplicates, 0 skipped)",
            ["evt_1", "evt_1", "evt_2", "evt_2"],
        ),
        (
            text(twin(1, seq=5), twin(2, seq=5)) + b"nonsense\n",
            "line 2: payload.syncEvent.seq: ses_1 has 5 already, under the id evt_1"
            " (before that: 1 accepted, 0 duplicates, 0 skipped)",
            ["evt_1"],
        ),
    ],
    ids=["no event", "no JSON", "a hole in a sequence", "one number twice"],
)
def test_a_line_that_cannot_be_taken_is_named_and_what_came_before_stays(
    runner: CliRunner, export: Export, lines: bytes, says: str, taken: list[str]
) -> None:
    result = put(runner, lines)

    assert result.exit_code == 1
    assert result.output.startswith(f"error: {says}")
    assert [json.loads(line)["payload"]["id"] for line in export()] == taken


def test_an_event_over_the_limit_is_named(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_EVENTS_MAX_EVENT_BYTES", "200")
    result = put(runner, text(event(1), event(2, pad=200)))

    assert result.output.startswith("error: line 2: an event of ")
    assert "over max_event_bytes (200) (before that: 1 accepted" in result.output


def test_a_log_that_cannot_be_written_ends_it_with_what_was_done(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, export: Export
) -> None:
    append = SqliteLog.append

    async def full(self: SqliteLog, batches: Any) -> Any:
        if self.head >= log_files.BATCH_EVENTS:
            raise LogUnavailable("database or disk is full")
        return await append(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteLog, "append", full)
        result = put(runner, text(*(event(number) for number in range(log_files.BATCH_EVENTS + 1))))

    assert result.output == (
        "error: the event log cannot be written: database or disk is full"
        f" (before that: {log_files.BATCH_EVENTS} accepted, 0 duplicates, 0 skipped)\n"
    )
    assert result.exit_code == 1
    assert len(export()) == log_files.BATCH_EVENTS


def test_a_log_of_an_earlier_version_is_migrated(runner: CliRunner, state_dir: Path, export: Export) -> None:
    state_dir.mkdir()
    logs.make_schema_1(state_dir / NAME, [event(1)])
    result = put(runner, text(event(1), event(2)))

    assert result.stdout.startswith("1 accepted, 1 duplicates, 0 skipped: ")
    assert "eventlog.migrated" in result.stderr
    assert len(export()) == 2


def test_a_log_of_a_later_version_is_refused(runner: CliRunner, state_dir: Path) -> None:
    logs.start(state_dir, event(1))
    logs.change(state_dir, "PRAGMA user_version = 4")
    result = put(runner, text(event(2)))

    assert result.output.startswith(f"error: the event log {state_dir / NAME} has schema 4, made by a newer version")
    assert result.exit_code == 1


def test_a_daemon_that_does_not_answer_yet_is_not_gone_behind(runner: CliRunner, state_dir: Path) -> None:
    with StateDir(state_dir):
        result = put(runner, text(event(1)))

    assert result.exit_code == Exit.ALREADY_RUNNING
    assert "not answering yet" in result.output
    assert not (state_dir / NAME).exists()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(status=500, kind="text/plain"), "HTTP 500 Internal Server Error"),
        (Answer(status=401, kind="text/plain"), "HTTP 401 Unauthorized: it wants a password"),
        (json_answer({"log": {}}), "does not say where the log is"),
    ],
    ids=["broken", "locked", "a stranger"],
)
def test_a_daemon_that_does_not_say_which_log_it_has_is_not_posted_to(
    runner: CliRunner, state_dir: Path, answer: Answer, says: str
) -> None:
    with FakeDaemon(answer) as daemon, StateDir(state_dir) as state:
        state.announce(daemon.url, "0")
        result = put(runner, text(event(1)), "--log-path", "elsewhere.sqlite3")

    assert says in result.output
    assert result.exit_code == 1
    assert len(daemon.asked) == 1


def test_nobody_can_start_a_daemon_while_it_writes(state_dir: Path) -> None:
    command = [sys.executable, "-m", "opencode_events", "log", "import", "-", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        until(lambda: (state_dir / NAME).exists())
        assert statedir.is_held(state_dir)
        with contextlib.closing(child.stdin) as sink:
            sink.write(text(event(1)))
        assert child.wait(20) == 0
    assert not statedir.is_held(state_dir)
    assert logs.positions(state_dir) == [1]


def test_a_file_is_needed(runner: CliRunner, tmp_path: Path) -> None:
    for arguments in ([], [str(tmp_path / "none")]):
        assert runner.invoke(main, ["log", "import", *arguments]).exit_code == 2
