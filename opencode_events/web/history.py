"""`POST /sync/history`: the sync events that lie behind the sequence numbers a client has, as opencode answers it.

The answer is made as it is sent, a page at a time, so that a million rows cost the memory of one page.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec
import structlog
from aiohttp import web

from opencode_events.broker.broker import Broker
from opencode_events.errors import Forbidden, InvalidQuery, LogUnavailable, UnsupportedMedia
from opencode_events.eventlog.base import SyncRow
from opencode_events.prefixes import Prefixes
from opencode_events.settings import ServerSettings
from opencode_events.twins import MAX_SEQ
from opencode_events.web.access import granted
from opencode_events.web.bodies import JSON, Bodies, refuse_coded
from opencode_events.web.cors import Cors
from opencode_events.web.problems import SECURITY, Handler

log = structlog.get_logger()


class History:
    """The handler."""

    def __init__(self, broker: Broker, settings: ServerSettings, bodies: Bodies, cors: Cors) -> None:
        self._broker = broker
        self._settings = settings
        self._bodies = bodies
        self._cors = cors
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Answer with `[{id, aggregate_id, seq, type, data}, ...]`. Raises RequestError, Busy or LogUnavailable."""
        refuse_coded(request)
        if request.content_type != JSON:
            raise UnsupportedMedia(f"the content type must be {JSON}", field="Content-Type")
        known = read_known(await self._bodies.read(request, self._settings.max_body_bytes))
        pages = self._known_to(granted(request).prefixes, known)
        page = await anext(pages, None)  # before the head is out: what fails here can still be told
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-store", **SECURITY})
        self._cors.allow(request, response.headers)
        await response.prepare(request)
        lead, is_whole = b"[", False
        try:
            while page is not None:
                await response.write(lead + self._rows(page))
                lead, page = b",", await anext(pages, None)
            await response.write_eof(b"[]" if lead == b"[" else b"]")
            is_whole = True
        except LogUnavailable as error:
            log.warning("history.cut", reason=error.reason)
        finally:
            if not is_whole and request.transport is not None:
                request.transport.abort()  # half an answer must not look like a whole one
        return response

    async def _known_to(
        self, prefixes: Prefixes | None, known: Mapping[str, int]
    ) -> AsyncGenerator[Sequence[SyncRow], None]:
        """Yield what lies behind `known` of the directories that the asker may know of, None for all."""
        async for page in self._broker.history(known):
            rows = page if prefixes is None else [row for row in page if prefixes.has(row.directory)]
            if rows:
                yield rows

    def _rows(self, page: Sequence[SyncRow]) -> bytes:
        """Return rows as JSON, with a comma between two of them."""
        return b",".join(self._encode(_told(row)) for row in page)


def unbounded(pass_through: Handler) -> Handler:
    """Return what serves the history of an opencode server: not to who is bounded by directories.

    Its rows have none, so nobody can tell which of them that would be.
    """

    async def serve(request: web.Request) -> web.StreamResponse:
        if granted(request).prefixes is not None:
            raise Forbidden("upstream's history is not bounded by the token's directories", field="Authorization")
        return await pass_through(request)

    return serve


def _told(row: SyncRow) -> dict[str, object]:
    """Return what opencode says of a row."""
    told = row._asdict() | {"data": msgspec.Raw(row.data)}
    del told["directory"]
    return told


def read_known(body: bytes) -> dict[str, int]:
    """Return the sequence number of each aggregate that a client has. Raises InvalidQuery, naming the aggregate."""
    try:
        known = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidQuery(f"the body is not JSON: {error}") from None
    if not isinstance(known, dict):
        raise InvalidQuery("the body must be an object: the last sequence number by aggregate")
    for aggregate, seq in known.items():
        if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= MAX_SEQ:
            raise InvalidQuery(f"a sequence number is a whole number from 0, not {seq!r:.40}", field=aggregate[:64])
    return known
