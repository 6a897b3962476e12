"""The seam between a handle and the broker it belongs to: what a handle needs of it, and tells it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from opencode_events.broker.budget import Budget
from opencode_events.settings import BrokerSettings

if TYPE_CHECKING:
    from opencode_events.broker.subscriber import Subscriber


class Owner(Protocol):
    """What a handle needs of the broker."""

    settings: BrokerSettings
    budget: Budget

    @property
    def head_position(self) -> int:
        """The position of the last event that was fanned out."""

    def cursor(self, position: int) -> str:
        """Return the cursor after `position`."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back in `delay_s` seconds."""

    def clock(self) -> float:
        """Return the time in seconds, of no particular origin."""

    def fell_behind(self, subscriber: "Subscriber") -> None:
        """`subscriber` reads from the log from now on: its feed must not serve it."""

    def wants_page(self, subscriber: "Subscriber") -> None:
        """`subscriber` is behind and has sent all it had."""

    def closing(self, subscriber: "Subscriber") -> None:
        """`subscriber` has begun to close: it must be in no feed any more."""

    def closed(self, subscriber: "Subscriber") -> None:
        """`subscriber` is over."""

    def over_budget(self) -> None:
        """More is held than the budget allows."""
