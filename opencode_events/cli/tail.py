"""`tail`: watch a stream as it is, a line an event; it reconnects by itself, and goes on after its last id."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import click

from opencode_events import wire
from opencode_events.cli import client, render
from opencode_events.cli.follow import follow
from opencode_events.cli.options import setting_options, url_option
from opencode_events.errors import OpencodeEventsError
from opencode_events.sse import ServerSentEvent


@click.command()
@setting_options("state_dir")
@url_option
@click.option("--directory", help="The stream of this directory instead of the global one.")
@click.option("--session", multiple=True, help="Only events of this session. May be repeated, or comma-separated.")
@click.option("--types", multiple=True, help="Only these types, such as 'message.*,session.idle'. May be repeated.")
@click.option("--sync", type=click.Choice(["all", "none", "only"]), help="What to do with the sync twins of events.")
@click.option("--workspace", multiple=True, help="Only events of this workspace, or of none. May be repeated.")
@click.option(
    "--after", metavar="CURSOR", help="Begin after this cursor, or with the `earliest` event.  [default: latest]"
)
@click.option(
    "--on-overflow",
    type=click.Choice(["end", "catchup"]),
    help="When this client lags: end the stream, or catch up from the log.",
)
@click.option("--end", type=click.Choice(["clean", "abort"]), help="How the daemon ends the stream.")
@click.option("--json", "as_json", is_flag=True, help="Print each event's JSON as it came, a line each.")
@click.option("--control", is_flag=True, help="With --json: print the daemon's control frames too.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many events; control frames do not count.")
@click.option("--color/--no-color", default=None, help="Colour the lines.  [default: on a terminal]")
def tail(
    config: Path | None,
    state_dir: str | None,
    url: str | None,
    directory: str | None,
    session: tuple[str, ...],
    types: tuple[str, ...],
    sync: str | None,
    workspace: tuple[str, ...],
    after: str | None,
    on_overflow: str | None,
    end: str | None,
    as_json: bool,
    control: bool,
    count: int | None,
    color: bool | None,
) -> None:
    """Watch the events as they come, until Ctrl-C. A cut connection is made again, and goes on where it was."""
    where = finder(url, config, state_dir, "/global/event" if directory is None else "/event")
    single = {"directory": directory, "sync": sync, "after": after, "on_overflow": on_overflow, "end": end}
    params = [(name, value) for name, value in single.items() if value is not None]
    for name, values in (("session", session), ("types", types), ("workspace", workspace)):
        params += [(name, value) for value in values]
    printer = Printer(as_json=as_json, control=control, count=count, color=_wants_color(color))
    asyncio.run(_tail(where, params, printer))


def finder(url: str | None, config: Path | None, state_dir: str | None, path: str) -> Callable[[], str]:
    """Return what tells the stream's URL at the moment.

    Whoever was found by the state directory is looked up there anew: with `port=0` each start has another port. While
    nobody is there, the last one may come back. Raises SettingError or DaemonError for what cannot be looked up now.
    """
    first = client.find_url(url, config, state_dir)
    if url is not None or first is None:
        return lambda: (first or client.DEFAULT_URL) + path
    last = first

    def where() -> str:
        nonlocal last
        with contextlib.suppress(OpencodeEventsError):
            last = client.find_url(None, config, state_dir) or last
        return last + path

    return where


class Printer:
    """Prints events, as many as are wanted. `is_done` when there are enough."""

    def __init__(self, *, as_json: bool, control: bool, count: int | None, color: bool | None) -> None:
        self._as_json = as_json
        self._control = control
        self._left = count
        self._color = color
        self._width = shutil.get_terminal_size().columns if sys.stdout.isatty() else render.PLAIN_WIDTH

    @property
    def is_done(self) -> bool:
        return self._left == 0

    def print(self, events: Sequence[ServerSentEvent], at: datetime) -> None:
        """Print what arrived together, with one write."""
        lines = []
        for event in events:
            if self.is_done:
                break
            text = event.data.decode("utf-8", "replace")
            frame = render.read(text)
            if self._left is not None and not frame.is_control:
                self._left -= 1
            if not self._as_json:
                lines.append(render.line(frame, at, self._width))
            elif self._control or not frame.is_control:
                lines.append(text)
            if self._as_json and frame.type == wire.EXPIRED:
                self.notify(expiry(frame.properties))
        if lines:
            click.echo("\n".join(lines), color=self._color)

    def notify(self, sentence: str) -> None:
        """Tell of an interruption, beside the events."""
        click.echo(click.style(render.printable(sentence), dim=True), err=True)


def expiry(properties: object) -> str:
    """Return what a `server.stream.expired` says, as a sentence."""
    members = properties if isinstance(properties, dict) else {}
    reason = members.get("reason")
    follows = "all that is retained follows" if reason == "trimmed" else "what is published now follows"
    return f"{members.get('requested')} cannot be resumed ({reason}), so events may be missing; {follows}"


def _wants_color(asked: bool | None) -> bool | None:
    """Return the choice; None leaves it to whether standard output is a terminal. See https://no-color.org."""
    return False if asked is None and os.environ.get("NO_COLOR") else asked


async def _tail(where: Callable[[], str], params: Sequence[tuple[str, str]], printer: Printer) -> None:
    """Print the stream until there is enough of it, or it is refused."""
    async with (
        client.session() as session,
        contextlib.aclosing(follow(session, where, params, notify=printer.notify)) as batches,
    ):
        async for events in batches:
            printer.print(events, datetime.now().astimezone())
            if printer.is_done:
                return
