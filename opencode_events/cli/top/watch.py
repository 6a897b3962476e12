"""Asks a daemon again and again, over one connection, wherever it is by now.

A daemon that is restarted may come back at another port, so what its state directory says is read anew after each
failure. Raises what the other commands raise: DaemonError where nobody answers, Refused where the answer is no.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from opencode_events.cli import client
from opencode_events.cli.exits import Exit
from opencode_events.cli.top.handles import read
from opencode_events.cli.top.view import Snapshot, compare
from opencode_events.errors import DaemonError


class Watch:
    """One daemon. `find` returns its URL, None while there is none."""

    def __init__(self, find: Callable[[], str | None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._url: str | None = None
        self._last: Snapshot | None = None
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = client.session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def look(self) -> Snapshot:
        """Return what there is now, with the rates since the last look."""
        status = _object("/-/status", await self._ask("GET", "/-/status"))
        body = await self._ask("GET", "/-/subscribers")
        try:
            handles = read(body)
        except msgspec.DecodeError as error:
            raise client.Refused(f"{self._url}/-/subscribers is not a daemon's answer") from error
        now = Snapshot(url=str(self._url), at_s=self._clock(), status=status, handles=handles, body=body)
        compare(self._last, now)
        self._last = now
        return now

    async def evict(self, number: int) -> dict[str, Any]:
        """End one handle; return what it was before."""
        path = f"/-/subscribers/{number}"
        found = _object(path, await self._ask("DELETE", path)).get("evicted")
        return found if isinstance(found, dict) else {}

    async def _ask(self, method: str, path: str) -> bytes:
        """Return a good answer's body."""
        if self._url is None:
            self._url = self._find()
            if self._url is None:
                raise DaemonError("not running", exit_code=Exit.NOT_RUNNING)
        url = self._url
        try:
            async with asyncio.timeout(client.ANSWER_S), self._session.request(method, url + path) as response:
                if response.status != 200:
                    raise await client.refusal(response)
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._url = None
            raise client.unreachable(url, error) from error


def _object(path: str, body: bytes) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        document = None
    if not isinstance(document, dict):
        raise client.Refused(f"{path} is not a daemon's answer")
    return document
