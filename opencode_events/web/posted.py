"""What one request may publish: how its texts become events, about which directories, and how many of them."""

from collections.abc import Callable, Sequence

from opencode_events.errors import Forbidden, TooMany
from opencode_events.events import Event, Skipped
from opencode_events.tokens import Token
from opencode_events.web.rates import Rates


class Posted:
    """Turns texts into events with `parse`, for somebody who has shown `token` and is at `peer`."""

    __slots__ = ("_parse", "_peer", "_rates", "_token")

    def __init__(self, parse: Callable[[bytes], Event | Skipped], token: Token, peer: str, rates: Rates) -> None:
        self._parse = parse
        self._token = token
        self._peer = peer
        self._rates = rates

    def __call__(self, text: bytes) -> Event | Skipped:
        """Return the event of a text. Raises RequestError: Forbidden for one of a directory that is not the token's."""
        item = self._parse(text)
        prefixes = self._token.prefixes
        if prefixes is not None and isinstance(item, Event) and not prefixes.has(item.directory):
            raise Forbidden(f"the token {self._token.name} is not for this directory", field="directory")
        return item

    def charge(self, count: int, lines: Sequence[int] = ()) -> None:
        """Count `count` of them, which stood on `lines`, if on any.

        Raises TooMany, with the first line, and counts none, when their sender has published enough for now.
        """
        try:
            self._rates.take(self._token, self._peer, count)
        except TooMany as error:
            error.line = lines[0] if lines else None
            raise
