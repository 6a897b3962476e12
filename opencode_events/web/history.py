"""`POST /sync/history`: the sync events that lie behind the sequence numbers a client has, as opencode answers it.

The answer is made as it is sent, a page at a time, so that a million rows cost the memory of one page.
"""

from collections.abc import Sequence

import msgspec
import structlog
from aiohttp import web

from opencode_events.broker.broker import Broker
from opencode_events.errors import InvalidQuery, LogUnavailable, UnsupportedMedia
from opencode_events.eventlog.base import SyncRow
from opencode_events.settings import ServerSettings
from opencode_events.twins import MAX_SEQ
from opencode_events.web.bodies import JSON, Bodies, refuse_coded
from opencode_events.web.cors import Cors

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
        pages = self._broker.history(known)
        page = await anext(pages, None)  # before the head is out: what fails here can still be told
        response = web.StreamResponse(headers={"Content-Type": JSON, "Cache-Control": "no-store"})
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

    def _rows(self, page: Sequence[SyncRow]) -> bytes:
        """Return rows as JSON, with a comma between two of them."""
        return b",".join(self._encode({**row._asdict(), "data": msgspec.Raw(row.data)}) for row in page)


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
