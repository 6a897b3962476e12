"""`run` and `check-config`: the daemon in the foreground, and what it would run with.

What the daemon is and does is `daemon`'s. Here are the settings read, and the person told where to point curl.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path

import click

from opencode_events import __version__, configuration, keys, settings
from opencode_events.cli.options import setting_options, shown
from opencode_events.settings import Settings


@click.command()
@setting_options()
def run(config: Path | None, **flags: object) -> int:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C.

    Subscribers then have a moment to read what is buffered; a second signal ends the daemon at once. SIGHUP has it read
    the settings' file again.
    """
    # Not at the top: it brings the whole server along, and the other commands, completion above all, start without it.
    from opencode_events import daemon

    reread = functools.partial(configuration.load, flags, None, config)
    return daemon.run(reread(), ready=_say_where, reread=reread)


@click.command("check-config")
@setting_options()
@click.option("--quiet", is_flag=True, help="Say nothing of settings that are good.")
def check_config(config: Path | None, quiet: bool, **flags: object) -> None:
    """Check the settings and show each with where it came from. A bad one is named; the exit code is then 2.

    The files of passwords and tokens are read, too, and those of the certificate and its key.
    """
    chosen = configuration.gather(flags, None, config)
    effective = configuration.build(chosen)
    keys.check(effective, os.environ)
    if quiet:
        return
    for line in table(effective, {name: source for name, (_, source) in chosen.items()}):
        click.echo(line)


def table(effective: Settings, sources: Mapping[str, str]) -> list[str]:
    """Return lines of name, value and source, aligned; a setting that nobody chose has its default."""
    rows = [("setting", "value", "from")]
    for name, spec in settings.specs().items():
        rows.append((name, shown(getattr(getattr(effective, spec.group), name)), sources.get(name, "default")))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows]
    return [click.style(lines[0], bold=True), *lines[1:]]


def _say_where(url: str) -> None:
    """Tell the person at the terminal where the daemon answers. Standard output belongs to the daemon's log."""
    click.echo(f"opencode-events {__version__} listens on {url}", err=True)
    click.echo(f"  curl -N {url}/global/event", err=True)
