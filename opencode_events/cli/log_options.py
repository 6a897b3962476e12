"""What the commands of `log` have in common: which file it is, a cursor that was typed, and a bar for who waits."""

import sys
from pathlib import Path
from typing import Any

import click

from opencode_events import cursor
from opencode_events.cli.options import only, setting_options
from opencode_events.errors import SettingError
from opencode_events.eventlog import logfile
from opencode_events.eventlog.database import MEMORY
from opencode_events.eventlog.epochs import Epochs
from opencode_events.settings import Settings

LOOKED_AT = ("state_dir", "log_path")

where_options = setting_options(*LOOKED_AT)


def chosen(config: Path | None, **flags: str | None) -> Settings:
    """Return settings that say where the log is. None of the others was looked at."""
    return only(LOOKED_AT, config, flags)


def log_file(settings: Settings) -> Path:
    """Return the log's file, which need not be there. Raises SettingError for a log that has none."""
    path = logfile.locate(settings)
    if path is None:
        raise SettingError("log_path", f"{MEMORY} has no file, and ends with its daemon")
    return path


def place(text: str, epochs: Epochs, head: int, option: str) -> int:
    """Return the position of a cursor that was given to `option`. Raises BadParameter if it is none of this log's."""
    found = cursor.parse(text)
    if found is None or not epochs.is_known(found, head):
        raise click.BadParameter(f"{text!r} is no cursor of this log", param_hint=option)
    return found.position


def progress(label: str, length: int, *, hidden: bool = False) -> Any:
    """Return a progress bar on standard error, which only a terminal shows."""
    hidden = hidden or not sys.stderr.isatty()
    return click.progressbar(length=length, label=label, file=sys.stderr, hidden=hidden)
