"""Which instance a directory leads to, as upstream says; asking also boots it, so that its events are sent.

Upstream boots an instance at the first request for its directory. Its streams are cut out of the one global stream
here, so somebody must make that request: it is made for each newcomer, and again for those who are here when upstream
has been away. Answers are remembered until then, or until the instance is disposed of.
"""

import asyncio
import os
from collections.abc import Iterable
from typing import Protocol

import structlog

from opencode_events.errors import Busy, UpstreamAway, UpstreamSlow

log = structlog.get_logger()

# Answers that are remembered: more projects than anybody has open.
REMEMBERED = 1_000
AT_ONCE = 4


class Finder(Protocol):
    """What upstream is asked."""

    async def find_directory(self, asked: str) -> str:
        """Return the directory of the instance that `asked` leads to; raises UpstreamAway or UpstreamSlow."""


class Directories:
    """Answers of `upstream`, and what to do without one."""

    def __init__(self, upstream: Finder) -> None:
        self._upstream = upstream
        self._found: dict[str, str] = {}
        self._default: str | None = None

    async def find(self, asked: str) -> str:
        """Return the directory whose events a subscription to `asked` gets; empty asks for upstream's own.

        While upstream is away that is where `asked` leads to here. Raises Busy where it cannot be told.
        """
        if (found := self._found.get(asked)) is not None:
            return found
        try:
            found = await self._upstream.find_directory(asked)
        except (UpstreamAway, UpstreamSlow) as error:
            if asked:
                return await self._guess(asked)
            if self._default:
                return self._default
            detail = f"upstream's own directory is not known yet ({error}); name one: ?directory=D"
            raise Busy(detail, retry_after_s=1) from error
        if not asked:
            self._default = found
        if len(self._found) < REMEMBERED:
            self._found[asked] = found
        return found

    async def _guess(self, asked: str) -> str:
        """Return what upstream will say of a directory if it sees the same disk: it resolves links, as is done here."""
        if not asked.startswith("/"):
            if self._default is None:
                return asked
            asked = f"{self._default}/{asked}"
        try:
            return await asyncio.to_thread(os.path.realpath, asked)
        except (OSError, ValueError):  # no name that a file could have
            return asked

    def forget(self, directory: str | None = None) -> None:
        """The instance of `directory`, or every one, has to be booted again."""
        for asked, found in list(self._found.items()):
            if directory is None or found == directory:
                del self._found[asked]

    async def boot(self, directories: Iterable[str]) -> None:
        """Have upstream boot instances that somebody listens to."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(directory: str) -> None:
            async with gate:
                await self.find(directory)

        await asyncio.gather(*(one(directory) for directory in directories))
