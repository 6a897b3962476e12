"""What tests of the web layer publish (a mixture for filters to choose from, twins at their place in a sequence), and
what they look at in the frames that come of it.
"""

from typing import Any

from tests.clients import Frame, Stream, envelope, twin

LIVE = "server.stream.live"

MIXED: list[dict[str, Any]] = [
    envelope(1, kind="message.updated", sessionID="ses_1"),
    twin(1, "message.updated.1", session="ses_1"),
    envelope(2, kind="message.part.delta", sessionID="ses_2"),
    envelope(3, "/e", kind="session.idle", sessionID="ses_1"),
    envelope(4, kind="todo.updated"),
    envelope(5, "global", kind="project.updated"),
    envelope(6, None, kind="global.thing"),
    envelope(7, kind="message.updated", sessionID="ses_3") | {"workspace": "w1"},
    envelope(8, kind="message.updated", sessionID="ses_3") | {"workspace": "w2"},
    twin(9, "session.next.step.failed.2", "/e", "ses_2"),
]
NAMES = ["1", "1s", "2", "3", "4", "5", "6", "7", "8", "9s"]

# What of it passes each filter of the global stream,
FILTERED = {
    "": NAMES,
    "?sync=all": NAMES,
    "?sync=none": ["1", "2", "3", "4", "5", "6", "7", "8"],
    "?sync=only": ["1s", "9s"],
    "?session=ses_1": ["1", "1s", "3"],
    "?session=ses_1,ses_2": ["1", "1s", "2", "3", "9s"],
    "?session=ses_1&session=ses_2": ["1", "1s", "2", "3", "9s"],
    "?types=message.updated": ["1", "1s", "7", "8"],
    "?types=message.*": ["1", "1s", "2", "7", "8"],
    "?types=session.idle,*.failed": ["3", "9s"],
    "?types=m*&session=ses_1": ["1", "1s"],
    "?types=m*&session=ses_1&sync=none": ["1"],
    "?workspace=w1": ["1", "1s", "2", "3", "4", "5", "6", "7", "9s"],
    "?workspace=w1,w2&session=ses_3": ["7", "8"],
    "?types=nothing": [],
}
# and of an instance's stream.
FILTERED_BY_INSTANCE = {
    "?directory=/d": ["1", "2", "4", "7", "8"],
    "?directory=/e": ["3"],
    "?directory=global": [],
    "?directory=/nowhere": [],
    "?directory=/d&sync=all": ["1", "2", "4", "7", "8"],
    "?directory=/d&sync=none": ["1", "2", "4", "7", "8"],
    "?directory=/d&session=ses_1": ["1"],
    "?directory=/d&types=*.updated": ["1", "4", "7", "8"],
    "?directory=/d&types=*.updated&workspace=w2&session=ses_3": ["8"],
}


def synced(number: int | str, seq: int, session: str = "ses_1", data: object = None) -> dict[str, Any]:
    """Return a twin at `seq` of its session, with `data` in it."""
    made = twin(number, session=session)
    made["payload"]["syncEvent"] |= {"seq": seq, "data": {} if data is None else data}
    return made


# --- what came of it


def missed(stream: Stream) -> list[Frame]:
    """Return the events up to `server.stream.live`, which must tell how many they are."""
    *events, live = stream.until(LIVE)
    assert (live.id, live.properties) == (None, {"replayed": len(events)})
    return events


def names(frames: list[Frame]) -> list[str]:
    """Return what the events were numbered; a twin's has an `s`."""
    return [frame.event.removeprefix("evt_") + ("s" if frame.type == "sync" else "") for frame in frames]


def place(frame: Frame) -> int:
    """Return a frame's position."""
    assert frame.id is not None
    return int(frame.id.split("-")[1])


def after(cursor: str, count: int) -> str:
    """Return the cursor `count` places after another one of its epoch."""
    epoch, position = cursor.split("-")
    return f"{epoch}-{int(position) + count}"
