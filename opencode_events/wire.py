"""How events and control frames look on a connection: blocks of text/event-stream, lines of NDJSON, chunks of HTTP.

The grammar is WHATWG HTML, "9.2.5 Parsing an event stream", in reverse; data is always one line, so a block is at
most three fields. A frame has no `event:` field, so that `EventSource.onmessage` sees it. Pure.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from opencode_events.events import Event, Stream
from opencode_events.mint import mint_id

Format = Literal["sse", "ndjson"]

CONNECTED = "server.connected"
HEARTBEAT = "server.heartbeat"
LIVE = "server.stream.live"
EXPIRED = "server.stream.expired"
LAGGING = "server.stream.lagging"
CLOSING = "server.stream.closing"

# RFC 9112, section 7.1: the last chunk, without trailers.
LAST_CHUNK = b"0\r\n\r\n"
CONTENT_TYPES: Mapping[Format, str] = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


def _sse(cursor: bytes, data: bytes) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (cursor, data)


def _ndjson(cursor: bytes, data: bytes) -> bytes:
    return b'%b,"cursor":"%b"}\n' % (data[:-1], cursor)


# How a feed writes one event, given the text of its cursor.
ENCODERS: Mapping[tuple[Stream, Format], Callable[[bytes, Event], bytes]] = {
    ("global", "sse"): lambda cursor, event: _sse(cursor, event.envelope),
    ("global", "ndjson"): lambda cursor, event: _ndjson(cursor, event.envelope),
    ("instance", "sse"): lambda cursor, event: _sse(cursor, event.payload),
    ("instance", "ndjson"): lambda cursor, event: _ndjson(cursor, event.payload),
}


def control(
    stream: Stream,
    form: Format,
    kind: str,
    properties: Mapping[str, object] | None = None,
    *,
    cursor: str | None = None,
    retry_ms: int | None = None,
    directory: str | None = None,
) -> bytes:
    """Return one control frame: a data frame of the stream's shape, with an id only where `cursor` is given.

    `retry_ms` sets the client's reconnection time, in the same block; NDJSON has no place for it. `directory` stands in
    the envelope, which an instance's stream has not.
    """
    frame: dict[str, object] = {"id": mint_id(), "type": kind, "properties": properties or {}}
    if stream == "global":
        frame = {"payload": frame} if directory is None else {"directory": directory, "payload": frame}
    data = msgspec.json.encode(frame)
    if form == "ndjson":
        return data + b"\n" if cursor is None else _ndjson(cursor.encode(), data)
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return retry + (b"data: %b\n\n" % data if cursor is None else _sse(cursor.encode(), data))


def chunk(body: bytes) -> bytes:
    """Return `body`, which must not be empty, as one chunk (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(body), body)
