"""The seam between the watchdog and what it watches: a subscriber's connection, or any other that was accepted."""

import socket
from typing import NamedTuple, Protocol


class Outlook(NamedTuple):
    """What the server itself knows of a connection at one moment; sizes in bytes.

    `buffered` is what the transport holds, `queued` what waits behind it, `written` all that the transport was ever
    given (0 where that is not counted). `is_closing`: the transport was closed, by the peer's FIN or by us;
    `is_ending`: we are ending it politely. `is_answering`: a request is being answered, or it is a stream; `answered`
    counts requests that were: after the first one a connection may be silent for as long as such are kept.
    """

    buffered: int = 0
    queued: int = 0
    written: int = 0
    is_closing: bool = False
    is_ending: bool = False
    is_answering: bool = True
    answered: int = 0


class Watched(Protocol):
    """One connection. Everything returns at once."""

    @property
    def socket(self) -> socket.socket | None:
        """The socket to ask the kernel about; None before it is there, and after."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing of its outlook needs a look: if the kernel says so too, it is at rest."""

    def outlook(self) -> Outlook:
        """Return what is known of it."""

    def evict(self, reason: str) -> None:
        """End it now: reset, with nothing left of it. The reason is why, if it has none yet."""

    def finish(self) -> None:
        """The peer has acknowledged everything, our goodbye included: let go of it."""

    def name(self) -> dict[str, object]:
        """Return who it is, as fields of a log line."""
