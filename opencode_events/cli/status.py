"""`status`: what the daemon says of itself, for a person or, with --json, for a program."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import click

from opencode_events.cli import client
from opencode_events.cli.columns import WIDTH, number
from opencode_events.cli.options import setting_options, url_option
from opencode_events.cli.overview import overview


@click.command()
@setting_options("state_dir")
@url_option
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")
def status(config: Path | None, state_dir: str | None, url: str | None, as_json: bool) -> None:
    """Show what the daemon does: in a few lines, as `top` has them, and then everything."""
    found = client.running_url(url, config, state_dir)
    text = asyncio.run(client.ask(found, "/-/status"))
    if as_json:
        click.echo(text)
        return
    document = json.loads(text)
    rows = list(_rows("", document))
    width = max((len(name) for name, _ in rows), default=0)
    click.echo(click.style(found, bold=True))
    for line in overview(document):
        click.echo("  " + click.style(line.shown(WIDTH - 2), fg="red" if line.is_trouble else None))
    click.echo()
    for name, value in rows:
        click.echo(f"  {name:<{width}}  {value}")


def _rows(path: str, value: object) -> Iterator[tuple[str, str]]:
    """Return the leaves of the answer, each with its dotted name."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _rows(f"{path}.{key}" if path else key, member)
    elif isinstance(value, list):
        yield path, ", ".join(_shown(item) for item in value) or "none"
    else:
        yield path, str(value) if path == "pid" else _shown(value)


def _shown(value: object) -> str:
    """Return one leaf as a person reads it: large numbers with groups of three digits, truth in words."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return number(value)
        case float():
            return f"{value:.6g}"
        case str():
            return value
        case _:
            return json.dumps(value)
