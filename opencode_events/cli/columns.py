"""What is shown of a subscriber, column by column: for `subscribers`, `top` and `status`, and the sentence of `evict`.

Pure. Owns what a cell says, by what rows are sorted, and how a table gets into the width that there is. Whatever a
daemon answers, an older or a newer one included, a cell is one line that cannot steer a terminal.
"""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from opencode_events.cli.render import printable

WIDTH = 120
GAP = "  "
UNITS = ("B", "kB", "MB", "GB")
# What a column may be cut to when a line is too long, the more important ones last.
NARROW = 12
# The states by how much they want to be looked at.
STATES = ("closing", "catching_up", "replaying", "live")


class Report(Protocol):
    """What is known of a handle: a dictionary of the daemon's answer, or what reads like one."""

    def get(self, name: str, /) -> Any:
        """Return a member; None if there is none."""


class Column(NamedTuple):
    """One column of a table. Numbers stand at the right; what is `elastic` is cut where a line would be too long.

    Where cutting is not enough, whole columns go: those with the largest `rank` first, those with 0 never.
    """

    name: str
    show: Callable[[Report], str]
    is_number: bool = False
    elastic: int = 0  # 1 is cut first
    rank: int = 0


def table(columns: Sequence[Column], reports: Sequence[Report], width: int = WIDTH) -> list[str]:
    """Return the lines of a table that is `width` columns wide at most; none for no reports."""
    if not reports:
        return []
    rows = [[printable(column.show(report)) for column in columns] for report in reports]
    widths = [
        max(map(cells, (column.name, *shown))) for column, shown in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    widths = narrowed(columns, widths, width)
    heads = [column.name for column in columns]
    return [cut(joined(columns, row, widths).rstrip(), width) for row in [heads, *rows]]


def narrowed(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the widths that make a line of `width` columns of it, as far as cutting what is elastic can do it."""
    found = list(widths)
    over = sum(found) + len(GAP) * (len(found) - 1) - width
    for at in sorted((at for at, column in enumerate(columns) if column.elastic), key=lambda at: columns[at].elastic):
        taken = max(0, min(over, found[at] - NARROW))
        found[at] -= taken
        over -= taken
    return found


def fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[tuple[Column, int]]:
    """Return the columns for which there is room, each with its width."""
    kept = list(zip(columns, widths, strict=True))
    while True:
        found = narrowed([column for column, _ in kept], [space for _, space in kept], width)
        if sum(found) + len(GAP) * (len(found) - 1) <= width:
            break
        worst = max(kept, key=lambda each: each[0].rank)
        if worst[0].rank == 0:
            break
        kept.remove(worst)
    return [(column, space) for (column, _), space in zip(kept, found, strict=True)]


def joined(columns: Sequence[Column], texts: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of a table, not cut."""
    return GAP.join(
        padded(cut(shown, space), space, is_number=column.is_number)
        for column, shown, space in zip(columns, texts, widths, strict=True)
    )


def padded(text: str, width: int, *, is_number: bool) -> str:
    """Return `text` with the space that makes it `width` columns wide."""
    space = " " * (width - cells(text))
    return space + text if is_number else text + space


def cut(text: str, width: int) -> str:
    """Return `text` in `width` columns."""
    if cells(text) <= width:
        return text
    left = width - 1
    for at, char in enumerate(text):
        left -= _cells_of(char)
        if left < 0:
            return text[:at] + "…"
    return text


def cells(text: str) -> int:
    """Return how many columns of a terminal `text`, which is printable, takes."""
    return len(text) if text.isascii() else sum(map(_cells_of, text))


@functools.lru_cache(4096)
def _cells_of(char: str) -> int:
    """Return 2 for what is wide (Unicode Standard Annex 11), 0 for what stands above or below another, 1 for others."""
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def text(report: Report, name: str) -> str:
    """Return a member as it is; `-` if there is none."""
    value = report.get(name)
    return "-" if value is None else str(value)


def number(value: object) -> str:
    """Return a number with groups of three digits."""
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else "-"


def counted(count: int | None, noun: str) -> str:
    """Return how many there are, in words that fit."""
    return f"{number(count)} {noun}" + ("" if count == 1 else "s")


def size(value: object) -> str:
    """Return bytes as a person reads them."""
    if not isinstance(value, int | float):
        return "-"
    if value < 1_000:
        return f"{value:.0f} B"
    power = 1 + sum(value >= limit for limit in (999_500, 999_500_000))
    return f"{value / 1_000**power:.3g} {UNITS[power]}"


def duration(seconds: object) -> str:
    """Return a time as a person reads it."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min" if minutes < 60 else f"{hours} h {minutes % 60:02} min"


def rate(per_s: object) -> str:
    """Return so many in a second: with a digit behind the point while there are few."""
    if not isinstance(per_s, int | float):
        return "-"
    return f"{per_s:.1f}" if 0 < per_s < 9.95 else number(round(per_s))


def held(report: Report) -> int:
    """Return the bytes that wait for a subscriber, those of its transport included."""
    waiting = (report.get("queued_bytes"), report.get("transport_bytes"))
    return sum(value for value in waiting if isinstance(value, int))


def queued(report: Report) -> str:
    """Return what waits: events, their bytes with those of the transport, and for how long the oldest has waited."""
    count = held(report)
    if not count and not report.get("queued_events"):
        return "0"
    waited_s = report.get("queued_s")
    return f"{number(report.get('queued_events'))}, {size(count)}" + (f", {duration(waited_s)}" if waited_s else "")


def stream(report: Report) -> str:
    """Return what a subscriber wants, as it would ask for it."""
    selection = report.get("selection")
    if not selection:
        return "-"
    found = [selection.get("directory") or "global"]
    if selection.get("format", "sse") != "sse":
        found.append(selection.get("format"))
    lists = {name: selection.get(name) for name in ("types", "session", "workspace", "within")}
    found += [f"{name}={','.join(wanted)}" for name, wanted in lists.items() if wanted]
    if selection.get("sync", "all") != "all":
        found.append(f"sync={selection.get('sync')}")
    return printable(" ".join(found))


def state(report: Report) -> str:
    """Return the state, with the reason if it is being ended."""
    reason = report.get("reason")
    return text(report, "state") + (f": {reason}" if reason else "")


def verdict(report: Report) -> str:
    """Return what the watchdog makes of it, with the seconds until it ends it if nothing changes."""
    left_s = report.get("evict_in_s")
    return text(report, "verdict") + (f", {left_s:.0f} s left" if isinstance(left_s, int | float) else "")


def at(report: Report) -> str:
    """Return when it was over, in this machine's time."""
    try:
        return f"{datetime.fromisoformat(report.get('at')).astimezone():%Y-%m-%d %H:%M:%S}"
    except (TypeError, ValueError):
        return "-"


def _measure(name: str) -> Callable[[Report], float]:
    def value(report: Report) -> float:
        found = report.get(name)
        return found if isinstance(found, int | float) else 0

    return value


ID = Column("id", lambda report: text(report, "id"), is_number=True)
PEER = Column("peer", lambda report: text(report, "peer"), elastic=3, rank=3)
STATE = Column("state", state, elastic=2)
STREAM = Column("stream", stream, elastic=1, rank=2)
LAG = Column("lag", lambda report: number(report.get("lag_events")), is_number=True)
QUEUED = Column("queued", queued, is_number=True, rank=1)
AGE = Column("age", lambda report: duration(report.get("open_s")), is_number=True, rank=5)
SENT = Column("sent", lambda report: number(report.get("sent_events")), is_number=True, rank=6)
RATE = Column("per s", lambda report: rate(report.get("events_per_s")), is_number=True, rank=4)
TCP = Column("tcp", lambda report: text(report, "tcp_state"), rank=7)
VERDICT = Column("verdict", verdict, rank=4)

OPEN = (ID, PEER, STATE, STREAM, LAG, QUEUED, AGE, SENT, TCP, VERDICT)
# What two looks at them tell besides.
LIVE = (ID, PEER, STATE, STREAM, LAG, QUEUED, AGE, RATE, TCP, VERDICT)
CLOSED = (
    Column("over at", at),
    Column("id", lambda report: text(report, "subscriber"), is_number=True),
    Column("peer", lambda report: text(report, "peer"), elastic=1),
    Column("reason", lambda report: text(report, "reason")),
    Column("was there", lambda report: duration(report.get("open_s")), is_number=True),
    Column("events", lambda report: number(report.get("sent_events")), is_number=True),
    Column("bytes", lambda report: size(report.get("sent_bytes")), is_number=True),
    Column("waited at most", lambda report: number(report.get("peak_queued_events")), is_number=True),
)


class Order(NamedTuple):
    """One way to sort: by the column of its name, first what `first` is largest for."""

    first: Callable[[Report], Any]
    is_reversed: bool = True


ORDERS: dict[str, Order] = {
    "lag": Order(_measure("lag_events")),
    "queued": Order(lambda report: (_measure("queued_events")(report), held(report))),
    "age": Order(_measure("open_s")),
    "state": Order(
        lambda report: (STATES.index(report.get("state")) if report.get("state") in STATES else -1, verdict(report)),
        is_reversed=False,
    ),
    "per s": Order(_measure("events_per_s")),
    "id": Order(_measure("id"), is_reversed=False),
}
