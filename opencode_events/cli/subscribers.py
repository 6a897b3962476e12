"""`subscribers` and `evict`: who is subscribed, how each stands with the watchdog, and ending one by hand."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import click

from opencode_events.cli import client
from opencode_events.cli.columns import CLOSED, OPEN, WIDTH, counted, stream, table, text
from opencode_events.cli.options import setting_options, url_option


@click.command()
@setting_options("state_dir")
@url_option
@click.option("--closed", is_flag=True, help="Those who were there instead: the last 1000, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")
def subscribers(config: Path | None, state_dir: str | None, url: str | None, closed: bool, as_json: bool) -> None:
    """Show who is subscribed: how far behind, what waits, and what the watchdog makes of the connection."""
    found = client.running_url(url, config, state_dir)
    answer = asyncio.run(client.ask(found, "/-/subscribers" + ("?closed=1" if closed else "")))
    if as_json:
        click.echo(answer)
        return
    reports = json.loads(answer).get("closed" if closed else "subscribers", [])
    count = f"{len(reports)} who were there" if closed else counted(len(reports), "subscriber")
    click.echo(click.style(f"{found}: {count}", bold=True))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH
    for line in table(CLOSED if closed else OPEN, reports, width):
        click.echo(line)


@click.command()
@setting_options("state_dir")
@url_option
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
def evict(config: Path | None, state_dir: str | None, url: str | None, number: int) -> None:
    """End the subscriber with this ID: it is told, and has some time to read what waits. A second time ends it now."""
    found = client.running_url(url, config, state_dir)
    report = json.loads(asyncio.run(client.ask(found, f"/-/subscribers/{number}", "DELETE"))).get("evicted", {})
    who = f"{number} ({text(report, 'peer')}, {stream(report)})"
    waits = counted(report.get("queued_events", 0), "event")
    if report.get("state") == "closing":
        click.echo(f"ended: {who}, which was being ended already; not read: {waits}")
    else:
        click.echo(f"being ended: {who}; waiting to be read: {waits}")
