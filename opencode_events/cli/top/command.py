"""`top`, the command: live on a terminal, or, with --json, one look for a program."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import click

from opencode_events.cli import client
from opencode_events.cli.columns import ORDERS
from opencode_events.cli.exits import Exit
from opencode_events.cli.options import Seconds, setting_options, url_option
from opencode_events.cli.top.view import View
from opencode_events.cli.top.watch import Watch


@click.command()
@setting_options("state_dir")
@url_option
@click.option("--interval", type=Seconds(0.1, 3600), default=2.0, show_default=True, help="Seconds.")
@click.option("--sort", type=click.Choice(list(ORDERS)), default="lag", show_default=True, help="What to sort by.")
@click.option("--filter", "wanted", metavar="WORDS", default="", help="Only handles with these words in their line.")
@click.option("--json", "as_json", is_flag=True, help="Print one look, with rates over the interval, and end.")
def top(
    config: Path | None, state_dir: str | None, url: str | None, interval: float, sort: str, wanted: str, as_json: bool
) -> int:
    """Watch the daemon and each of its subscribers, sorted by who lags most; `?` shows the keys."""
    if not as_json and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("it needs a terminal; --json is for programs")
    view = View(order=sort, wanted=wanted)

    def find() -> str | None:
        return client.find_url(url, config, state_dir)

    if as_json:
        click.echo(asyncio.run(_once(find, view, interval)))
        return Exit.OK
    return asyncio.run(_watch(find, view, interval))


async def _once(find: Callable[[], str | None], view: View, interval_s: float) -> str:
    """Return one look, as the second of two."""
    async with Watch(find) as watch:
        await watch.look()
        await asyncio.sleep(interval_s)
        now = await watch.look()
    subscribers = now.whole(view.rows(now.handles))
    return json.dumps({"url": now.url, "rates": now.rates, "status": now.status, "subscribers": subscribers})


async def _watch(find: Callable[[], str | None], view: View, interval_s: float) -> int:
    """Show it until somebody leaves. Who cannot be reached at first is told as by any other command."""
    from opencode_events.cli.top.screen import Top  # takes a third of a second, which completion has not

    async with Watch(find) as watch:
        app = Top(watch, await watch.look(), view, interval_s)
        code = await app.run_async()
    return Exit.FAILED if code is None else code  # None: a bug ended it, and was printed
