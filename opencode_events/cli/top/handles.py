"""The handles of an answer of `/-/subscribers`: what the table needs of each, read at once; all of one, when asked.

Ten thousand handles are 6 MB of JSON. As dictionaries they take 120 ms to read, half of that for the garbage
collector, and again for whatever allocates later; as structures without it they take 15.
"""

from collections.abc import Sequence
from typing import Any

import msgspec


class Selection(msgspec.Struct, gc=False):
    """What a handle wants."""

    stream: str = "global"
    format: str = "sse"
    directory: str | None = None
    session: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sync: str = "all"
    workspace: tuple[str, ...] = ()
    within: tuple[str, ...] | None = None

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a member, as a dictionary does."""
        return getattr(self, name, default)


class Handle(msgspec.Struct, gc=False):
    """What is shown of a handle in its row. `events_per_s` is not the daemon's: two looks tell it, one does not."""

    id: int
    peer: str | None = None
    state: str | None = None
    reason: str | None = None
    selection: Selection | None = None
    open_s: float = 0.0
    queued_events: int = 0
    queued_bytes: int = 0
    queued_s: float = 0.0
    transport_bytes: int = 0
    sent_events: int = 0
    sent_bytes: int = 0
    lag_events: int = 0
    tcp_state: str | None = None
    verdict: str | None = None
    evict_in_s: float | None = None
    events_per_s: float | None = None

    def get(self, name: str, default: Any = None, /) -> Any:
        """Return a member, as a dictionary does."""
        return getattr(self, name, default)


class _Answer(msgspec.Struct):
    subscribers: list[Handle]


class _Pieces(msgspec.Struct):
    subscribers: list[msgspec.Raw]


_handles = msgspec.json.Decoder(_Answer)
_pieces = msgspec.json.Decoder(_Pieces)


def read(body: bytes) -> list[Handle]:
    """Return the handles of an answer. Raises msgspec.DecodeError if it is none."""
    return _handles.decode(body).subscribers


def whole(body: bytes, places: Sequence[int]) -> list[dict[str, Any]]:
    """Return all that the answer has of the handles at `places` in it."""
    pieces = _pieces.decode(body).subscribers
    return [msgspec.json.decode(pieces[place]) for place in places]
