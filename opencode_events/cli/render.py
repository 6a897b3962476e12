"""One event as one line for a person: when it came, where from, what it is, and the beginning of what it says.

Pure. Whatever is in an event, the line stays one line and cannot steer a terminal: what does not print is escaped.
"""

import json
import zlib
from datetime import datetime
from pathlib import PurePath
from typing import Any, NamedTuple

import click

from opencode_events.events import GAP, NOT_TAKEN, NOT_TAKEN_PREFIX, SYNC

PLAIN_WIDTH = 160
"""Columns of a line that does not go to a terminal."""
TYPE_COLORS = ("green", "yellow", "blue", "magenta", "cyan", "bright_green", "bright_blue", "bright_magenta")
SESSION_CHARS = 10


class Frame(NamedTuple):
    """The members of a frame that a line shows. Absent ones are empty."""

    directory: str
    type: str
    session: str
    properties: Any
    is_control: bool
    is_sync: bool


def read(data: str) -> Frame:
    """Return what stands in a frame's data, of either stream. Text that is no event is shown as it is."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return Frame("", "?", "", data, False, False)
    payload = value.get("payload", value)
    if not isinstance(payload, dict):
        payload = {}
    kind, properties = _text(payload.get("type")), payload.get("properties", {})
    is_sync = kind == SYNC and isinstance(payload.get("syncEvent"), dict)
    if is_sync:
        twin = payload["syncEvent"]
        kind, properties = _text(twin.get("type")), twin.get("data", {})
    is_control = kind in NOT_TAKEN or (kind.startswith(NOT_TAKEN_PREFIX) and kind != GAP)
    session = _text(properties.get("sessionID")) if isinstance(properties, dict) else ""
    return Frame(_text(value.get("directory")), kind, session, properties, is_control, is_sync)


def line(frame: Frame, at: datetime, width: int) -> str:
    """Return the frame as a line of `width` columns at most, with colours (and not counting them)."""
    place = PurePath(frame.directory).name or frame.directory or "-"
    rest = frame.properties
    if isinstance(rest, dict):
        rest = {key: value for key, value in rest.items() if key != "sessionID"}
    said = rest if isinstance(rest, str) else json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
    columns: list[tuple[str, dict[str, Any]]] = [
        (f"{at:%H:%M:%S}", {"dim": True}),
        (f"{printable(place):<12}", {"fg": "cyan"}),
        (printable(frame.type) + (" (sync)" if frame.is_sync else ""), {"fg": type_color(frame.type), "bold": True}),
        (printable(_short(frame.session)), {"fg": "yellow"}),
    ]
    left = width - sum(len(text) + 1 for text, _ in columns if text)
    columns.append((_cut(said, left), {}))
    shown = [(text, style) for text, style in columns if text]
    if frame.is_control:
        return click.style(" ".join(text for text, _ in shown), dim=True)
    return " ".join(click.style(text, **style) for text, style in shown)


def printable(text: str) -> str:
    """Return `text` with everything escaped that does not print: controls, half pairs, directions."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def type_color(kind: str) -> str:
    """Return the colour of a type: the same for all of one family (`message.*`), in every run."""
    family = kind.partition(".")[0]
    return TYPE_COLORS[zlib.crc32(family.encode("utf-8", "replace")) % len(TYPE_COLORS)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _short(session: str) -> str:
    """Return the end of a session's id: the beginning is the same for neighbours."""
    return session if len(session) <= SESSION_CHARS else "…" + session[-SESSION_CHARS:]


def _cut(text: str, width: int) -> str:
    """Return the beginning of `text`, printable, in `width` columns."""
    if width < 2:
        return ""
    shown = printable(text[:width])
    return shown if len(text) <= width and len(shown) <= width else shown[: width - 1] + "…"
