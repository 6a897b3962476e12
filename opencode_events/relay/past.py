"""Rows of upstream's history, and the events that they were when they happened. Pure.

Upstream sends each durable event twice, plain and as a `sync` twin, but keeps it once:
`{"id","aggregate_id","seq","type","data"}`. The plain one has the type without its version, and the data as its
properties. Under which directory and project they came is not in the row.
"""

from typing import Annotated, Any

import msgspec

from opencode_events import events, jsontext, twins
from opencode_events.eventlog.base import Aggregate
from opencode_events.events import Event


class Row(msgspec.Struct, frozen=True, gc=False):
    """One durable event; `data` is JSON, as upstream wrote it."""

    id: Annotated[str, msgspec.Meta(min_length=1)]
    aggregate_id: Annotated[str, msgspec.Meta(min_length=1)]
    seq: Annotated[int, msgspec.Meta(ge=0, le=twins.MAX_SEQ)]
    type: Annotated[str, msgspec.Meta(min_length=1)]
    data: msgspec.Raw


class _Info(msgspec.Struct, gc=False):
    directory: Any = None
    projectID: Any = None
    workspaceID: Any = None


class _Data(msgspec.Struct, gc=False):
    info: _Info | msgspec.UnsetType = msgspec.UNSET


_decode_row = msgspec.json.Decoder(Row).decode
_decode_data = msgspec.json.Decoder(_Data).decode


def read_row(text: bytes) -> Row:
    """Return the row that a text holds. Raises ValueError when it holds none."""
    shadow = jsontext.without_lone_surrogates(text)  # of the same length
    try:
        row = _decode_row(shadow)
        data = bytes(row.data)
        if shadow != text:
            at = jsontext.member(text, "data")
            data = text[at.value : at.end]
        return msgspec.structs.replace(row, data=msgspec.Raw(jsontext.one_line(data)))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a row of a history: {error}") from error


def place_in(row: Row) -> Aggregate | None:
    """Return where an aggregate is at home, if its event tells: a session's own tell its directory and project."""
    try:
        info = _decode_data(jsontext.without_lone_surrogates(bytes(row.data))).info
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return None if info is msgspec.UNSET else place_of(row.seq, info.directory, info.projectID, info.workspaceID)


def place_of(last: int, directory: object, project: object, workspace: object) -> Aggregate | None:
    """Return a place made of what upstream says of a session; None when that is no directory."""
    if not isinstance(directory, str) or not directory:
        return None
    return Aggregate(
        last,
        directory,
        project if isinstance(project, str) else None,
        workspace if isinstance(workspace, str) else None,
    )


def _named(place: Aggregate) -> tuple[tuple[bytes, str | None], ...]:
    return (b"directory", place.directory), (b"project", place.project), (b"workspace", place.workspace)


def both_twins(row: Row, place: Aggregate, limit: int) -> list[Event]:
    """Return the two events that a row was, under the envelope of its place. Raises RequestError if they are none.

    `limit` is the size in bytes that each may have.
    """
    encode, data = msgspec.json.encode, bytes(row.data)
    head = b"".join(b'"%b":%b,' % (name, encode(value)) for name, value in _named(place) if value)
    identity, bare = encode(row.id), encode(twins.bare_type(row.type))
    plain = b'{%b"payload":{"id":%b,"type":%b,"properties":%b}}' % (head, identity, bare, data)
    sync = (
        b'{%b"payload":{"type":"sync","syncEvent":{"id":%b,"type":%b,"seq":%d,"aggregateID":%b,"data":%b},"id":%b}}'
        % (head, identity, encode(row.type), row.seq, encode(row.aggregate_id), data, identity)
    )
    found = (events.parse_global(text, limit) for text in (plain, sync))
    return [event for event in found if isinstance(event, Event)]
