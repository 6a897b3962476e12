"""What opens the daemon: opencode's password, bearer tokens, or nothing; and that with nothing it stays on its machine.

The shield shows the password to the server behind as well; that is `relay`'s.
"""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from opencode_events import credentials, sockets, tokens
from opencode_events.credentials import Credentials
from opencode_events.errors import SettingError
from opencode_events.settings import Settings
from opencode_events.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What is held. With neither, nobody has to show anything."""

    credentials: Credentials | None
    tokens: Tokens | None

    def refuse_strangers(self, addresses: Iterable[str]) -> None:
        """Raise SettingError if others than this machine could come to `addresses` and would be let in."""
        if self.credentials is not None or self.tokens is not None:
            return
        for address in addresses:
            if not is_loopback(address):
                raise SettingError(
                    "host",
                    f"{address} can be reached from other machines, and nobody would have to show a password: set "
                    f"{credentials.PASSWORD_ENV} or tokens_file, or listen on 127.0.0.1",
                )

    def prepare(self, new: Settings, *, revoke: Callable[[frozenset[str]], None]) -> Callable[[], None] | None:
        """Read the tokens of new settings; return what puts them in force. See `Reloaders.add`.

        `revoke` is then told the names of those that are gone, or are not what they were. Whether there are any is
        decided at the start. Raises SettingError.
        """
        held, path = self.tokens, new.access.tokens_file
        if held is None:
            return None if path else _nothing
        if not path:
            return None
        known = tokens.load(_expanded(path))
        return lambda: revoke(held.replace(known))


def _nothing() -> None:
    """There is nothing to put in force."""


def load(settings: Settings, environment: Mapping[str, str]) -> Keys:
    """Return what the settings and the environment name. Raises SettingError for a file that cannot be used."""
    path = settings.access.tokens_file
    return Keys(
        credentials=credentials.load(settings.relay, environment), tokens=Tokens(_expanded(path)) if path else None
    )


def check(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raise SettingError or DaemonError for what would keep a daemon with these settings from listening."""
    load(settings, environment).refuse_strangers(sockets.addresses(settings.server.host))
    sockets.tls_context(settings.server)


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can come to an address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _expanded(path: str) -> Path:
    return Path(path).expanduser()
