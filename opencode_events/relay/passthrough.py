"""Passes a request on to the server behind the shield, and its answer back, whatever they are.

Owns the connections to upstream and how many requests there may be at a time. Both bodies are streams: neither is ever
held, a side that does not read stops the other, and the end of one side ends the other at once. What goes on of the
heads is `headers`', websockets are `websocket`'s.
"""

import asyncio
import contextlib
import secrets
from types import TracebackType
from typing import Self

import aiohttp
import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict, MultiMapping
from yarl import URL

from opencode_events.credentials import Credentials
from opencode_events.errors import Forbidden, RequestError, UpstreamAway, UpstreamLocked, UpstreamSlow
from opencode_events.preflight import is_preflight
from opencode_events.relay import headers, websocket
from opencode_events.relay.connector import connector
from opencode_events.relay.places import Places
from opencode_events.relay.upload import Upload
from opencode_events.settings import RelaySettings
from opencode_events.sockets import reset_on_close
from opencode_events.upgrade import is_websocket

log = structlog.get_logger()

# What may be asked a second time if it has no body (RFC 9110, section 9.2.2). Only that goes over a connection which
# was used before: upstream may be closing it, and aiohttp then asks again over a new one. Nothing else is ever sent
# twice, nor may it fail for that, so it gets a connection of its own, for a third of a millisecond.
REPEATABLE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS, hdrs.METH_PUT, hdrs.METH_DELETE})
# Seconds that a connection waits for its next request: less than the 5 s and more after which servers give theirs up.
KEEPALIVE_S = 2.0
# What is read of an answer before upstream is told to wait; twice as much may be held. More costs more: what is read
# has left the processor's cache before it is written (0.7 s of CPU for 1 GB, and 0.8 with 256 KiB).
HELD_ANSWER_BYTES = 64 * 1024
# One line of an answer's head. Node sends up to 16 KiB in all.
HEAD_BYTES = 64 * 1024
# TRACE shows its sender what upstream received, the shield's password included; CONNECT asks for a tunnel.
NOT_PASSED = frozenset({hdrs.METH_CONNECT, hdrs.METH_TRACE})
EVENT_STREAM = "text/event-stream"
# Nothing that the client has not said.
NO_AUTO_HEADERS = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)


class PassThrough:
    """The handler of every path that is not the daemon's own. To be entered before the first request.

    `credentials` are shown to upstream in the place of the client's; None leaves the client's as they are, unless
    `is_for_us`: clients show tokens, which are nobody else's business.
    """

    def __init__(self, settings: RelaySettings, credentials: Credentials | None, *, is_for_us: bool = False) -> None:
        self._settings = settings
        self._is_for_us = is_for_us
        self._credentials = credentials
        self._upstream = URL(settings.upstream)
        self._via = f"opencode-events-{secrets.token_hex(4)}"  # one's own: to know oneself again
        self._requests = Places(settings.max_upstream_requests, "requests to upstream")
        self._streams = Places(settings.max_upstream_streams, "streams from upstream")
        self._kept: aiohttp.ClientSession
        self._fresh: aiohttp.ClientSession
        self._answered = 0
        self._away = 0
        self._cut = 0

    async def __aenter__(self) -> Self:
        """Get ready. The limits on connections are our own, which refuse instead of letting wait."""
        self._kept = self._connect(connector(limit=0, keepalive_timeout=KEEPALIVE_S))
        self._fresh = self._connect(connector(limit=0, force_close=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections. Whoever is still being answered is cut."""
        await self._kept.close()
        await self._fresh.close()

    def _connect(self, made: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=made,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._settings.upstream_connect_s),
            auto_decompress=False,
            skip_auto_headers=NO_AUTO_HEADERS,
            read_bufsize=HELD_ANSWER_BYTES,
            max_line_size=HEAD_BYTES,
            max_field_size=HEAD_BYTES,
            ws_response_class=websocket.Connection,
        )

    def statistics(self) -> dict[str, object]:
        """Return what is being passed through now and at most was; how many were answered, refused, in vain or cut."""
        return {
            "requests": self._requests.taken,
            "peak_requests": self._requests.peak,
            "streams": self._streams.taken,
            "peak_streams": self._streams.peak,
            "refused": self._requests.refused + self._streams.refused,
            "answered": self._answered,
            "away": self._away,
            "cut": self._cut,
        }

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Serve one request. If its client goes, it is cancelled, and upstream is let go at once.

        Raises UpstreamAway or UpstreamSlow if there is no answer, Busy if there are too many at a time.
        """
        if request.method in NOT_PASSED:
            raise Forbidden(f"{request.method} is not passed on")
        url, fields = self._translate(request)
        try:
            with self._requests:
                if is_websocket(request.method, request.headers):
                    response = await self._join(request, url, fields)
                else:
                    response = await self._pass(request, url, fields)
        except (UpstreamAway, UpstreamSlow):
            self._away += 1
            raise
        self._answered += 1
        return response

    def _translate(self, request: web.Request) -> tuple[URL, CIMultiDict[str]]:
        """Return where a request goes, and its fields there."""
        if any(self._via in value for value in request.headers.getall(hdrs.VIA, [])):
            raise UpstreamAway("upstream is this very daemon")
        target = headers.origin_form(request.raw_path)
        # Preflights have not shown a password, so none is shown for them.
        held = self._credentials
        shown = None if held is None or is_preflight(request.method, request.headers) else held.authorization
        if held is not None or self._is_for_us:
            target = headers.without_auth_token(target)
        try:
            fields = headers.request_fields(
                request.raw_headers,
                authority=self._upstream.host_port_subcomponent or "",
                authorization=shown,
                peer=request.remote or "unknown",
                scheme=request.scheme,
                via=self._via,
                is_for_us=self._is_for_us,
            )
        except ValueError as error:
            raise RequestError("a field has a control character", field=str(error)) from error
        # The whole target as a path, and nothing of it is encoded again: "?" without a query, "//" and ".." stay.
        upstream = self._upstream
        url = URL.build(scheme=upstream.scheme, host=upstream.host or "", port=upstream.port, path=target, encoded=True)
        return url, fields

    async def _join(self, request: web.Request, url: URL, fields: CIMultiDict[str]) -> web.StreamResponse:
        with self._streams:
            try:
                return await websocket.join(request, self._fresh, url, fields, self._settings)
            except websocket.Refused as refusal:
                self._judge(refusal.answer.status, refusal.headers)
                return refusal.answer

    async def _pass(self, request: web.Request, url: URL, fields: CIMultiDict[str]) -> web.StreamResponse:
        upload = Upload(request) if request.body_exists else None
        with contextlib.ExitStack() as places:
            is_expected = _expects_stream(request)
            if is_expected:
                places.enter_context(self._streams)
            if upload is not None:
                places.callback(upload.abort)
            answer = await self._ask(request.method, url, fields, upload)
            places.callback(abort, answer)
            self._judge(answer.status, answer.headers)
            if answer.content_type == EVENT_STREAM and not is_expected:
                places.enter_context(self._streams)
            return await self._answer(request, answer)

    async def _ask(
        self, method: str, url: URL, fields: CIMultiDict[str], upload: Upload | None
    ) -> aiohttp.ClientResponse:
        """Return upstream's answer once its head is there."""
        session = self._kept if upload is None and method in REPEATABLE else self._fresh
        try:
            async with asyncio.timeout(self._settings.upstream_answer_s) as patience:
                if upload is not None:
                    upload.waits(patience, self._settings.upstream_answer_s)
                return await session.request(method, url, headers=fields, data=upload, allow_redirects=False)
        except TimeoutError as error:
            raise UpstreamSlow("upstream did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            if upload is not None and upload.failure is not None:
                raise RequestError(f"the body ended before it was whole: {upload.failure}") from error
            raise UpstreamAway(f"no answer from upstream: {_reason(error)}") from error

    def _judge(self, status: int, fields: MultiMapping[str]) -> None:
        """Raise UpstreamLocked if upstream does not take the shield's password.

        As it is, the answer would ask the client for a password, who has shown the right one, and make a browser
        forget it. A 401 without this challenge is about something else, and goes on.
        """
        if status == 401 and self._credentials is not None:
            challenges = fields.getall(hdrs.WWW_AUTHENTICATE, [])
            if any(challenge.lower().startswith("basic") for challenge in challenges):
                raise UpstreamLocked("upstream does not take the password that the shield holds")

    async def _answer(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Send upstream's answer on, as it comes."""
        try:
            fields = headers.response_fields(answer.raw_headers)
        except ValueError as error:
            raise UpstreamAway(f"upstream's answer has a control character in the field {error}") from error
        response = Relayed(answer.status, answer.reason or "", fields)
        if request.version < (1, 1) and hdrs.CONTENT_LENGTH not in fields:
            response.force_close()  # that is its end; aiohttp would say so, and keep the connection all the same
        sent = 0
        try:
            await response.prepare(request)
            while chunk := await _read(answer):
                await response.write(chunk)
                sent += len(chunk)
        except UpstreamAway as error:
            self._cut += 1
            log.warning("answer.cut", method=request.method, path=request.path, sent_bytes=sent, reason=str(error))
            _cut(request, response)
        except ConnectionError:
            pass  # the client has gone, and aiohttp finds that out by itself
        return response


class Relayed(web.StreamResponse):
    """An answer that says what upstream said, and nothing that aiohttp would add."""

    def __init__(self, status: int, reason: str, fields: CIMultiDict[str]) -> None:
        super().__init__(status=status, reason=reason, headers=fields)
        self._added = [name for name in (hdrs.CONTENT_TYPE, hdrs.SERVER) if name not in fields]

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        for name in self._added:
            self.headers.popall(name, None)


def abort(answer: aiohttp.ClientResponse) -> None:
    """Let go of an answer. One that has not come to its end takes its connection with it."""
    if answer.connection is not None and answer.connection.transport is not None:
        answer.connection.transport.abort()
    answer.close()


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Return what has come of an answer; nothing at its end."""
    try:
        return await answer.content.readany()
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamAway(f"upstream broke off: {_reason(error)}") from error


def _cut(request: web.Request, response: web.StreamResponse) -> None:
    """End a connection so that no client takes what it has for the whole answer, but has all that came of it.

    Where the end of the connection is the end of the answer (HTTP/1.0), only a reset says so.
    """
    transport = request.transport
    if transport is None:
        return
    if request.version < (1, 1) and response.content_length is None:
        if (socket := transport.get_extra_info("socket")) is not None:
            reset_on_close(socket)
        transport.abort()
    else:
        transport.close()


def _expects_stream(request: web.Request) -> bool:
    """Tell whether a request looks as if it would be answered with a stream: then it is not even asked without a place.

    Upstream keeps a listener for each that it ever began. What the answer is, is known by its content type only.
    """
    is_named = request.path.partition("#")[0].rstrip("/").endswith("/event")
    return request.method == hdrs.METH_GET and (is_named or EVENT_STREAM in request.headers.get(hdrs.ACCEPT, ""))


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
