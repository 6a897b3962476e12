"""`subscribers` and `evict`: who is subscribed, how each stands with the watchdog, and ending one by hand."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import click

from opencode_events.cli import client
from opencode_events.cli.options import setting_options, url_option
from opencode_events.cli.render import printable

WIDTH = 120
GAP = "  "
UNITS = ("B", "kB", "MB", "GB")
# What a column may be cut to when a line is too long, the more important ones last.
NARROW = 12

Report = Mapping[str, Any]


class Column(NamedTuple):
    """One column of a table. Numbers stand at the right; what is `elastic` is cut where a line would be too long."""

    name: str
    show: Callable[[Report], str]
    is_number: bool = False
    elastic: int = 0  # 1 is cut first


@click.command()
@setting_options("state_dir")
@url_option
@click.option("--closed", is_flag=True, help="Those who were there instead: the last 1000, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")
def subscribers(config: Path | None, state_dir: str | None, url: str | None, closed: bool, as_json: bool) -> None:
    """Show who is subscribed: how far behind, what waits, and what the watchdog makes of the connection."""
    found = client.running_url(url, config, state_dir)
    text = asyncio.run(client.ask(found, "/-/subscribers" + ("?closed=1" if closed else "")))
    if as_json:
        click.echo(text)
        return
    reports = json.loads(text).get("closed" if closed else "subscribers", [])
    count = f"{len(reports)} who were there" if closed else _counted(len(reports), "subscriber")
    click.echo(click.style(f"{found}: {count}", bold=True))
    for line in table(CLOSED if closed else OPEN, reports):
        click.echo(line)


@click.command()
@setting_options("state_dir")
@url_option
@click.argument("number", metavar="ID", type=click.IntRange(min=1))
def evict(config: Path | None, state_dir: str | None, url: str | None, number: int) -> None:
    """End the subscriber with this ID: it is told, and has some time to read what waits. A second time ends it now."""
    found = client.running_url(url, config, state_dir)
    report = json.loads(asyncio.run(client.ask(found, f"/-/subscribers/{number}", "DELETE"))).get("evicted", {})
    who = f"{number} ({_text(report, 'peer')}, {_stream(report)})"
    waits = _counted(report.get("queued_events", 0), "event")
    if report.get("state") == "closing":
        click.echo(f"ended: {who}, which was being ended already; not read: {waits}")
    else:
        click.echo(f"being ended: {who}; waiting to be read: {waits}")


def table(columns: Sequence[Column], reports: Sequence[Report], width: int = WIDTH) -> list[str]:
    """Return the lines of a table that is `width` columns wide at most; none for no reports."""
    if not reports:
        return []
    rows = [[printable(column.show(report)) for column in columns] for report in reports]
    widths = [
        max(map(len, (column.name, *cells))) for column, cells in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for at in sorted((at for at, column in enumerate(columns) if column.elastic), key=lambda at: columns[at].elastic):
        taken = max(0, min(over, widths[at] - NARROW))
        widths[at] -= taken
        over -= taken
    lines = []
    for row in [[column.name for column in columns], *rows]:
        cells = [
            _cut(cell, space).rjust(space) if column.is_number else _cut(cell, space).ljust(space)
            for cell, space, column in zip(row, widths, columns, strict=True)
        ]
        lines.append(_cut(GAP.join(cells).rstrip(), width))
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _text(report: Report, name: str) -> str:
    value = report.get(name)
    return "-" if value is None else str(value)


def _number(name: str) -> Callable[[Report], str]:
    def show(report: Report) -> str:
        value = report.get(name)
        return f"{value:,}".replace(",", " ") if isinstance(value, int) else "-"

    return show


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _size(size: object) -> str:
    """Return bytes as a person reads them."""
    if not isinstance(size, int):
        return "-"
    if size < 1_000:
        return f"{size} B"
    power = 1 + sum(size >= limit for limit in (999_500, 999_500_000))
    return f"{size / 1_000**power:.3g} {UNITS[power]}"


def _queued(report: Report) -> str:
    """Return what waits: events, and their bytes with those of the transport."""
    held = report.get("queued_bytes", 0) + report.get("transport_bytes", 0)
    return f"{_number('queued_events')(report)}, {_size(held)}" if held or report.get("queued_events") else "0"


def _stream(report: Report) -> str:
    """Return what a subscriber wants, as it would ask for it."""
    selection = report.get("selection", {})
    found = [selection.get("directory") or "global"]
    if selection.get("format", "sse") != "sse":
        found.append(selection["format"])
    lists = {name: selection.get(name) for name in ("types", "session", "workspace")}
    found += [f"{name}={','.join(wanted)}" for name, wanted in lists.items() if wanted]
    if selection.get("sync", "all") != "all":
        found.append(f"sync={selection['sync']}")
    return printable(" ".join(found))


def _state(report: Report) -> str:
    reason = report.get("reason")
    return _text(report, "state") + (f": {reason}" if reason else "")


def _verdict(report: Report) -> str:
    """Return what the watchdog makes of it, with the seconds until it ends it if nothing changes."""
    left_s = report.get("evict_in_s")
    return _text(report, "verdict") + (f", {left_s:.0f} s left" if isinstance(left_s, int | float) else "")


def _at(report: Report) -> str:
    """Return when it was over, in this machine's time."""
    try:
        return f"{datetime.fromisoformat(report['at']).astimezone():%Y-%m-%d %H:%M:%S}"
    except (KeyError, TypeError, ValueError):
        return "-"


def _open(report: Report) -> str:
    """Return how long it was there."""
    open_s = report.get("open_s")
    if not isinstance(open_s, int | float):
        return "-"
    if open_s < 60:
        return f"{open_s:.1f} s"
    minutes, hours = int(open_s // 60), int(open_s // 3600)
    return f"{minutes} min" if minutes < 60 else f"{hours} h {minutes % 60:02} min"


OPEN = (
    Column("id", lambda report: _text(report, "id"), is_number=True),
    Column("peer", lambda report: _text(report, "peer"), elastic=3),
    Column("state", _state, elastic=2),
    Column("stream", _stream, elastic=1),
    Column("lag", _number("lag_events"), is_number=True),
    Column("queued", _queued, is_number=True),
    Column("sent", _number("sent_events"), is_number=True),
    Column("tcp", lambda report: _text(report, "tcp_state")),
    Column("verdict", _verdict),
)
CLOSED = (
    Column("over at", _at),
    Column("id", lambda report: _text(report, "subscriber"), is_number=True),
    Column("peer", lambda report: _text(report, "peer"), elastic=1),
    Column("reason", lambda report: _text(report, "reason")),
    Column("was there", _open, is_number=True),
    Column("events", _number("sent_events"), is_number=True),
    Column("bytes", lambda report: _size(report.get("sent_bytes")), is_number=True),
    Column("waited at most", _number("peak_queued_events"), is_number=True),
)
