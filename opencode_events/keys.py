"""What opens the daemon: opencode's password, bearer tokens, or nothing; and that with nothing it stays on its machine.

The shield shows the password to the server behind as well; that is `relay`'s.
"""

import functools
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from opencode_events import credentials, secretfile, sockets, tokens
from opencode_events.credentials import Credentials
from opencode_events.errors import SettingError
from opencode_events.settings import Settings
from opencode_events.tokens import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What is held. With neither, nobody has to show anything. `reread` returns the credentials as they are now.

    None if they cannot be read a second time: a pipe gives what it has once.
    """

    credentials: Credentials | None
    tokens: Tokens | None
    reread: Callable[[], Credentials | None] = lambda: None

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

    def prepare_password(self, revoke: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        """Read the password again; return what puts it in force. See `Reloaders.add`.

        With another one, `revoke` is told the empty name of whoever has shown the old one. Whether there is one, and in
        which file, is decided at the start. Raises SettingError.
        """
        held = self.credentials
        read = None if held is None else self.reread()

        def commit() -> None:
            if held is not None and read is not None and held.take(read):
                revoke(frozenset({tokens.EVERYTHING.name}))

        return commit

    def prepare_tokens(self, new: Settings, revoke: Callable[[frozenset[str]], None]) -> Callable[[], None] | None:
        """Read the tokens of new settings; return what puts them in force. See `Reloaders.add`.

        `revoke` is then told the names of those that are gone, or are not what they were. Whether there are tokens is
        decided at the start. Raises SettingError.
        """
        held, path = self.tokens, new.access.tokens_file
        if (held is None) != (not path):
            return None
        known = None if held is None else tokens.load(_expanded(path))

        def commit() -> None:
            if held is not None and known is not None:
                revoke(held.replace(known))

        return commit


def load(settings: Settings, environment: Mapping[str, str]) -> Keys:
    """Return what the settings and the environment name. Raises SettingError for a file that cannot be used."""
    path = settings.access.tokens_file
    read = functools.partial(credentials.load, settings.relay, environment)
    held = Tokens(_expanded(path)) if path else None
    if secretfile.is_pipe(_expanded(settings.relay.upstream_password_file)):
        return Keys(credentials=read(), tokens=held)
    return Keys(credentials=read(), tokens=held, reread=read)


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
