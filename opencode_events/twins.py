"""What a `sync` twin holds: the durable form of an event, with its place in the sequence of one aggregate. Pure.

The shape is opencode's: `{"type":"sync","syncEvent":{"id","type","seq","aggregateID","data"},"id"}`, where the inner
type carries a version. Sequences begin at 0 and have no gaps.
"""

import json
import re
from typing import Annotated

import msgspec

from opencode_events import jsontext

# The largest integer that JavaScript, and so the real server, can count to.
MAX_SEQ = 2**53 - 1

_VERSION = re.compile(r"\.\d+\Z")


class SyncEvent(msgspec.Struct, gc=False):
    """The member `syncEvent`, as far as it is looked at."""

    type: str
    seq: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
    aggregateID: str
    data: msgspec.Raw


class _Payload(msgspec.Struct, gc=False):
    syncEvent: SyncEvent


decode = msgspec.json.Decoder(SyncEvent).decode
_decode_payload = msgspec.json.Decoder(_Payload).decode


def bare_type(kind: str) -> str:
    """Return a twin's type without its version: `session.updated` for `session.updated.1`."""
    return _VERSION.sub("", kind)


def content(payload: bytes) -> tuple[str, bytes]:
    """Return the versioned type, and the data as JSON, of the twin that a checked payload is."""
    try:
        sync = _decode_payload(payload).syncEvent
    except msgspec.DecodeError:  # half a surrogate pair somewhere; the text is as it was published all the same
        inner = _value(payload, "syncEvent")
        return json.loads(_value(inner, "type")), _value(inner, "data")
    return sync.type, bytes(sync.data)


def place(payload: bytes) -> tuple[str, int] | None:
    """Return aggregate and number of the twin that a payload is, None when it has none that can be counted."""
    try:
        sync = _decode_payload(jsontext.without_lone_surrogates(payload)).syncEvent
    except msgspec.DecodeError:
        return None
    return sync.aggregateID, sync.seq


def _value(text: bytes, name: str) -> bytes:
    at = jsontext.member(text, name)
    return text[at.value : at.end]
