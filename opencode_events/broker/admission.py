"""Who may become a subscriber: how many at a time there may be in all, from one address, and behind the head."""

import ipaddress
from collections.abc import Callable

from opencode_events.errors import Busy, TooMany
from opencode_events.settings import BrokerSettings

# A machine, or its user, has at least so many leading bits of an IPv6 address to itself, and picks the others at will.
IPV6_BITS = 64


class Admission:
    """Counts subscribers against the limits. `behind` returns how many of them read from the log."""

    def __init__(self, settings: BrokerSettings, behind: Callable[[], int]) -> None:
        self.settings = settings
        self._behind = behind
        self._by_address: dict[str, int] = {}
        self._count = 0

    def enter(self, peer: str, *, is_behind: bool) -> None:
        """Count one more, at `host:port`. Raises Busy or TooMany at a limit, and counts nothing."""
        settings = self.settings
        if self._count >= settings.max_subscribers:
            limit = settings.max_subscribers
            raise Busy(f"max_subscribers ({limit}) are subscribed", retry_after_s=5, limit=limit)
        address = address_of(peer)
        if self._by_address.get(address, 0) >= settings.max_subscribers_per_peer:
            limit = settings.max_subscribers_per_peer
            raise TooMany(f"max_subscribers_per_peer ({limit}) come from {address}", retry_after_s=5, limit=limit)
        if is_behind and self._behind() >= settings.max_replays:
            limit = settings.max_replays
            raise Busy(f"max_replays ({limit}) are reading what they have missed", retry_after_s=1, limit=limit)
        self._by_address[address] = self._by_address.get(address, 0) + 1
        self._count += 1

    def leave(self, peer: str) -> None:
        """Count one less."""
        address = address_of(peer)
        self._count -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


def address_of(peer: str) -> str:
    """Return whom `host:port` counts for: its address, of IPv6 the network."""
    host = peer.rpartition(":")[0] or peer
    if not host.startswith("["):
        return host
    try:
        address = ipaddress.IPv6Address(host.strip("[]").partition("%")[0])
    except ValueError:
        return host
    if address.is_loopback:
        return str(address)
    return str(ipaddress.IPv6Network((address, IPV6_BITS), strict=False))
