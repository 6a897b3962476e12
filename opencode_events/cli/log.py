"""`log`: looks into the event log's file, and tends it: `stat`, `trim`, `verify`, `vacuum`; the rest is `log_files`'.

They go to the file itself, beside a daemon or without one; what its publishers could not bear is refused beside one.
"""

import dataclasses
import json
import time
from datetime import datetime
from typing import Any

import click

from opencode_events import statedir
from opencode_events.cli.exits import Exit
from opencode_events.cli.log_files import export, import_
from opencode_events.cli.log_options import chosen, log_file, place, progress, where_options
from opencode_events.errors import DaemonError
from opencode_events.eventlog import audit, logfile, upkeep
from opencode_events.eventlog.summary import Edge, occupied, summarize
from opencode_events.statedir import StateDir

SHOWN_FINDINGS = 20
DAY_S = 86_400.0
MOST_DAYS = 100_000


@click.group()
def log() -> None:
    """Look into the event log's file, and tend it.

    All of it works while no daemon runs, and most of it beside one.
    """


@log.command()
@where_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stat(as_json: bool, **where: Any) -> None:
    """Show what is in the log, and what it occupies."""
    path = log_file(chosen(**where))
    with logfile.reading(path) as db:
        summary = summarize(db, path)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(summary)))
        return
    names = [field.name for field in dataclasses.fields(summary)]
    width = max(map(len, names))
    for name in names:
        click.echo(f"{name:<{width}}  {_shown(getattr(summary, name))}")


@log.command(short_help="Delete the oldest events.")
@where_options
@click.option("--keep-events", type=click.IntRange(min=0), help="Delete all but the newest so many.")
@click.option("--keep-days", type=float, help="Delete what is older than so many days.")
@click.option("--before", metavar="CURSOR", help="Delete what is before the event with this cursor.")
@click.option("--dry-run", is_flag=True, help="Only say how many events would go.")
def trim(keep_events: int | None, keep_days: float | None, before: str | None, dry_run: bool, **where: Any) -> None:
    """Delete the oldest events, beyond any of the limits that are given; a running daemon goes on meanwhile.

    The file keeps its size, and the next events take the room; `log vacuum` gives it back to the disk.
    """
    if keep_events is None and keep_days is None and before is None:
        raise click.UsageError("say what may go: --keep-events, --keep-days or --before")
    if keep_days is not None and before is not None:
        raise click.UsageError("--keep-days and --before exclude each other")
    if keep_days is not None and not 0 <= keep_days <= MOST_DAYS:
        raise click.BadParameter(f"expects 0 to {MOST_DAYS}, not {keep_days}", param_hint="--keep-days")
    path = log_file(chosen(**where))
    since_ms = None if keep_days is None else int((time.time() - keep_days * DAY_S) * 1000)
    with logfile.reading(path) if dry_run else logfile.writing(path) as db:
        position = None if before is None else place(before, logfile.cursors(db), logfile.head(db), "--before")
        target = upkeep.trim_target(db, keep_events=keep_events, since_ms=since_ms, before=position)
        doomed = logfile.count_to(db, target)
        if dry_run:
            click.echo(f"{doomed} events would be deleted")
            return
        deleted = 0
        with progress("trimming", doomed) as bar:
            began = time.monotonic()
            for count in upkeep.trim(db, target):
                deleted += count
                bar.update(count)
                time.sleep(time.monotonic() - began)  # as long as it took: a daemon's publishers have their turn
                began = time.monotonic()
    click.echo(f"{deleted} events deleted")


@log.command(short_help="Look for what should not be.")
@where_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(as_json: bool, **where: Any) -> int:
    """Look through the whole log for what should not be; nothing is changed. The exit code is 1 if there is anything.

    The file's pages and indexes, the positions, each event's text and what is noted of it, the epochs, the aggregates.
    """
    path = log_file(chosen(**where))
    shown: list[str] = []
    found = 0
    with logfile.reading(path) as db, progress("verifying", logfile.count_to(db, logfile.head(db))) as bar:
        for sentence in audit.findings(db, bar.update):
            found += 1
            if found <= SHOWN_FINDINGS:
                shown.append(sentence)
    if as_json:
        click.echo(json.dumps({"path": str(path), "events": bar.pos, "found": found, "findings": shown}))
        return Exit.FAILED if found else Exit.OK
    for sentence in shown:
        click.echo(sentence)
    if found > len(shown):
        click.echo(f"... and {found - len(shown)} more")
    click.echo(f"{bar.pos} events looked at, {found or 'nothing'} found")
    return Exit.FAILED if found else Exit.OK


@log.command()
@where_options
def vacuum(**where: Any) -> None:
    """Give the room that deleted events have left back to the disk. Not while a daemon runs.

    The log is written anew. For that time the disk needs twice the room that its events occupy.
    """
    settings = chosen(**where)
    path, directory = log_file(settings), settings.server.state_dir
    if statedir.is_held(directory):
        raise DaemonError(
            f"a daemon runs on {directory}: its publishers would be refused for as long as this takes; stop it first",
            exit_code=Exit.ALREADY_RUNNING,
        )
    with logfile.reading(path):
        pass  # what is wrong with it is told before a directory or a lock is made
    with StateDir(directory), logfile.writing(path) as db:
        before = occupied(path)
        upkeep.vacuum(db)
        click.echo(f"{_grouped(before)} bytes before, {_grouped(occupied(path))} after")


log.add_command(export)
log.add_command(import_)


def _shown(value: object) -> str:
    """Return a member of the summary as a person reads it."""
    match value:
        case None:
            return "none"
        case int():
            return _grouped(value)
        case Edge():
            return f"{value.cursor}, {datetime.fromtimestamp(value.stored_ms / 1000).astimezone():%Y-%m-%d %H:%M:%S %z}"
        case _:
            return str(value)


def _grouped(number: int) -> str:
    """Return a number with groups of three digits."""
    return f"{number:,}".replace(",", " ")
