"""What `top` shows, without a terminal: rates between two looks at a daemon, and which handles in which order.

Pure. A snapshot is what was answered at one time; comparing it with an earlier one adds the rates, once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opencode_events.cli import columns
from opencode_events.cli.columns import ORDERS
from opencode_events.cli.top.handles import Handle
from opencode_events.cli.top.handles import whole as read_whole

# What is counted since the daemon's start, in which part of its status.
COUNTERS = {
    "published_events": "broker",
    "replayed_events": "broker",
    "relayed_events": "upstream",
    "answered": "pass_through",
}


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """One look: the daemon's status and its handles, at `at_s` of a clock that does not jump. `rates` are in a second.

    `body` is the answer that the handles were read from, in the same order.
    """

    url: str
    at_s: float
    status: Mapping[str, Any]
    handles: Sequence[Handle]
    body: bytes = b""
    rates: dict[str, float] = field(default_factory=dict)

    def whole(self, handles: Sequence[Handle]) -> list[dict[str, Any]]:
        """Return all that is known of some of its handles."""
        places = {handle.id: place for place, handle in enumerate(self.handles)}
        found = read_whole(self.body, [places[handle.id] for handle in handles])
        rates = ({} if handle.events_per_s is None else {"events_per_s": handle.events_per_s} for handle in handles)
        return [members | rate for members, rate in zip(found, rates, strict=True)]


def compare(earlier: Snapshot | None, later: Snapshot) -> None:
    """Add to `later` what happened in each second since `earlier`; nothing if that was another process."""
    if earlier is None or later.at_s <= earlier.at_s or earlier.status.get("pid") != later.status.get("pid"):
        return
    spent_s = later.at_s - earlier.at_s
    for name, part in COUNTERS.items():
        before, now = _count(earlier.status.get(part), name), _count(later.status.get(part), name)
        if before is not None and now is not None:
            later.rates[name] = max(0, now - before) / spent_s
    known = {handle.id: handle for handle in earlier.handles}
    events = size = 0
    for handle in later.handles:
        old = known.get(handle.id)  # one that is new has sent since then all that it has sent
        more = handle.sent_events - (0 if old is None else old.sent_events)
        handle.events_per_s = more / spent_s
        events += more
        size += handle.sent_bytes - (0 if old is None else old.sent_bytes)
    later.rates |= {"sent_events": events / spent_s, "sent_bytes": size / spent_s}


def _count(part: object, name: str) -> int | None:
    value = part.get(name) if isinstance(part, Mapping) else None
    return value if isinstance(value, int) else None


@dataclass(slots=True, kw_only=True)
class View:
    """Which handles are wanted, and how they are sorted."""

    order: str = "lag"
    is_turned: bool = False
    wanted: str = ""
    _fixed: dict[tuple[int, str | None], str] = field(default_factory=dict, init=False)

    def sort_by(self, order: str) -> None:
        """Sort by this; the other way round if it was sorted by it already."""
        self.is_turned = not self.is_turned if self.order == order else False
        self.order = order

    @property
    def mark(self) -> str:
        """The arrow that tells the direction."""
        return "▼" if ORDERS[self.order].is_reversed != self.is_turned else "▲"

    def rows(self, handles: Sequence[Handle]) -> list[Handle]:
        """Return those that are wanted, sorted. Of two that are alike, the older one stands first."""
        words = self.wanted.casefold().split()
        found = self._wanted(handles, words) if words else list(handles)
        order = ORDERS[self.order]
        found.sort(key=order.first, reverse=order.is_reversed != self.is_turned)
        return found

    def _wanted(self, handles: Sequence[Handle], words: Iterable[str]) -> list[Handle]:
        """Return those with the words; each one's text that stays is made once, and forgotten with it."""
        known = self._fixed
        self._fixed = {
            (handle.id, handle.peer): known.get((handle.id, handle.peer)) or fixed_text(handle) for handle in handles
        }
        return [handle for handle in handles if matches(handle, self._fixed[handle.id, handle.peer], words)]


def fixed_text(handle: Handle) -> str:
    """Return what is shown of a handle and never changes, in lower case."""
    return f"{columns.text(handle, 'peer')} {columns.stream(handle)}".casefold()


def matches(handle: Handle, fixed: str, words: Iterable[str]) -> bool:
    """Tell whether each of the words, in lower case, stands in what is shown of a handle, or is `#` and its number."""
    now = f"{handle.state} {handle.reason} {handle.tcp_state} {handle.verdict}".casefold()
    return all(word in fixed or word in now or word == f"#{handle.id}" for word in words)
