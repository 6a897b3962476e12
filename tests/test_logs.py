"""The daemon's own lines: their form, what thins them, and that the log never takes the daemon down."""

import io
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from opencode_events import logs
from opencode_events.errors import SettingError
from opencode_events.log_settings import LoggingSettings
from opencode_events.logs import BackgroundStream, RotatingStream, Thinner, UnfailingStream
from tests.clients import until


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Whatever a test configures is forgotten after it."""
    yield
    structlog.reset_defaults()
    for name in logs.LIBRARIES:
        library = logging.getLogger(name)
        library.handlers, library.propagate = [], True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def passes(thinner: Thinner, name: str = "x", method: str = "info") -> bool:
    return take(thinner, name, method) is not None


def take(thinner: Thinner, name: str = "x", method: str = "info") -> dict[str, Any] | None:
    try:
        return dict(thinner(None, method, {"event": name}))
    except structlog.DropEvent:
        return None


def test_a_burst_passes_and_the_rest_of_the_second_is_counted() -> None:
    clock = Clock()
    thinner = Thinner(2, clock)

    assert [passes(thinner) for _ in range(4)] == [True, True, False, False]
    clock.now = 0.999
    assert not passes(thinner)

    clock.now = 1.0
    assert take(thinner) == {"event": "x", "suppressed": 3}
    assert take(thinner) == {"event": "x"}
    assert not passes(thinner)


def test_what_was_suppressed_is_not_forgotten_in_quiet_seconds() -> None:
    clock = Clock()
    thinner = Thinner(1, clock)
    passes(thinner)
    passes(thinner)

    clock.now = 3600.0
    assert take(thinner) == {"event": "x", "suppressed": 1}


def test_each_name_has_a_burst_of_its_own() -> None:
    thinner = Thinner(1, Clock())

    assert [passes(thinner, "a"), passes(thinner, "b"), passes(thinner, "a")] == [True, True, False]


@pytest.mark.parametrize(
    ("method", "is_thinned"),
    [("debug", True), ("warning", True), ("error", False), ("critical", False), ("exception", False)],
)
def test_errors_always_pass(method: str, is_thinned: bool) -> None:
    thinner = Thinner(1, Clock())
    passes(thinner, method=method)

    assert passes(thinner, method=method) != is_thinned


def written(**chosen: Any) -> dict[str, Any]:
    stream = io.StringIO()
    logs.configure(LoggingSettings(**chosen), stream)
    structlog.get_logger().warning("noun.verbed", n=1)
    found: dict[str, Any] = json.loads(stream.getvalue())
    return found


def test_lines_are_json_when_nobody_looks() -> None:
    line = written()

    assert (line["event"], line["n"], line["level"]) == ("noun.verbed", 1, "warning")
    assert line["timestamp"].endswith("Z")


def test_lines_are_for_people_on_a_terminal() -> None:
    stream = Terminal()
    logs.configure(LoggingSettings(), stream)
    structlog.get_logger().info("noun.verbed", n=1)

    assert "noun.verbed" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
    assert "\x1b[" in stream.getvalue()


def test_lines_are_for_people_when_asked_for_and_without_colours_in_a_file() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSettings(log_format="console"), stream)
    structlog.get_logger().info("noun.verbed", n=1)

    assert "noun.verbed" in stream.getvalue()
    assert "\x1b[" not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_written_with_its_traceback(log_format: str) -> None:
    stream = io.StringIO()
    logs.configure(LoggingSettings(log_format=log_format), stream)
    try:
        raise KeyError("lost")
    except KeyError:
        structlog.get_logger().exception("noun.failed")

    assert "KeyError: 'lost'" in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_values(log_format: str) -> None:
    """rich, which is installed for `top`, would show local variables."""
    stream = io.StringIO()
    logs.configure(LoggingSettings(log_format=log_format), stream)
    held = ["four", "words"]
    secret = " ".join(held)
    try:
        raise KeyError(len(secret))
    except KeyError:
        structlog.get_logger().exception("noun.failed")

    assert "KeyError: 10" in stream.getvalue()
    assert "four words" not in stream.getvalue()


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSettings(log_level="error"), stream)
    structlog.get_logger().warning("noun.verbed")

    assert stream.getvalue() == ""


def test_a_storm_is_thinned() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSettings(log_burst=5), stream)
    for _ in range(1000):
        structlog.get_logger().info("noun.verbed")

    assert len(stream.getvalue().splitlines()) <= 10, "five in a second, and the second may change once"


def test_a_file_takes_the_lines_instead_of_the_stream(tmp_path: Path) -> None:
    stream, file = io.StringIO(), tmp_path / "daemon.log"
    logs.configure(LoggingSettings(log_file=str(file)), stream)
    structlog.get_logger().info("noun.verbed", percent="100 %s")

    assert json.loads(file.read_text())["percent"] == "100 %s"
    assert stream.getvalue() == ""


def test_a_file_is_appended_to_and_the_tilde_is_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("a\n", "b\n"):
        stream = RotatingStream("~/daemon.log")
        stream.write(text)
        stream.close()

    assert (tmp_path / "daemon.log").read_text() == "a\nb\n"


def test_a_full_file_is_rotated_between_lines_and_three_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(logs, "ROTATE_BYTES", 10)
    stream = RotatingStream(str(tmp_path / "daemon.log"))
    for number in range(6):
        stream.write(f"line {number}\n")
    stream.close()

    kept = {entry.name: entry.read_text() for entry in tmp_path.iterdir()}
    assert kept == {
        "daemon.log": "line 5\n",
        "daemon.log.1": "line 4\n",
        "daemon.log.2": "line 3\n",
        "daemon.log.3": "line 2\n",
    }


def test_half_a_surrogate_pair_is_written_escaped(tmp_path: Path) -> None:
    stream = RotatingStream(str(tmp_path / "daemon.log"))
    stream.write("x \ud800\n")
    stream.close()

    assert (tmp_path / "daemon.log").read_text() == "x \\ud800\n"


def test_a_stream_that_cannot_hold_a_line_gets_it_escaped() -> None:
    raw = io.BytesIO()
    logs.configure(LoggingSettings(log_format="console"), io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    structlog.get_logger().info("noun.verbed", peer="é\ud800")

    assert rb"\xe9" in raw.getvalue()


@pytest.mark.parametrize("path", ["/does/not/exist/daemon.log", "~no-such-user/daemon.log", "/"])
def test_a_file_that_cannot_be_written_is_a_bad_setting(path: str) -> None:
    with pytest.raises(SettingError, match=r"log_file: .* cannot be written"):
        logs.configure(LoggingSettings(log_file=path))


def test_a_full_disk_loses_the_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LoggingSettings(log_file="/dev/full"))
    structlog.get_logger().info("noun.verbed")

    assert capsys.readouterr() == ("", "")


def test_a_reader_that_is_gone_loses_the_line_and_nothing_else() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    logs.configure(LoggingSettings(), Gone())

    structlog.get_logger().info("noun.verbed")


def test_a_closed_stream_loses_the_line_and_nothing_else() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSettings(), stream)
    stream.close()

    structlog.get_logger().info("noun.verbed")


def test_standard_output_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LoggingSettings())
    structlog.get_logger().info("noun.verbed")
    (written,) = until(lambda: capsys.readouterr().out.splitlines())

    assert json.loads(written)["event"] == "noun.verbed"
    assert sys.stdout is not None


def test_a_standard_output_that_is_stuck_holds_nobody() -> None:
    """A pipe that nobody reads takes 64 KiB and then nothing; lines wait, and beyond their number are lost."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as read_end, os.fdopen(writer, "w") as write_end:
        stream = BackgroundStream(UnfailingStream(write_end))
        for _ in range(logs.WAITING_LINES + 10_000):
            stream.write("x" * 99 + "\n")

        assert read_end.read(100) == b"x" * 99 + b"\n"
        taken = threading.Thread(target=read_end.read)  # to the end: whoever writes the last lines may be stuck, too
        taken.start()
        until(lambda: stream.waiting == 0)
        stream.close()
        write_end.close()
        taken.join()


def test_what_a_library_logs_becomes_a_line_without_what_it_quotes() -> None:
    out = io.StringIO()
    logs.configure(LoggingSettings(log_format="json"), out)

    try:
        raise ValueError("secret")
    except ValueError:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "secret")
    logging.getLogger("asyncio").info("not a complaint")

    (line,) = out.getvalue().splitlines()
    assert "secret" not in line
    assert json.loads(line)["event"] == "library.complained"
    assert json.loads(line)["message"] == "Error handling request from %s"
    assert json.loads(line)["error"] == "ValueError"


def test_no_path_steers_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure(LoggingSettings(log_format="console"), stream)

    structlog.get_logger().warning("answer.cut", path="/x\x1b[31m\r\n/ö")

    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("path=/x\\x1b[31m\\r\\n/ö\n")


def test_a_log_file_is_its_owner_s_alone(tmp_path: Path) -> None:
    stream = logs.RotatingStream(str(tmp_path / "daemon.log"))
    stream.write("line\n")
    stream.close()

    assert (tmp_path / "daemon.log").stat().st_mode & 0o777 == 0o600
