"""The JSON that is read and written, as JSON Schema (draft 2020-12), for `openapi`: events, answers, refusals.

Limits and names come from where they are kept, so that none stands here that is not so.
"""

from typing import Any

from opencode_events import wire
from opencode_events.broker.lifecycle import TOLD, Reason, State
from opencode_events.events import GAP, MAX_TYPE_CHARS, SYNC
from opencode_events.twins import MAX_SEQ
from opencode_events.wire import Format

Schema = dict[str, Any]

CURSOR: Schema = {"type": "string", "maxLength": 32, "examples": ["ded0beba5d-1"]}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SECONDS: Schema = {"type": "number"}
ANY_OBJECT: Schema = {"type": "object"}
FORMATS: tuple[Format, ...] = ("sse", "ndjson")
CONTROLS = [wire.CONNECTED, wire.HEARTBEAT, wire.LIVE, wire.EXPIRED, wire.LAGGING, wire.CLOSING]


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def obj(required: Schema, optional: Schema | None = None, **more: object) -> Schema:
    """Return the schema of an object; members that are not named may be there too."""
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required), **more}


def array(items: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items}


def maybe(schema: Schema) -> Schema:
    """Return a schema that takes null too."""
    return {**schema, "type": [schema["type"], "null"]}


def one_of(*values: str) -> Schema:
    """Return the schema of one of a few texts."""
    return {"type": "string", "enum": list(values)}


_TYPE: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_TYPE_CHARS}
_ID: Schema = {"type": "string", "minLength": 1, "description": "The idempotency key; minted where there is none."}
_SELECTION = obj(
    {
        "stream": one_of("instance", "global"), "format": one_of(*FORMATS), "directory": maybe(TEXT),
        "session": array(TEXT), "types": array(TEXT), "sync": one_of("all", "none", "only"), "workspace": array(TEXT),
        "within": {"type": ["array", "null"], "items": TEXT},
    }
)  # fmt: skip
_REASON: Schema = {"type": ["string", "null"], "enum": [*(reason.value for reason in Reason), None]}
_RECEIPT: Schema = {
    "accepted": COUNT, "duplicates": COUNT, "skipped": COUNT, "first": maybe(CURSOR), "last": maybe(CURSOR),
}  # fmt: skip

SCHEMAS: Schema = {
    "PlainEvent": obj(
        {"type": {**_TYPE, "not": {"const": SYNC}}, "properties": ANY_OBJECT},
        {"id": _ID},
        description="What `/event` carries: `properties` are the event's own.",
    ),
    "SyncTwin": obj(
        {
            "type": {"type": "string", "const": SYNC},
            "syncEvent": obj(
                {
                    "type": {**_TYPE, "not": {"pattern": r"^\.[0-9]+$"}},  # it ends in a version
                    "seq": {"type": "integer", "minimum": 0, "maximum": MAX_SEQ},
                    "aggregateID": TEXT,
                    "data": {},
                }
            ),
        },
        {"id": _ID},
        description="The durable form of an event: the next of its aggregate.",
    ),
    "Payload": {"anyOf": [ref("PlainEvent"), ref("SyncTwin")]},
    "Envelope": obj(
        {"payload": ref("Payload")},
        {"directory": maybe(TEXT), "project": maybe(TEXT), "workspace": maybe(TEXT)},
        description="What `/global/event` carries.",
    ),
    "InstanceFrame": {"anyOf": [ref("PlainEvent"), ref("ControlFrame")]},
    "GlobalFrame": {"anyOf": [ref("Envelope"), obj({"payload": ref("ControlFrame")})]},
    "ControlFrame": obj(
        {"id": TEXT, "type": one_of(*CONTROLS, GAP), "properties": ANY_OBJECT},
        description=(
            "The daemon's own among a stream's data, below `payload` on `/global/event`. The reasons of "
            f"`{wire.CLOSING}` are {', '.join(sorted(reason.value for reason in TOLD))}."
        ),
    ),
    "Receipt": obj(
        _RECEIPT,
        {"ids": array(maybe(TEXT))},
        description="`first` and `last` are cursors of what is new; `ids` has one for each item, but not for lines.",
    ),
    "Known": {
        "type": "object",
        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_SEQ},
        "description": "The last sequence number that a client has of each aggregate.",
    },
    "SyncRow": obj({"id": TEXT, "aggregate_id": TEXT, "seq": COUNT, "type": TEXT, "data": {}}),
    "Healthy": obj({"healthy": {"const": True}}),
    "Health": obj({"healthy": {"const": True}, "version": TEXT}),
    "Readiness": obj({"ready": {"type": "boolean"}, "reasons": array(TEXT)}),
    "Status": obj(
        {"version": TEXT, "pid": COUNT, "uptime_s": SECONDS},
        additionalProperties=ANY_OBJECT,
        description="One object for each part: `broker`, `log`, `watchdog`, `loop`, `http`, `memory`; two of a shield.",
    ),
    "Subscriber": obj(
        {
            "id": COUNT, "peer": TEXT, "state": one_of(*(state.value for state in State)), "reason": _REASON,
            "selection": _SELECTION, "on_overflow": one_of("end", "catchup"), "end": one_of("clean", "abort"),
            "open_s": SECONDS, "is_parked": {"type": "boolean"}, "queued_events": COUNT, "queued_bytes": COUNT,
            "queued_s": SECONDS, "peak_queued_events": COUNT, "peak_queued_bytes": COUNT, "transport_bytes": COUNT,
            "sent_events": COUNT, "sent_bytes": COUNT, "cursor": CURSOR, "lag_events": {"type": "integer"},
        },
        {
            "tcp_state": maybe(TEXT), "unacked_bytes": COUNT, "unacked_segments": COUNT, "pending_bytes": COUNT,
            "last_ack_s": maybe(SECONDS), "last_progress_s": SECONDS, "fin_s": maybe(SECONDS), "verdict": TEXT,
            "evict_in_s": maybe(SECONDS),
        },
    ),
    "ClosedSubscriber": obj(
        {
            "at": {"type": "string", "format": "date-time"}, "subscriber": COUNT, "peer": TEXT, "reason": _REASON,
            "open_s": SECONDS, "sent_events": COUNT, "sent_bytes": COUNT, "peak_queued_events": COUNT,
            "peak_queued_bytes": COUNT,
        }
    ),
    "Problem": obj(
        {"type": TEXT, "title": TEXT, "status": COUNT, "detail": TEXT},
        {"field": TEXT, "limit": COUNT, "line": COUNT, "index": COUNT, **_RECEIPT},
        description="RFC 9457. The counts are of a stream of lines: what was taken before the one that was refused.",
    ),
}  # fmt: skip
