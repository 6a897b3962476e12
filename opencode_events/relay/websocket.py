"""Joins a client's websocket with one of upstream's: what one side says the other hears, to the end.

Follows RFC 6455. Messages, pings, pongs and closes go on as they are, close codes and reasons included; how messages
are cut into frames is one hop's, and so are extensions, of which there are none. A side that does not read stops the
other; one that dies ends the other without a goodbye, so that nobody takes a cut for an end.
"""

import asyncio
import struct
from typing import Any

import aiohttp
from aiohttp import WSMessage, WSMsgType, hdrs, web
from multidict import CIMultiDict
from yarl import URL

from opencode_events.errors import RequestError, UpstreamAway, UpstreamSlow
from opencode_events.relay.headers import WEBSOCKET_FIELDS, response_fields
from opencode_events.settings import RelaySettings

# Bytes of one message, which is held whole: as much as one event may have. A terminal's messages have some KB, but what
# is pasted into one is a single message. Larger ones end both sides with 1009.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
# What describes the body of an answer, when only its head goes on.
BODY_FIELDS = (hdrs.CONTENT_LENGTH, hdrs.CONTENT_TYPE, hdrs.CONTENT_ENCODING)
# RFC 6455, section 7.4.1: what a close frame never says. They tell how a connection ended that said nothing.
UNSAID = frozenset({0, 1005, 1006, 1015})

# Seconds that a side which broke the protocol has to hear of it.
GOODBYE_S = 1.0
# Seconds that a side has to answer a goodbye (RFC 6455, section 7.1.1: "a reasonable time period").
GOODBYE_ANSWER_S = 10.0

Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class Refused(Exception):
    """Upstream does not want a websocket there: `answer` is what it said, `headers` its fields."""

    def __init__(self, answer: web.Response, headers: CIMultiDict[str]) -> None:
        super().__init__(answer.status)
        self.answer = answer
        self.headers = headers


class Gone(Exception):
    """One side is over, and said no goodbye."""


class Connection(aiohttp.ClientWebSocketResponse):
    """A websocket to upstream that can be ended at once, whether upstream reads or not. A session has it made."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        (self._handshake,) = (each for each in arguments if isinstance(each, aiohttp.ClientResponse))

    def abort(self) -> None:
        """End it without a word. What was said before, such as a goodbye, goes out if upstream takes it at once."""
        connection = self._handshake.connection
        transport = None if connection is None else connection.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        self._handshake.close()


async def join(
    request: web.Request,
    session: aiohttp.ClientSession,
    url: URL,
    fields: CIMultiDict[str],
    settings: RelaySettings,
) -> web.StreamResponse:
    """Open the websocket `url` of upstream, then the client's, and serve both until one of them ends.

    `fields` are those of the request to upstream. Raises Refused with upstream's answer if it does not want to,
    UpstreamAway or UpstreamSlow if it has none. If the caller is cancelled, because the client died, upstream is cut.
    """
    named = ",".join(request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])).split(",")
    asked = [name.strip() for name in named if name.strip()]
    if not web.WebSocketResponse(protocols=asked).can_prepare(request):
        raise RequestError("the websocket's handshake is not whole", field="Upgrade")
    for name in WEBSOCKET_FIELDS:
        fields.popall(name, None)
    upstream = await _open(session, url, fields, asked, settings)
    try:
        client = web.WebSocketResponse(
            protocols=() if upstream.protocol is None else (upstream.protocol,),
            timeout=GOODBYE_S,
            autoclose=False,
            autoping=False,
            compress=False,
            max_msg_size=MAX_MESSAGE_BYTES + 1,  # of which aiohttp takes one less
        )
        if asked:  # aiohttp reads the first of such fields only, and warns if the choice is not there
            handshake = CIMultiDict(request.headers)
            handshake.popall(hdrs.SEC_WEBSOCKET_PROTOCOL)
            if upstream.protocol is not None:
                handshake[hdrs.SEC_WEBSOCKET_PROTOCOL] = upstream.protocol
            request = request.clone(headers=handshake)
        try:
            await client.prepare(request)
            await _serve(client, upstream)
        except ConnectionError:
            pass  # the client has gone
        if request.transport is not None:
            request.transport.close()
        return client
    finally:
        upstream.abort()


async def _open(
    session: aiohttp.ClientSession, url: URL, fields: CIMultiDict[str], protocols: list[str], settings: RelaySettings
) -> Connection:
    """Return upstream's side, after its handshake."""
    try:
        async with asyncio.timeout(settings.upstream_answer_s):
            upstream = await session.ws_connect(
                url,
                headers=fields,
                protocols=protocols,
                timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_S),
                autoclose=False,
                autoping=False,
                max_msg_size=MAX_MESSAGE_BYTES + 1,  # of which aiohttp takes one less
            )
    except TimeoutError as error:
        raise UpstreamSlow("upstream did not answer in time") from error
    except aiohttp.WSServerHandshakeError as error:
        if error.status == 101 or error.headers is None:
            raise UpstreamAway(f"upstream's handshake is not one of a websocket: {error.message}") from error
        known = CIMultiDict(error.headers)
        try:
            kept = response_fields(
                (name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in known.items()
            )
        except ValueError as field:
            raise UpstreamAway(f"upstream's answer has a control character in the field {field}") from error
        for name in BODY_FIELDS:
            kept.popall(name, None)
        raise Refused(web.Response(status=error.status, headers=kept), known) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UpstreamAway(f"no answer from upstream: {str(error) or type(error).__name__}") from error
    assert isinstance(upstream, Connection)
    return upstream


async def _serve(client: web.WebSocketResponse, upstream: Connection) -> None:
    """Carry messages both ways until both sides have said goodbye, or one is over without."""
    try:
        async with asyncio.TaskGroup() as tasks:
            ways = [tasks.create_task(_carry(*way)) for way in ((client, upstream), (upstream, client))]
            _, waiting = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if waiting:
                _, waiting = await asyncio.wait(waiting, timeout=GOODBYE_ANSWER_S)
            for way in waiting:
                way.cancel()
    except* (Gone, ConnectionError):  # the other kind tells of a side that was written to, and was over
        pass


async def _carry(source: Side, sink: Side) -> None:
    """Say to one side what the other says, up to its goodbye."""
    while True:
        message: WSMessage = await source.receive()
        match message.type:
            case WSMsgType.TEXT:
                await sink.send_str(message.data)
            case WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            case WSMsgType.PING:
                await sink.ping(message.data)
            case WSMsgType.PONG:
                await sink.pong(message.data)
            case WSMsgType.CLOSE:
                await sink.send_frame(_goodbye(message.data, message.extra), WSMsgType.CLOSE)
                return
            case WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                # It broke the protocol, or the limit, and has been told so; the other side hears the same.
                await sink.send_frame(_goodbye(message.data.code, str(message.data)), WSMsgType.CLOSE)
                raise Gone
            case _:
                raise Gone


def _goodbye(code: int, reason: str | None) -> bytes:
    """Return the payload of a close frame (RFC 6455, section 5.5.1): at most 125 bytes, or none without a code."""
    if code in UNSAID:
        return b""
    return struct.pack("!H", code) + (reason or "").encode()[:123]
