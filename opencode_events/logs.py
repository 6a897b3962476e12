"""How the daemon's own log lines are written: structlog, a console rendering for people, JSON for programs.

Lines are events (`noun.verb` and fields with units), not prose. A storm of one kind of line is thinned here, so that
a flood of clients never becomes a flood of lines. A line that cannot be written (the disk is full, the reader of the
pipe has gone) is lost, and nothing else is. What must never appear (payloads, tokens) is not handed to it.
"""

import atexit
import contextlib
import io
import logging.handlers
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from opencode_events.errors import SettingError
from opencode_events.log_settings import LoggingSettings

ROTATE_BYTES = 10 * 1024 * 1024
ROTATE_COUNT = 3
# Lines that wait for a standard output that is stuck, some MiB; and the seconds that the end waits for it.
WAITING_LINES = 10_000
CLOSE_S = 1.0
# Those that log by themselves, through the standard library.
LIBRARIES = ("aiohttp", "asyncio")

log = structlog.get_logger()


class Thinner:
    """A processor that lets `burst` lines of each name pass in a second, and counts the rest.

    The first line of a name that passes again carries `suppressed`, the number of those that did not. Warnings are
    thinned like the rest; errors always pass.
    """

    def __init__(self, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst = burst
        self._clock = clock
        self._seen: dict[str, tuple[int, int, int]] = {}  # name -> (second, passed, suppressed)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Return the line, or raise `structlog.DropEvent`."""
        if method in ("error", "critical", "exception"):
            return event
        name, now = str(event["event"]), int(self._clock())
        second, passed, suppressed = self._seen.get(name, (now, 0, 0))
        if second != now:
            second, passed = now, 0
        if passed >= self.burst:
            self._seen[name] = (second, passed, suppressed + 1)
            raise structlog.DropEvent
        self._seen[name] = (second, passed + 1, 0)
        if suppressed:
            event["suppressed"] = suppressed
        return event


def escape(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Escape what would steer a terminal: a line quotes paths, which hold any character. JSON does that by itself."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            shown = [each if each.isprintable() else each.encode("unicode_escape").decode() for each in value]
            event[name] = "".join(shown)
    return event


class _Handler(logging.handlers.RotatingFileHandler):
    """The library's handler, without the traceback to standard error for each line that it cannot write."""

    terminator = ""

    def _open(self) -> io.TextIOWrapper:
        """Open the file, which is made for its owner alone: paths, and who asked for what, are nobody else's."""

        def make(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        # Closed by the handler.
        file = open(self.baseFilename, self.mode, encoding=self.encoding, errors=self.errors, opener=make)  # noqa: SIM115
        return cast(io.TextIOWrapper, file)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the library's name
        """Do nothing: the line is lost."""


class RotatingStream(io.TextIOBase):
    """A text stream over a file that is rotated by size; what structlog prints to when there is a log file.

    Raises SettingError when the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        try:
            self._handler = _Handler(
                Path(path).expanduser(),
                maxBytes=ROTATE_BYTES,
                backupCount=ROTATE_COUNT,
                encoding="utf-8",
                errors="backslashreplace",
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: `~nobody/`
            raise SettingError("log_file", f"{path!r} cannot be written: {error}") from error

    def write(self, text: str) -> int:
        """Write a whole line; the file is changed before it when it would grow over its size."""
        self._handler.emit(logging.makeLogRecord({"msg": text}))
        return len(text)

    def flush(self) -> None:
        """Do nothing: the handler flushes each line."""

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
        super().close()


class UnfailingStream(io.TextIOBase):
    """A text stream that writes to another one and gets over its errors."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a line, escaped where the other's encoding cannot hold it, or lose it."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        """Flush, if there is somebody to flush to."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Ask whether the other one is a terminal."""
        return self._stream.isatty()


class BackgroundStream(io.TextIOBase):
    """A text stream that another thread writes to `stream`, so that one that is stuck does not hold the loop.

    Nobody reads the pipe, or somebody pressed Ctrl-S: beyond `WAITING_LINES` lines are lost.
    """

    def __init__(self, stream: UnfailingStream) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(WAITING_LINES)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._stream.write(line)
            if self._lines.empty():
                self._stream.flush()

    def write(self, text: str) -> int:
        """Hand a line over."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(text)
        return len(text)

    def isatty(self) -> bool:
        """Ask whether the other one is a terminal."""
        return self._stream.isatty()

    @property
    def waiting(self) -> int:
        """How many lines are not written yet."""
        return self._lines.qsize()

    def close(self) -> None:
        """Write what waits, or give up after a second."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(CLOSE_S)


class Complaints(logging.Handler):
    """Turns what aiohttp and asyncio log by themselves into lines of ours, thinned like them.

    Only the template of a message is kept, and the kind of an exception: their values quote requests, with whatever
    secrets those hold. asyncio complains of callbacks that fail, which is a bug of ours: its traceback is kept.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line: `library.complained`."""
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        first_line = str(record.msg).partition("\n")[0]
        bug = {"exc_info": record.exc_info} if error and record.name == "asyncio" else {}
        log.warning(
            "library.complained", library=record.name, level=record.levelname, message=first_line, error=error, **bug
        )


def adjust(settings: LoggingSettings) -> None:
    """Change the level and the burst of what was configured."""
    current = structlog.get_config()
    for processor in current["processors"]:
        if isinstance(processor, Thinner):
            processor.burst = settings.log_burst
    structlog.configure(**current | {"wrapper_class": structlog.make_filtering_bound_logger(settings.log_level)})


def configure(settings: LoggingSettings, stream: TextIO | None = None) -> None:
    """Set structlog up for the whole process, once, before anything logs. `stream` defaults to standard output."""
    if settings.log_file:
        target: Any = RotatingStream(settings.log_file)
    else:
        target = BackgroundStream(UnfailingStream(sys.stdout)) if stream is None else UnfailingStream(stream)
    wants_console = settings.log_format == "console" or (settings.log_format == "auto" and target.isatty())
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        Thinner(settings.log_burst),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if wants_console:
        # Its own choice, where rich is installed, shows local variables: payloads and passwords.
        plain = structlog.dev.plain_traceback
        processors += [escape, structlog.dev.ConsoleRenderer(colors=target.isatty(), exception_formatter=plain)]
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.handlers = [Complaints(logging.WARNING)]
        library.propagate = False
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.WriteLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
