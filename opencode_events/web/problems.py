"""Errors as RFC 9457 problem documents, in one place for every handler."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import msgspec
import structlog
from aiohttp import web

from opencode_events.errors import Busy, Forbidden, LogUnavailable, RequestError, TooMany
from opencode_events.web.access import Access, Need, granted
from opencode_events.web.connections import KEY, Connections
from opencode_events.web.cors import Cors
from opencode_events.web.memory import Memory

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Of every answer that is our own, pages included: nobody guesses what it is, puts it into a frame, or is told of the
# address, which may have a token, by a link in it. A page that needs more says so itself.
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
PROBLEM = "application/problem+json"
# What is not done for anybody new while memory is short; who operates is served, to see why.
WORK: frozenset[Need] = frozenset({"subscribe", "publish", "upstream"})


def problem(status: int, title: str, detail: str, members: Mapping[str, object] | None = None) -> web.Response:
    """Return a problem document. `members` are its extensions: `field`, `line`, `limit` and the like."""
    detail = detail.encode(errors="replace").decode()  # it may quote a path or a header, which hold any bytes
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail, **(members or {})}
    headers = {"Content-Type": PROBLEM}
    return web.Response(status=status, body=msgspec.json.encode(document), headers=headers)


def head_too_large(limit: int) -> web.Response:
    """Return the answer to a head of more than `limit` bytes."""
    return problem(431, "Head too large", f"the head is over max_head_bytes ({limit})")


class Guard:
    """Makes of a handler what may stand at a path: asked for by those who may, and with an answer whatever happens.

    Errors become problem documents, answers can be read across origins, and the watchdog is told when one begins and
    ends. `memory` tells whether there is any for somebody new.
    """

    def __init__(
        self, access: Access, cors: Cors, connections: Connections, memory: Memory, *, max_head_bytes: int
    ) -> None:
        self._access = access
        self._memory = memory
        self._max_head_bytes = max_head_bytes
        self._cors = cors
        self._connections = connections

    def __call__(self, handler: Handler, need: Need = "any") -> Handler:
        """Return `handler`, guarded: for those who may do what it needs."""

        async def answer(request: web.Request) -> web.StreamResponse:
            connection = self._connections.began(request)
            try:
                response = await self._serve(handler, request, need)
            finally:
                if connection is not None:
                    connection.active -= 1
                    connection.answered += 1
            if not response.prepared:  # a stream is, and what upstream answers
                if response.content_type == PROBLEM or response.status == HTTPStatus.UNAUTHORIZED:
                    self._connections.note_answer(response.status)  # not that it is not ready: that was the question
                self._cors.allow(request, response.headers)
                for name, value in SECURITY.items():
                    response.headers.setdefault(name, value)
            if self._connections.are_ending:
                response.force_close()  # the next request is for whoever listens then
            return response

        return answer

    async def _serve(self, handler: Handler, request: web.Request, need: Need) -> web.StreamResponse:
        try:
            if head_bytes(request) > self._max_head_bytes:
                return head_too_large(self._max_head_bytes)
            refused = self._access.check(request, need)
            if refused is not None:
                return refused
            if (connection := request.get(KEY)) is not None:
                connection.token = granted(request).name
            if need in WORK:
                self._memory.check()
            return await handler(request)
        except RequestError as error:
            response = problem(error.status, error.title, str(error), error.members() | error.counts)
            if isinstance(error, TooMany):
                response.headers["Retry-After"] = str(error.retry_after_s)
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
        except MemoryError:
            response = problem(503, "Busy", "there is no memory for this")
            response.headers["Retry-After"] = "5"
        except Exception:  # a bug of ours; the caller gets the same form as for its own
            log.exception("request.failed", method=request.method, path=request.path)
            response = problem(500, "Internal error", "the daemon has a bug; its log tells more")
        return response


def head_bytes(request: web.BaseRequest) -> int:
    """Return the size of a request's head, but for its line ends."""
    return len(request.raw_path) + sum(len(name) + len(value) for name, value in request.raw_headers)


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
