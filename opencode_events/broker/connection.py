"""The seam between a handle and what it writes to: a transport of any kind, or ten lines of a fake."""

from dataclasses import dataclass
from typing import Literal, Protocol

from opencode_events.broker.watched import Watched

End = Literal["clean", "abort"]
OnOverflow = Literal["end", "catchup"]


class Connection(Watched, Protocol):
    """What a handle needs of its connection. It tells the handle of `pause`, `resume` and `lost` in return."""

    def write(self, data: bytes | memoryview) -> None:
        """Take bytes, without waiting. May call the handle's `pause` before it returns."""

    def buffered(self) -> int:
        """Return how many bytes are taken and not yet in the kernel."""

    def close(self) -> None:
        """Send what was taken, then end the connection. Returns at once; the handle's `lost` follows."""

    def reset(self) -> None:
        """End the connection now, with what was taken and the kernel's memory. The handle's `lost` follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How one subscription is served: who it is, what is done at its cap, how it is ended, and how it is framed.

    `is_chunked` tells whether its bytes come in HTTP's chunks. `token` is the name of the token that let it in, if one
    did.
    """

    peer: str
    on_overflow: OnOverflow
    end: End
    is_chunked: bool
    token: str = ""
