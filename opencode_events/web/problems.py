"""Errors as RFC 9457 problem documents, in one place for every handler."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web

from opencode_events.errors import Busy, Forbidden, LogUnavailable, RequestError
from opencode_events.web.access import Access
from opencode_events.web.connections import Connections
from opencode_events.web.cors import Cors

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def problem(status: int, title: str, detail: str, members: Mapping[str, object] | None = None) -> web.Response:
    """Return a problem document. `members` are its extensions: `field`, `line`, `limit` and the like."""
    detail = detail.encode(errors="replace").decode()  # it may quote a path or a header, which hold any bytes
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(members or {})}
    headers = {"Content-Type": "application/problem+json"}
    return web.Response(status=status, body=msgspec.json.encode(document), headers=headers)


class Guard:
    """Makes of a handler what may stand at a path: asked for by those who may, and with an answer whatever happens.

    Errors become problem documents, answers can be read across origins, and the watchdog is told when one begins and
    ends.
    """

    def __init__(self, access: Access, cors: Cors, connections: Connections) -> None:
        self._access = access
        self._cors = cors
        self._connections = connections

    def __call__(self, handler: Handler) -> Handler:
        """Return `handler`, guarded."""

        async def answer(request: web.Request) -> web.StreamResponse:
            connection = self._connections.began(request)
            try:
                response = await self._serve(handler, request)
            finally:
                if connection is not None:
                    connection.active -= 1
                    connection.answered += 1
            if not response.prepared:
                self._cors.allow(request, response.headers)
            return response

        return answer

    async def _serve(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        try:
            refused = self._access.check(request)
            return await handler(request) if refused is None else refused
        except RequestError as error:
            return problem(error.status, error.title, str(error), error.members() | error.counts)
        except LogUnavailable as error:
            response = problem(503, "Event log unavailable", str(error), error.counts)
            response.headers["Retry-After"] = str(error.retry_after_s)
        except Busy as error:
            limit = {} if error.limit is None else {"limit": error.limit}
            response = problem(503, "Busy", str(error), limit | error.counts)
            response.headers["Retry-After"] = str(error.retry_after_s)
        except web.HTTPException:
            raise
        except (web.RequestPayloadError, ConnectionError) as error:
            response = problem(400, "Bad request", f"the body ended before it was whole: {error}")
        except Exception:  # a bug of ours; the caller gets the same form as for its own
            log.exception("request.failed", method=request.method, path=request.path)
            response = problem(500, "Internal error", "the daemon has a bug; its log tells more")
        return response


def refusal(status: HTTPStatus, *, allow: str = "") -> Handler:
    """Return a handler that answers `status` to whatever comes: for unknown paths and methods."""

    async def refuse(request: web.Request) -> web.Response:
        detail = f"{request.method} {request.path}: {status.description or status.phrase}"
        response = problem(status.value, status.phrase, detail)
        if allow:
            response.headers["Allow"] = allow
        return response

    return refuse


def forbidding(reason: str) -> Handler:
    """Return a handler that refuses whatever comes, because a setting says so."""

    async def refuse(request: web.Request) -> web.Response:
        raise Forbidden(f"{request.method} {request.path}: {reason}")

    return refuse
