"""`log export` and `log import`: the event log as lines of NDJSON, the same that its stream has.

An export is read from the log's file. An import goes through the daemon, if one runs, so that its subscribers get the
events; else into the file, which no daemon can open meanwhile.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import structlog

from opencode_events import events, statedir, wire
from opencode_events.cli import client
from opencode_events.cli.exits import Exit
from opencode_events.cli.log_options import LOOKED_AT, chosen, log_file, place, progress, where_options
from opencode_events.cli.options import only
from opencode_events.cli.publish import post_recording, read_lines, told
from opencode_events.cli.recording import Recording
from opencode_events.errors import DaemonError, LogUnavailable, OutOfSequence, RequestError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.database import MEMORY
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event, Skipped
from opencode_events.settings import Settings
from opencode_events.statedir import StateDir

EARLIEST = "earliest"
# Written with one transaction: some milliseconds.
BATCH_EVENTS = 500
BATCH_BYTES = 1024 * 1024


@click.command(short_help="Write the events to a file, a line an event.")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@where_options
@click.option(
    "--after", metavar="CURSOR", default=EARLIEST, show_default=True, help="Only what follows the event of this cursor."
)
@click.option("--directory", help="Only the events of this directory, sync twins included.")
def export(file: str, after: str, directory: str | None, **where: Any) -> int:
    """Write the events to FILE (standard output if there is none), a line an event, its cursor last.

    It ends with the event that is the newest when it begins. `publish` and `log import` take the lines back.
    """
    path = log_file(chosen(**where))
    encode = wire.ENCODERS["global", "ndjson"]
    matches = None if directory is None else _of(directory)
    trimmed = 0
    with logfile.reading(path) as db:
        with logfile.moment(db):
            head, oldest, epochs = logfile.head(db), logfile.oldest(db), logfile.cursors(db)
        begin = head if oldest is None else oldest - 1
        if after != EARLIEST:
            position = place(after, epochs, head, "--after")
            if position < begin:
                raise click.BadParameter(f"events that followed {after} are trimmed already", param_hint="--after")
            begin = position
        is_mixed = file == "-" and sys.stdout.isatty()
        with _written(file, path) as sink, progress("exporting", head - begin, hidden=is_mixed) as bar:
            for page in logfile.pages(db, epochs, begin, head, matches):
                if page.oldest > begin + 1:
                    trimmed = min(page.oldest - 1, head)
                sink.write(b"".join(encode(stored.cursor, stored.event) for stored in page.events))
                bar.update(page.last - begin)
                begin = page.last
            sink.flush()
    if trimmed:
        click.echo(f"events up to {epochs.cursor(trimmed)} were trimmed before their turn came: not exported", err=True)
    return Exit.FAILED if trimmed else Exit.OK


def _of(directory: str) -> Callable[[Event], bool]:
    return lambda event: event.directory == directory


@contextlib.contextmanager
def _written(file: str, log: Path) -> Iterator[BinaryIO]:
    """Lend what is to be written to. Raises DaemonError for a file that cannot be."""
    if Path(file).resolve() in {Path(f"{log.resolve()}{suffix}") for suffix in ("", "-wal", "-shm")}:
        raise click.BadParameter("is the event log itself", param_hint="FILE")
    if file == "-":
        yield sys.stdout.buffer
        return
    try:
        with Path(file).open("wb") as sink:
            yield sink
    except OSError as error:
        raise DaemonError(f"{file} cannot be written: {error.strerror or error}") from error


@click.command("import", short_help="Publish such lines.")
@click.argument("file", type=click.File("rb"))
@where_options
def import_(file: BinaryIO, config: Path | None, **flags: str | None) -> None:
    """Publish the lines of FILE (- is standard input), such as an export's, into the log.

    If a daemon runs they are posted to it. Events that the log has already are counted as duplicates. At a line that
    cannot be taken it ends; what came before that is in the log and stays.
    """
    settings = only((*LOOKED_AT, "durability", "max_event_bytes"), config, flags)
    running = statedir.read(settings.server.state_dir)
    if running is not None:
        answer = _post(running.url, settings, file)
    else:
        path = log_file(settings)
        with StateDir(settings.server.state_dir), _log_lines_on_stderr():
            answer = asyncio.run(_write(path, settings, file))
    click.echo(told(answer))


def _post(url: str, settings: Settings, file: BinaryIO) -> dict[str, Any]:
    """Post a file to the daemon, if the log that was named is its own; return its answer."""
    if settings.eventlog.log_path:
        named, its_own = logfile.locate(settings), asyncio.run(_log_of(url))
        if its_own != MEMORY if named is None else Path(its_own).resolve() != named.resolve():
            raise DaemonError(f"the daemon at {url} has its log in {its_own}: it would take these events there")
    return asyncio.run(post_recording(url, None, file))


async def _log_of(url: str) -> str:
    """Return the path of a daemon's log. Raises what `client.ask` raises."""
    status = json.loads(await client.ask(url, "/-/status"))
    try:
        return str(status["log"]["path"])
    except (KeyError, TypeError) as error:
        raise client.Refused(f"{url}/-/status does not say where the log is") from error


async def _write(path: Path, settings: Settings, file: BinaryIO) -> dict[str, Any]:
    """Write a file's events into the log and return what a daemon would answer."""
    recording = Recording()
    with contextlib.closing(SqliteLog(path, settings.eventlog)) as eventlog:
        importer = Importer(eventlog, settings.server.max_event_bytes, recording.source_line)
        async with contextlib.aclosing(read_lines(file, recording, "importing")) as texts:
            async for text in texts:
                for line in text.split(b"\n")[:-1]:
                    await importer.take(line)
        await importer.flush()
    return importer.answer


class Importer:
    """Puts lines into a log, in batches. `answer` is what a daemon would answer to those that have been put there."""

    def __init__(self, eventlog: SqliteLog, limit: int, source_line: Callable[[int], int]) -> None:
        self._log = eventlog
        self._limit = limit
        self._source_line = source_line
        self._lines = 0
        self._batch: list[tuple[int, Event]] = []
        self._bytes = 0
        self._counts = dict.fromkeys(client.COUNTS, 0)
        self._first: str | None = None
        self._last: str | None = None

    @property
    def answer(self) -> dict[str, Any]:
        return {**self._counts, "first": self._first, "last": self._last}

    async def take(self, line: bytes) -> None:
        """Take one more line. Raises Refused, which names it, after those before it were put into the log."""
        self._lines += 1
        try:
            item = events.parse_global(line, self._limit)
        except RequestError as error:
            await self.flush()
            raise self._refused(error, self._lines) from error
        if isinstance(item, Skipped):
            self._counts["skipped"] += 1
            return
        self._batch.append((self._lines, item))
        self._bytes += len(item.envelope)
        if len(self._batch) >= BATCH_EVENTS or self._bytes >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Put what was taken into the log. Raises Refused, which names the line that breaks a sequence."""
        batch, self._batch, self._bytes = self._batch, [], 0
        broken = await self._append(batch)
        if broken is not None:
            bad = broken.index or 0
            await self._append(batch[:bad])
            raise self._refused(broken, batch[bad][0]) from broken

    async def _append(self, batch: list[tuple[int, Event]]) -> OutOfSequence | None:
        """Append and count a batch; of one that breaks a sequence nothing is, and the error is returned."""
        if not batch:
            return None
        try:
            (outcome,) = await self._log.append([[event for _, event in batch]])
        except LogUnavailable as error:
            raise self._refused(error) from error
        if isinstance(outcome, OutOfSequence):
            return outcome
        self._counts["accepted"] += len(outcome.events)
        self._counts["duplicates"] += outcome.duplicates
        if outcome.events:
            self._first = self._first or str(self._log.cursor(outcome.first))
            self._last = str(self._log.cursor(outcome.first + len(outcome.events) - 1))
        return None

    def _refused(self, error: RequestError | LogUnavailable, line: int | None = None) -> client.Refused:
        """Return an error that reads as if a daemon had answered it."""
        problem: dict[str, object] = {"detail": str(error), "line": line, **self._counts}
        if isinstance(error, RequestError):
            problem["field"] = error.field
        return client.Refused(client.describe(0, "", json.dumps(problem), self._source_line))


@contextlib.contextmanager
def _log_lines_on_stderr() -> Iterator[None]:
    """Keep what the log says of itself, such as that it was migrated, out of what the command prints."""
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)
