"""What a subscription asks for, read from its query and headers. Raises InvalidFilter, naming the parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast
from urllib.parse import unquote

from aiohttp import web
from multidict import MultiMapping

from opencode_events.broker.connection import End, OnOverflow
from opencode_events.broker.selection import Selection
from opencode_events.errors import InvalidFilter
from opencode_events.events import MAX_TYPE_CHARS, Stream
from opencode_events.wire import CONTENT_TYPES, Format

# The values of one filter: enough for every type there is; each costs a comparison for every event.
MAX_VALUES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One subscription's parameters. `after` is the cursor's text or "earliest" as it came, None for the head."""

    selection: Selection
    on_overflow: OnOverflow
    end: End
    after: str | None


def read_wish(
    request: web.BaseRequest,
    stream: Stream,
    on_overflow: str = "end",
    *,
    end: str = "clean",
    needs_directory: bool = True,
) -> Wish:
    """Return what a GET of `stream` asks for. `on_overflow` and `end` are what it gets that does not say.

    The directory of an instance stream is empty if it was not named, and need not be.
    """
    query = request.query
    on_overflow = _choice(query, "on_overflow", ("end", "catchup"), on_overflow)
    sync = _choice(query, "sync", ("all", "none", "only"), "all")
    if stream == "instance" and sync == "only":
        raise InvalidFilter("the instance stream carries no sync events; subscribe to /global/event", field="sync")
    selection = Selection(
        stream=stream,
        form=_form(request.headers),
        directory=read_directory(request, is_needed=needs_directory) if stream == "instance" else None,
        sessions=_values(query, "session"),
        types=_values(query, "types", MAX_TYPE_CHARS),
        sync=cast(Literal["all", "none", "only"], sync),
        workspaces=_values(query, "workspace"),
    )
    end = _choice(query, "end", ("clean", "abort"), end)
    return Wish(
        selection=selection, on_overflow=cast(OnOverflow, on_overflow), end=cast(End, end), after=_after(request)
    )


def read_directory(request: web.BaseRequest, *, is_needed: bool = True) -> str:
    """Return the directory of an instance: of the query, or of the header, where it is URI-encoded."""
    directory = request.query.get("directory") or unquote(request.headers.get("x-opencode-directory", ""))
    if not directory and is_needed:
        raise InvalidFilter("directory is missing: ?directory=D or the header x-opencode-directory", field="directory")
    return _text(directory, "directory")


def _form(headers: Mapping[str, str]) -> Format:
    """Return the format that `Accept` asks for: NDJSON where it is named, else text/event-stream."""
    return "ndjson" if CONTENT_TYPES["ndjson"] in headers.get("Accept", "").lower() else "sse"


def _after(request: web.BaseRequest) -> str | None:
    """Return the cursor to resume after. The header wins: a reconnecting EventSource sends it beside its old query."""
    after = request.headers.get("Last-Event-ID") or request.query.get("after") or None
    return None if after in (None, "latest") else after.encode(errors="replace").decode()


def _text(value: str, field: str) -> str:
    """Return `value`, which must be text: a header may hold any bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidFilter(f"{field} is not UTF-8", field=field) from None
    return value


def _choice(query: MultiMapping[str], name: str, choices: tuple[str, ...], default: str) -> str:
    value = query.get(name, default)
    if value not in choices:
        raise InvalidFilter(f"{name} must be one of {', '.join(choices)}, not {value[:40]!r}", field=name)
    return value


def _values(query: MultiMapping[str], name: str, max_chars: int | None = None) -> frozenset[str]:
    """Return the values of one filter: comma-separated, repeated, or both."""
    if name not in query:
        return frozenset()
    values = [_text(value.strip(), name) for text in query.getall(name) for value in text.split(",")]
    if not all(values):
        raise InvalidFilter(f"{name} has an empty value", field=name)
    if max_chars is not None and max(map(len, values)) > max_chars:
        raise InvalidFilter(f"{name} has a value longer than {max_chars} characters", field=name, limit=max_chars)
    if len(values) > MAX_VALUES:
        raise InvalidFilter(
            f"{name} has {len(values)} values, over the limit of {MAX_VALUES}", field=name, limit=MAX_VALUES
        )
    return frozenset(values)
