"""Where the daemon accepts connections: on sockets of its own, or on those handed over to it; with TLS if it is set."""

import asyncio
import socket
import ssl
from collections.abc import Callable, MutableMapping
from typing import Self

from opencode_events import sockets, systemd
from opencode_events.keys import Keys
from opencode_events.settings import Settings

# Seconds for a TLS handshake, at least: asyncio takes 0 for a mistake.
HANDSHAKE_MIN_S = 0.1


class Listeners:
    """Bound and listening from the start, so that nobody is refused; nobody is accepted before `serve`.

    `tls` is what to serve HTTPS with, None for plain HTTP; `inherited` is how many of them were handed over.
    """

    def __init__(
        self, settings: Settings, found: list[socket.socket], tls: ssl.SSLContext | None, *, inherited: int = 0
    ) -> None:
        self.tls = tls
        self.inherited = inherited
        self._settings = settings
        self._sockets = found
        self._servers: list[asyncio.Server] = []

    @classmethod
    def open(cls, settings: Settings, keys: Keys, environment: MutableMapping[str, str]) -> Self:
        """Take what systemd hands over, else listen on `host` and `port`.

        Raises DaemonError when a port is taken or a certificate cannot be used, and SettingError when strangers could
        come and would have to show nothing.
        """
        tls = sockets.tls_context(settings.server)
        inherited = sockets.adopt(systemd.inherited(environment), settings.server)
        own = [each.getsockname()[0] for each in inherited] or sockets.addresses(settings.server.host)
        keys.refuse_strangers(own)
        found = inherited or sockets.listen(settings.server)
        return cls(settings, found, tls, inherited=len(inherited))

    @property
    def url(self) -> str:
        """Where a client on this machine finds the first of them."""
        return sockets.url(self._sockets[0], "https" if self.tls else "http")

    async def serve(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Accept from now on; `protocol` makes what serves a connection.

        Not aiohttp's sites: a TLS connection is nobody's before its handshake, so that has its limit here, and its end
        a long one: the loop's own 30 s would cut who reads the last answer slowly.
        """
        settings, tls = self._settings, self.tls
        handshake_s = max(settings.watchdog.head_timeout_s, HANDSHAKE_MIN_S) if tls else None
        goodbye_s = float(settings.server.tcp_user_timeout_s) if tls else None
        for listener in self._sockets:
            server = await asyncio.get_running_loop().create_server(
                protocol,
                sock=listener,
                backlog=sockets.ACCEPTS_A_TURN,
                ssl=tls,
                ssl_handshake_timeout=handshake_s,
                ssl_shutdown_timeout=goodbye_s,
            )
            self._servers.append(server)
            listener.listen(settings.server.listen_backlog)  # the server has set the smaller number for both

    def close(self) -> None:
        """Accept no more. On sockets that were handed over, whoever comes waits for the next daemon."""
        for server in self._servers:
            server.close()
