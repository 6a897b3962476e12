"""Which web pages may read: the origins that opencode's own server allows, this machine's, and configured ones.

Follows the Fetch standard, "CORS protocol". An origin that is not allowed gets no header; the request is served, for
it is the browser that keeps the answer from the page.
"""

import fnmatch
import re

from aiohttp import web
from multidict import CIMultiDict

OWN = re.compile(r"http://(localhost|127\.0\.0\.1)(:[0-9]{1,5})?|https://app\.opencode\.ai|tauri://localhost")
METHODS = "GET, POST, OPTIONS"
HEADERS = ("accept", "authorization", "cache-control", "content-type", "last-event-id", "x-opencode-*")
MAX_AGE_S = "86400"


class Cors:
    """Answers for the built-in origins and `origins`, exact ones."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def is_allowed(self, origin: str) -> bool:
        """Tell whether a page of `origin` may read."""
        return origin in self._origins or OWN.fullmatch(origin) is not None

    def allow(self, request: web.BaseRequest, headers: "CIMultiDict[str]") -> None:
        """Add to an answer's headers what the request's origin needs."""
        headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin is not None and self.is_allowed(origin):
            headers["Access-Control-Allow-Origin"] = origin

    async def preflight(self, request: web.Request) -> web.Response:
        """Answer OPTIONS: of the header names that the page asks for, those that may be sent."""
        response = web.Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = METHODS
        response.headers["Access-Control-Max-Age"] = MAX_AGE_S
        asked = [name.strip().lower() for name in request.headers.get("Access-Control-Request-Headers", "").split(",")]
        allowed = [name for name in asked if any(fnmatch.fnmatchcase(name, known) for known in HEADERS)]
        if allowed:
            response.headers["Access-Control-Allow-Headers"] = ", ".join(allowed)
        return response
