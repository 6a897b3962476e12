"""The real opencode server as the relay asks it: its one stream of events, its history, and what it knows of places.

Owns the connections to it and what its answers must look like; what becomes of them is others'. Errors of aiohttp and
of the system are translated here. What clients ask of it is passed through elsewhere.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import msgspec

from opencode_events.credentials import Credentials
from opencode_events.errors import UpstreamAway, UpstreamLocked, UpstreamSlow
from opencode_events.relay.connector import connector
from opencode_events.relay.jsonarray import ItemSplitter
from opencode_events.settings import RelaySettings

EVENT_STREAM = "text/event-stream"
# Seconds for a small answer: a busy server takes some, one that hangs all of them.
SMALL_ANSWER_S = 10.0
# And of waiting for the first sign of life, one try after the other.
PROBES_S = (1.0, 3.0, SMALL_ANSWER_S)
# Directories that are asked for at a time, each for somebody who has just come: upstream may boot an instance for it.
FINDS_AT_ONCE = 100
# Bytes that are read ahead of an answer; of the stream as much as comes in a burst between two turns.
READ_AHEAD_BYTES = 256 * 1024
# Bytes that a small answer may have: a server that is another program may send anything.
SMALL_BYTES = 256 * 1024


class Upstream:
    """Asks one server. An asynchronous context: its connections are closed at the end."""

    def __init__(self, settings: RelaySettings, credentials: Credentials | None, *, max_row_bytes: int) -> None:
        self._settings = settings
        self._base = settings.upstream.rstrip("/")
        self._credentials = credentials
        self._max_row_bytes = max_row_bytes
        self._session: aiohttp.ClientSession  # for the relay, which is one
        self._finding: aiohttp.ClientSession  # for those who come, who must not stand in its way

    async def __aenter__(self) -> Self:
        self._session = self._connect(limit=0)
        self._finding = self._connect(limit=FINDS_AT_ONCE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._finding.close()

    def _connect(self, *, limit: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector(limit=limit),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_AHEAD_BYTES,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.upstream_connect_s),
        )

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[aiohttp.ClientResponse]:
        """Hold the stream of all events open. Raises UpstreamAway, UpstreamLocked or UpstreamSlow.

        It is closed at the end whatever it still has to say. Who reads it may close it before.
        """
        await self._probe()
        # What upstream compresses it would hold back; it does not, unless it is asked.
        headers = {"Accept": EVENT_STREAM, "Accept-Encoding": "identity", "Cache-Control": "no-cache"}
        within_s = min(SMALL_ANSWER_S, self._settings.upstream_silence_s)
        response = await self._ask(self._session, "GET", "/global/event", within_s, headers=headers)
        try:
            if response.content_type != EVENT_STREAM:  # what it does not know is answered with its web page, and 200
                raise UpstreamAway(f"GET /global/event is answered with {response.content_type}, not {EVENT_STREAM}")
            yield response
        finally:
            response.close()

    async def _probe(self) -> None:
        """Wait until upstream answers: for half a second after its port opens it takes requests, and answers none."""
        for patience_s in PROBES_S:
            try:
                async with asyncio.timeout(patience_s):
                    response = await self._request(self._session, "GET", "/global/health")
                response.close()  # whatever it is
                return
            except TimeoutError:
                continue
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise UpstreamAway(f"GET /global/health: {error!s:.200}") from error
        raise UpstreamSlow(f"GET /global/health was not answered within {PROBES_S[-1]:g} s")

    async def _request(
        self, session: aiohttp.ClientSession, method: str, path: str, **extra: Any
    ) -> aiohttp.ClientResponse:
        """Ask with the password that is held now; a reload may change it."""
        headers = dict(extra.pop("headers", {}))
        if self._credentials is not None:
            headers["Authorization"] = self._credentials.authorization
        return await session.request(method, self._base + path, headers=headers, allow_redirects=False, **extra)

    async def history(self, known: Mapping[str, int]) -> AsyncGenerator[list[bytes], None]:
        """Yield the rows that lie behind the sequence numbers in `known`, as text, and all of other aggregates.

        Raises UpstreamAway or UpstreamSlow; also when the answer breaks off: what came before is then not all.
        """
        body = msgspec.json.encode(known)
        headers = {"Content-Type": "application/json"}
        within_s = self._settings.upstream_silence_s  # a server that gathers rows for longer sends no heartbeats either
        response = await self._ask(self._session, "POST", "/sync/history", within_s, data=body, headers=headers)
        splitter = ItemSplitter(self._max_row_bytes)
        try:
            while piece := await self._read(response):
                yield splitter.feed(piece)
            splitter.finish()
        except ValueError as error:
            raise UpstreamAway(f"POST /sync/history is answered with what is no history: {error}") from error
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the next piece of an answer, empty at its end."""
        try:
            async with asyncio.timeout(self._settings.upstream_silence_s):
                return await response.content.readany()
        except TimeoutError as error:
            raise UpstreamSlow(f"{response.url.path} stopped in the middle of an answer") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamAway(f"{response.url.path} broke off: {error!r}") from error

    async def find_directory(self, asked: str) -> str:
        """Return the directory of the instance that `asked` leads to, the server's own when that is empty.

        The server boots the instance for it, so that its events are sent from now on.
        """
        path = f"/path?directory={quote(asked, safe='')}" if asked else "/path"
        found = (await self._small(self._finding, path)).get("directory")
        if not isinstance(found, str) or not found:
            raise UpstreamAway("GET /path is answered without a directory")
        return found

    async def find_session(self, identity: str) -> dict[str, Any]:
        """Return what the server knows of a session. Raises UpstreamAway if it knows nothing."""
        return await self._small(self._session, f"/session/{quote(identity, safe='')}")

    async def _small(self, session: aiohttp.ClientSession, path: str) -> dict[str, Any]:
        """Return a small JSON object."""
        response = await self._ask(session, "GET", path, SMALL_ANSWER_S)
        try:
            async with asyncio.timeout(SMALL_ANSWER_S):
                document = msgspec.json.decode(await _read_small(response.content))
        except TimeoutError as error:
            raise UpstreamSlow(f"GET {path} stopped in the middle of an answer") from error
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, ValueError, RecursionError) as error:
            raise UpstreamAway(f"GET {path}: {error!r:.200}") from error
        finally:
            response.close()
        if not isinstance(document, dict):
            raise UpstreamAway(f"GET {path} is not answered with an object")
        return document

    async def _ask(
        self, session: aiohttp.ClientSession, method: str, path: str, within_s: float, **extra: Any
    ) -> aiohttp.ClientResponse:
        """Return an answer of status 200 whose body is not read. Raises UpstreamAway, -Locked or -Slow."""
        try:
            async with asyncio.timeout(within_s):
                response = await self._request(session, method, path, **extra)
        except TimeoutError as error:
            raise UpstreamSlow(f"{method} {path} was not answered within {within_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamAway(f"{method} {path}: {error!s:.200}") from error
        if response.status == 200:
            return response
        response.close()
        if response.status == 401:
            if self._credentials is not None:
                raise UpstreamLocked("it refuses the password that is held")
            raise UpstreamLocked("it wants a password: give upstream_password_file, or OPENCODE_SERVER_PASSWORD")
        raise UpstreamAway(f"{method} {path} is answered with {response.status}")


async def _read_small(content: aiohttp.StreamReader) -> bytes:
    """Return a body to its end. Raises ValueError for one that is not small."""
    body = b""
    while piece := await content.readany():
        body += piece
        if len(body) > SMALL_BYTES:
            raise ValueError(f"over {SMALL_BYTES} bytes")
    return body
