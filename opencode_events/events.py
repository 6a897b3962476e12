"""What an event is: the text that was published, checked, and what subscribers can select it by.

An `Event` keeps the envelope's bytes as they came (JSON white space aside) and where the payload stands in them.
Checking is msgspec's; nothing is decoded that is not looked at. Pure. The shapes are opencode's: `GET /event` carries
payloads, `GET /global/event` envelopes.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from opencode_events import jsontext, twins
from opencode_events.errors import InvalidEvent, TooLarge
from opencode_events.mint import mint_id
from opencode_events.twins import SyncEvent

DISPOSED = "server.instance.disposed"
GAP = "server.stream.gap"
# opencode's name for what belongs to no instance: no instance stream carries it.
NO_INSTANCE = "global"
SYNC = "sync"
# Made by every server for its own connections: a recording that is posted back must not send them again.
NOT_TAKEN = ("server.connected", "server.heartbeat")
NOT_TAKEN_PREFIX = "server.stream."
# Filters test the type of every event, and remember it. opencode's longest has 30 characters.
MAX_TYPE_CHARS = 256

Stream = Literal["instance", "global"]


class Event(NamedTuple):
    """One event: `envelope[start:end]` is its payload.

    `id` and `is_sync` together are the idempotency key: upstream sends each durable event twice under one id, plain
    and as a `sync` twin. `type` is what filters test: a twin's own type, without its version. `directory`,
    `workspace` and `session` are None where the event has none. A twin stands at `seq` (from 0, without gaps) of its
    `aggregate`; both are None of a plain event.
    """

    envelope: bytes
    start: int
    end: int
    id: str
    type: str
    is_sync: bool
    directory: str | None
    workspace: str | None
    session: str | None
    aggregate: str | None = None
    seq: int | None = None

    @property
    def payload(self) -> bytes:
        """The payload's JSON, on one line."""
        return self.envelope[self.start : self.end]


class Skipped(NamedTuple):
    """A published frame that is a server's own, such as its heartbeats: counted, not taken."""

    id: str | None


class _Envelope(msgspec.Struct, gc=False):
    payload: msgspec.Raw
    directory: str | None = None
    project: str | None = None
    workspace: str | None = None
    cursor: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Properties(msgspec.Struct, gc=False):
    sessionID: Any = None


class _Payload(msgspec.Struct, gc=False):
    type: str
    id: str | msgspec.UnsetType = msgspec.UNSET
    properties: _Properties | msgspec.UnsetType = msgspec.UNSET
    syncEvent: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cursor: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Shape(msgspec.Struct, gc=False):
    type: str


class _EnvelopeShape(msgspec.Struct, gc=False):
    payload: _Shape


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_check_global = msgspec.json.Decoder(list[_EnvelopeShape]).decode
_check_instance = msgspec.json.Decoder(list[_Shape]).decode

_Decode = Callable[[bytes], Any]
# What `bytes()` makes text of: a slice of a larger text, not yet copied, or text.
Buffer = msgspec.Raw | bytes

_AT = re.compile(r" - at `\$\.?(.*)`\Z")
_ITEM = re.compile(r"\[(\d+)\]\.?(.*)\Z")
_MISSING = re.compile(r"missing required field `(.*?)`")
_UNPAIRED = "\N{REPLACEMENT CHARACTER}"


def gap(from_ms: int | None, to_ms: int, refilled: int) -> Event:
    """Return the event that tells every stream of a time, in Unix milliseconds, in which upstream was not heard.

    `refilled` durable events of that time stand before it; others are lost. `from_ms` is None if it is not known.
    """
    identity = mint_id(to_ms / 1000)
    properties = {"from": from_ms, "to": to_ms, "refilled": refilled}
    head = b'{"payload":'
    envelope = head + msgspec.json.encode({"id": identity, "type": GAP, "properties": properties}) + b"}"
    return Event(envelope, len(head), len(envelope) - 1, identity, GAP, False, None, None, None)


def parse_global(text: bytes, limit: int) -> Event | Skipped:
    """Return the event that an envelope `{"directory","project","workspace","payload":{...}}` holds.

    `limit` is the size in bytes that the text may have. Raises TooLarge, or InvalidEvent, which names the member.
    """
    read = _read(text, limit, _decode_envelope)
    envelope: _Envelope = read.value
    if envelope.cursor is not msgspec.UNSET:
        return parse_global(jsontext.without_member(read.text, "cursor"), limit)
    shadow = bytes(envelope.payload)
    # Equal bytes are as good as the same bytes while they are only read; those of a shadow may differ in the text.
    start = read.shadow.rfind(shadow) if read.text is read.shadow else _payload_start(read.text)
    payload = read.text[start : start + len(shadow)]
    event = _event(
        payload, _decoded(shadow, _decode_payload, "payload"), "payload.", envelope.directory, envelope.workspace
    )
    if isinstance(event, Skipped):
        return event
    if read.text is not read.shadow:
        _refuse_unpaired(event, "payload.")
    if event.envelope is payload:
        return Event(read.text, start, start + len(payload), *event[3:])
    if read.shadow.count(shadow) > 1:  # now it is written to, so it must be the right one
        start = _payload_start(read.text)
    whole = read.text[:start] + event.envelope + read.text[start + len(payload) :]
    return Event(whole, start, start + len(event.envelope), *event[3:])


def parse_instance(text: bytes, limit: int, directory: str) -> Event | Skipped:
    """Return the event that an instance payload `{"id","type","properties"}`, published for `directory`, holds.

    Limits and errors are those of `parse_global`.
    """
    read = _read(text, limit, _decode_payload)
    if read.value.cursor is not msgspec.UNSET:
        return parse_instance(jsontext.without_member(read.text, "cursor"), limit, directory)
    event = _event(read.text, read.value, "", directory, None)
    if isinstance(event, Skipped):
        return event
    if read.text is not read.shadow:
        _refuse_unpaired(event, "")
    head = b'{"directory":%s,"payload":' % msgspec.json.encode(directory)
    whole = head + event.envelope + b"}"
    return Event(whole, len(head), len(whole) - 1, *event[3:])


def split_array(text: bytes, stream: Stream) -> Sequence[Buffer]:
    """Return the items of a JSON array published to `stream`, as text. Raises InvalidEvent when they cannot be events.

    The shape of all is checked before any is taken out, so that a million items that are none cost nothing.
    """
    check = _check_global if stream == "global" else _check_instance
    try:
        check(text)
        return _decode_items(text)
    except (msgspec.DecodeError, RecursionError):
        shadow = jsontext.without_lone_surrogates(text)
    try:
        _decoded(shadow, check, "")
    except InvalidEvent as error:
        if found := _ITEM.match(error.field or ""):
            error.index, error.field = int(found[1]), found[2] or None
        raise
    items, at = [], 0
    for item in map(bytes, _decode_items(shadow)):
        at = shadow.index(item, at)
        items.append(text[at : at + len(item)])
        at += len(item)
    return items


class _Read(NamedTuple):
    """A text on one line, the text of equal length that msgspec takes (mostly the same), and what it decoded to."""

    text: bytes
    shadow: bytes
    value: Any


def _read(text: bytes, limit: int, decode: _Decode) -> _Read:
    """Check one event's text whole: its size, its encoding, its JSON and the members that are looked at."""
    text = shadow = text.strip(b" \t\r\n")
    if len(text) > limit:
        raise TooLarge(f"an event of {len(text)} bytes is over max_event_bytes ({limit})", limit=limit)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise InvalidEvent(f"not UTF-8: byte {error.start} of the event") from None
    try:
        value = decode(text)
    except (msgspec.DecodeError, RecursionError):
        shadow = jsontext.without_lone_surrogates(text)
        value = _decoded(shadow, decode, "")
    if b"\n" in text or b"\r" in text:
        same = text is shadow
        text = jsontext.one_line(text)
        shadow = text if same else jsontext.one_line(shadow)
        value = decode(shadow)
    return _Read(text, shadow, value)


def _decoded(text: bytes, decode: _Decode, where: str) -> Any:
    """Decode, or raise InvalidEvent naming the member, which stands below `where`."""
    try:
        return decode(text)
    except msgspec.ValidationError as error:
        sentence = str(error)
        path = found[1] if (found := _AT.search(sentence)) else ""
        missing = found[1] if (found := _MISSING.search(sentence)) else ""
        field = ".".join(part for part in (where, path, missing) if part)
        raise InvalidEvent(_AT.sub("", sentence), field=field or None) from None
    except msgspec.DecodeError as error:
        raise InvalidEvent(str(error), field=where or None) from None
    except RecursionError:
        raise InvalidEvent("nested too deeply", field=where or None) from None


def _event(text: bytes, payload: _Payload, where: str, directory: str | None, workspace: str | None) -> Event | Skipped:
    """Return an event whose envelope is still the bare payload: `text`, with an id appended where it had none."""
    kind, given, session = payload.type, payload.id, None
    aggregate, seq = None, None
    if kind in NOT_TAKEN or kind.startswith(NOT_TAKEN_PREFIX):
        return Skipped(None if given is msgspec.UNSET else given)
    if not kind:
        raise InvalidEvent("must not be empty", field=f"{where}type")
    if len(kind) > MAX_TYPE_CHARS:
        raise InvalidEvent(f"longer than {MAX_TYPE_CHARS} characters", field=f"{where}type", limit=MAX_TYPE_CHARS)
    if kind == SYNC:
        if payload.syncEvent is msgspec.UNSET:
            raise InvalidEvent("Object missing required field `syncEvent`", field=f"{where}syncEvent")
        sync: SyncEvent = _decoded(bytes(payload.syncEvent), twins.decode, f"{where}syncEvent")
        kind, aggregate, seq = twins.bare_type(sync.type), sync.aggregateID, sync.seq
        session = aggregate
        if not kind:
            raise InvalidEvent("must not be empty", field=f"{where}syncEvent.type")
        if len(kind) > MAX_TYPE_CHARS:
            detail = f"longer than {MAX_TYPE_CHARS} characters"
            raise InvalidEvent(detail, field=f"{where}syncEvent.type", limit=MAX_TYPE_CHARS)
    elif payload.properties is msgspec.UNSET:
        raise InvalidEvent("Object missing required field `properties`", field=f"{where}properties")
    if payload.properties is not msgspec.UNSET and isinstance(payload.properties.sessionID, str):
        session = payload.properties.sessionID
    if given is msgspec.UNSET:
        given = mint_id()
        text = jsontext.with_last_member(text, "id", given)
    elif not given:
        raise InvalidEvent("must not be empty", field=f"{where}id")
    is_sync = payload.type == SYNC
    return Event(text, 0, len(text), given, kind, is_sync, directory or None, workspace, session, aggregate, seq)


def _payload_start(text: bytes) -> int:
    """Return where the payload of an envelope begins; of several members called so, a decoder takes the last."""
    return jsontext.member(text, "payload").value


def _refuse_unpaired(event: Event, where: str) -> None:
    """Raise InvalidEvent where half a surrogate pair stands in what events are told apart by."""
    told_by = (
        (f"{where}id", event.id),
        (f"{where}type", event.type),
        (f"{where}syncEvent.aggregateID", event.aggregate or ""),
        ("directory", event.directory or ""),
    )
    for field, value in told_by:
        if _UNPAIRED in value:
            raise InvalidEvent("must not hold half a surrogate pair", field=field)
