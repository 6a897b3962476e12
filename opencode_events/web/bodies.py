"""The bodies of requests: read whole, up to a limit, or counted while they come in pieces.

Each is bounded by itself, and many that never end would add up: so all that are being received share a limit.
"""

from aiohttp import web

from opencode_events.errors import Busy, TooLarge, UnsupportedMedia
from opencode_events.web.connections import read_piece

JSON = "application/json"
NDJSON = "application/x-ndjson"


class Bodies:
    """A count of the bytes of all bodies that are being received, against `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def hold(self, size: int) -> None:
        """Count `size` bytes more. Raises Busy, and counts nothing, when they do not fit."""
        if self.held + size > self._limit:
            detail = f"unfinished bodies hold max_unfinished_bytes ({self._limit}) together"
            raise Busy(detail, retry_after_s=1, limit=self._limit)
        self.held += size

    def release(self, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size

    async def read(self, request: web.BaseRequest, limit: int, advice: str = "") -> bytes:
        """Return a whole body. Raises TooLarge as soon as it is, and Busy when too many others are unfinished."""
        pieces, size = [], request.content_length or 0
        try:
            if size <= limit:
                size = 0
                while size <= limit and (piece := await read_piece(request)):
                    self.hold(len(piece))
                    size += len(piece)
                    pieces.append(piece)
            if size > limit:
                raise TooLarge(f"the body is over max_body_bytes ({limit}){advice}", limit=limit)
            return b"".join(pieces)
        finally:
            self.release(sum(map(len, pieces)))


def refuse_coded(request: web.BaseRequest) -> None:
    """Raise UnsupportedMedia for a body that is compressed: a small one could become a large one."""
    if (coding := request.headers.get("Content-Encoding", "identity")).lower() != "identity":
        raise UnsupportedMedia(
            f"a body coded as {coding[:40]} is not taken: send it as it is", field="Content-Encoding"
        )
