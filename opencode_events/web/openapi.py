"""`GET /-/openapi.json`: the contract of this daemon as it is set, in OpenAPI 3.2, for clients that are generated.

A shield has other paths than a daemon that stands alone: what it passes through is the server's to describe. Words for
people are in docs/protocol.md; a test holds this document against a running server.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from opencode_events.events import MAX_TYPE_CHARS
from opencode_events.web.bodies import JSON, NDJSON
from opencode_events.web.measures import PREFIX
from opencode_events.web.operate import answer
from opencode_events.web.schemas import CURSOR, SCHEMAS, TEXT, Schema, array, obj, one_of, ref

OPENAPI = "3.2.0"  # the first that can say what the items of a stream are
PROBLEM = "application/problem+json"
SSE = "text/event-stream"

OPERATE = ["operate"]
SUBSCRIBE = ["subscribe"]
PUBLISH = ["publish"]
DIRECTORY_HEADER = "x-opencode-directory"
# What any request can come to: it is not HTTP; Host, Origin or a token's scope; its head; a bug.
ALWAYS = (400, 403, 431, 500)
# A longer path segment is as good as any other that is no number.
NUMBER: Schema = {"type": "integer", "minimum": 1, "maximum": 10**18 - 1, "examples": [1]}
# opencode's password in both of its ways, and our tokens.
SCHEMES: Schema = {
    "basic": {"type": "http", "scheme": "basic"},
    "auth_token": {"type": "apiKey", "in": "query", "name": "auth_token"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
# One value of a filter: not only of what is stripped off, which is what Unicode calls white space and separators.
FILTER = r"[^,]*[^,\s\x1c-\x1f\x85][^,]*"


class OpenApi:
    """The handler."""

    def __init__(self, document: Schema) -> None:
        self._document = document

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer with the document."""
        return answer(self._document)


def describe(version: str, *, is_shield: bool, may_publish: bool, shown: Sequence[str] = ()) -> Schema:
    """Return the document. `shown` are those of `SCHEMES` by which people show who they are; none: nobody has to."""
    paths: Schema = {
        "/event": {"get": _stream("instance", is_shield=is_shield)},
        "/global/event": {"get": _stream("global", is_shield=is_shield)},
        **_operating(),
    }
    if may_publish:
        paths["/event"]["post"] = _publish("instance")
        paths["/global/event"]["post"] = _publish("global")
    if not is_shield:
        paths["/global/health"] = {"get": _get("health", "Whether it is there, as opencode says it", "Health", OPERATE)}
        paths["/sync/history"] = {"post": _history()}
    document: Schema = {
        "openapi": OPENAPI,
        "info": {
            "title": "opencode_events",
            "version": version,
            "license": {"name": "MIT", "identifier": "MIT"},
            "description": "The event stream of opencode, with a log to resume from.",
        },
        "paths": paths,
        "components": {"schemas": SCHEMAS},
    }
    if shown:
        document["components"] = {"schemas": SCHEMAS, "securitySchemes": {name: SCHEMES[name] for name in shown}}
        document["security"] = [{name: []} for name in shown]
        asked = {"schema": TEXT, "description": "What may be shown; a field for each way"}
        challenge = {"description": "Nobody who may ask; no body", "headers": {"WWW-Authenticate": asked}}
        for path, methods in paths.items():
            for operation in methods.values():
                if path == "/-/healthy":
                    operation["security"] = []
                else:
                    operation["responses"]["401"] = challenge
    return document


def _operating() -> Schema:
    """Return what is below `/-/`."""
    handles = obj({"subscribers": array(ref("Subscriber"))})
    closed = obj({"closed": array(ref("ClosedSubscriber"))})
    subscribers = _operation("subscribers", "Every subscriber, or the last that are over", OPERATE)
    subscribers["parameters"] = [_query("closed", {"type": "string"}, "1: those that are over, the newest first")]
    subscribers["responses"]["200"] = _content({JSON: {"oneOf": [handles, closed]}}, "Them")
    evict = _operation("evict", "End a subscriber: politely, and the second time at once", OPERATE, problems=(404,))
    evict["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": NUMBER}]
    evict["responses"]["200"] = _content({JSON: obj({"evicted": ref("Subscriber")})}, "As it was before")
    ready = _get("ready", "Whether it can be published and subscribed to", "Readiness", OPERATE)
    ready["responses"]["503"] = _content({JSON: ref("Readiness")}, "Not now, and why", retry=True)
    metrics = _operation("metrics", "Metrics, for Prometheus", OPERATE)
    text = {"type": "string", "description": f"The text format 0.0.4; names begin with `{PREFIX}`, or `process_`."}
    metrics["responses"]["200"] = _content({"text/plain": text}, "All of them")
    openapi = _operation("openapi", "This document", OPERATE)
    openapi["responses"]["200"] = _content({JSON: {"type": "object"}}, "It")
    return {
        "/-/healthy": {"get": _get("healthy", "Whether it answers at all; open to all", "Healthy", OPERATE)},
        "/-/ready": {"get": ready},
        "/-/status": {"get": _get("status", "What it has done and holds", "Status", OPERATE)},
        "/-/metrics": {"get": metrics},
        "/-/openapi.json": {"get": openapi},
        "/-/subscribers": {"get": subscribers},
        "/-/subscribers/{id}": {"delete": evict},
    }


def _stream(stream: str, *, is_shield: bool) -> Schema:
    """Return the subscription to one of the two streams."""
    what = "one instance's events" if stream == "instance" else "every event"
    problems = (429, 502, 503, 504) if is_shield else (429, 503)
    found = _operation(f"subscribe_{stream}", f"Subscribe to {what}", SUBSCRIBE, problems=problems)
    sync = ("all", "none") if stream == "instance" else ("all", "none", "only")
    value = {"type": "string", "minLength": 1, "pattern": rf"^{FILTER}(,{FILTER})*$"}
    found["parameters"] = [
        *(_directory(is_needed=not is_shield) if stream == "instance" else ()),
        _list("session", value, "Events of these sessions"),
        _list("types", value | {"maxLength": MAX_TYPE_CHARS}, "Events whose type matches one of these globs"),
        _list("workspace", value, "Events of these workspaces, and of none"),
        _query("sync", one_of(*sync), "Which of an event and its `sync` twin"),
        _query("after", {"type": "string"}, "Resume after this cursor; `earliest`: with all there is"),
        {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
         "description": "The same; it wins over `after`"},
        _query("on_overflow", one_of("end", "catchup"), "What happens when the backlog is full"),
        _query("end", one_of("clean", "abort"), "How the daemon ends the stream: as a whole answer, or cut"),
    ]  # fmt: skip
    frame = ref("InstanceFrame" if stream == "instance" else "GlobalFrame")
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": frame}
    block = obj({"data": data}, {"id": CURSOR, "retry": {"type": "integer", "minimum": 0}})
    line = {"allOf": [frame, obj({}, {"cursor": CURSOR})]}
    found["responses"]["200"] = {
        "description": "The stream, which has no end of its own",
        "content": {SSE: {"itemSchema": block}, NDJSON: {"itemSchema": line}},
    }
    return found


def _publish(stream: str) -> Schema:
    """Return the publishing to one of the two streams."""
    one = ref("Payload" if stream == "instance" else "Envelope")
    problems = (409, 413, 415, 429, 503)
    found = _operation(
        f"publish_{stream}", "Publish; the answer comes when it is in the log", PUBLISH, problems=problems
    )
    if stream == "instance":
        found["parameters"] = _directory(is_needed=True)
    media = {JSON: {"schema": {"anyOf": [one, array(one)]}}, NDJSON: {"itemSchema": one}}
    found["requestBody"] = {"required": True, "content": media}
    found["responses"]["200"] = _content({JSON: ref("Receipt")}, "What became of them")
    return found


def _history() -> Schema:
    found = _operation("history", "The durable events behind a client's numbers", SUBSCRIBE, problems=(413, 415, 503))
    found["requestBody"] = {"required": True, "content": {JSON: {"schema": ref("Known")}}}
    found["responses"]["200"] = _content({JSON: array(ref("SyncRow"))}, "Them, by aggregate and number")
    return found


def _operation(name: str, summary: str, tags: list[str], *, problems: tuple[int, ...] = ()) -> Schema:
    """Return an operation with its refusals."""
    responses: Schema = {}
    for status in (*ALWAYS, *problems):
        phrase = HTTPStatus(status).phrase
        responses[str(status)] = _content({PROBLEM: ref("Problem")}, phrase, retry=status in (429, 503))
    # What aiohttp says itself, before anything of ours is asked: to what is no HTTP, or has too long a field, and to
    # an Expect that is not 100-continue.
    responses["400"]["content"]["text/plain"] = {"schema": TEXT}
    responses["417"] = _content({"text/plain": TEXT}, HTTPStatus.EXPECTATION_FAILED.phrase)
    return {"operationId": name, "summary": summary, "tags": tags, "responses": responses}


def _get(name: str, summary: str, schema: str, tags: list[str]) -> Schema:
    """Return an operation without parameters."""
    found = _operation(name, summary, tags)
    found["responses"]["200"] = _content({JSON: ref(schema)}, "It")
    return found


def _content(media: Mapping[str, Schema], description: str, *, retry: bool = False) -> Schema:
    """Return an answer. `retry`: it says when to come again."""
    found: dict[str, Any] = {
        "description": description,
        "content": {name: {"schema": schema} for name, schema in media.items()},
    }
    if retry:
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
    return found


def _directory(*, is_needed: bool) -> list[Schema]:
    """Return how an instance is named. One of the two is enough, which OpenAPI cannot say: it wants the first."""
    text = "The instance's directory"
    header = {"name": DIRECTORY_HEADER, "in": "header", "schema": {"type": "string"}}
    query = _query("directory", {"type": "string", "minLength": int(is_needed)}, text)
    return [query | {"required": is_needed}, header | {"description": f"{text}, URI-encoded; the query wins"}]


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _list(name: str, items: Schema, description: str) -> Schema:
    """Return a filter: comma-separated, repeated, or both."""
    schema = {"type": "array", "items": items, "minItems": 1, "maxItems": 256}
    return _query(name, schema, description) | {"style": "form", "explode": True}
