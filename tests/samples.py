"""Events made to order, a small recording of a real server, and readers of what goes out, as slow as they are plain."""

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from opencode_events import events
from opencode_events.events import Event

LIMIT = 4 * 1024 * 1024

# One line of each kind that a real server sends, some with text beyond ASCII, and its largest.
RECORDING = Path(__file__).parent / "data" / "opencode-global-events.ndjson"


def recorded() -> list[bytes]:
    """Return the lines of the recording, as a `GET /global/event` sent them."""
    return RECORDING.read_bytes().splitlines()


def make(text: bytes) -> Event:
    """Return the event that an envelope's text is."""
    found = events.parse_global(text, LIMIT)
    assert isinstance(found, Event)
    return found


def event(
    number: int = 1,
    kind: str = "session.idle",
    *,
    directory: str | None = "/srv/a",
    workspace: str | None = None,
    session: str | None = "ses_1",
    pad: int = 0,
) -> Event:
    """Return a plain event. `pad` makes it that many bytes longer."""
    properties: dict[str, object] = {"pad": "x" * pad}
    if session is not None:
        properties["sessionID"] = session
    return make(_envelope(directory, workspace, {"id": f"evt_{number}", "type": kind, "properties": properties}))


def twin(
    number: int = 1,
    kind: str = "session.updated.1",
    *,
    directory: str | None = "/srv/a",
    workspace: str | None = None,
    session: str = "ses_1",
    seq: int = 0,
) -> Event:
    """Return the `sync` twin of an event, the one at `seq` of `session`, its aggregate."""
    inner = {"type": kind, "seq": seq, "aggregateID": session, "data": {}}
    return make(_envelope(directory, workspace, {"type": "sync", "syncEvent": inner, "id": f"evt_{number}"}))


def disposal(number: int = 1, directory: str = "/srv/a") -> Event:
    """Return the event that ends an instance."""
    return event(number, events.DISPOSED, directory=directory, session=None)


def _envelope(directory: str | None, workspace: str | None, payload: dict[str, object]) -> bytes:
    where = {"directory": directory, "workspace": workspace}
    known: dict[str, object] = {key: value for key, value in where.items() if value is not None}
    return msgspec.json.encode(known | {"payload": payload})


class Message(NamedTuple):
    """What an EventSource dispatches."""

    type: str
    data: str
    last_event_id: str


def read_event_stream(stream: bytes) -> list[Message]:
    """Interpret a whole text/event-stream, sentence by sentence as WHATWG HTML, 9.2.6 has it."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _ = re.split("\r\n|\r|\n", text)  # what is not ended by a line break is not a line yet
    messages, data, kind, last_id = [], "", "", ""
    for line in lines:
        if line == "":
            if data:
                messages.append(Message(kind or "message", data.removesuffix("\n"), last_id))
            data, kind = "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return messages


def dechunk(stream: bytes) -> tuple[bytes, bool]:
    """Undo HTTP's chunks. Return the body, and whether the last chunk was there; nothing may come behind it."""
    body = b""
    while stream:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert stream == b"\r\n"
            return body, True
        body += stream[:length]
        if len(stream) < length + 2:  # cut off
            return body, False
        assert stream[length : length + 2] == b"\r\n"
        stream = stream[length + 2 :]
    return body, False
