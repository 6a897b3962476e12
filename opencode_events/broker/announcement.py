"""What is told to every global stream beside the log: control frames that have no place in it, and no id. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from opencode_events import wire
from opencode_events.prefixes import Prefixes
from opencode_events.wire import Format


class Announcement(NamedTuple):
    """One frame of a kind, such as `server.connected`; one about an instance has its directory in the envelope."""

    kind: str
    properties: Mapping[str, object] | None = None
    directory: str | None = None


def frames(announcements: Iterable[Announcement], form: Format, within: Prefixes | None = None) -> list[bytes]:
    """Return announcements as frames of a global stream; `within`: without those about other directories."""
    return [
        wire.control("global", form, kind, properties, directory=directory)
        for kind, properties, directory in announcements
        if within is None or directory is None or within.has(directory)
    ]
