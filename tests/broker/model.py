"""What streams must hold, in the plainest terms: a list of all events, and clients that note all they receive."""

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opencode_events import wire
from opencode_events.broker.announcement import Announcement
from opencode_events.broker.connection import OnOverflow
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.cursor import parse
from opencode_events.events import DISPOSED, GAP, Event
from tests.broker.fakes import FakeConnection
from tests.samples import read_event_stream

UNNUMBERED = {wire.LIVE, wire.EXPIRED, wire.LAGGING, wire.CLOSING, wire.CONNECTED}
# What global streams are told behind each gap. The second one looks like an event of the log, but for a property.
RESYNC = [Announcement(wire.CONNECTED), Announcement(DISPOSED, {"announced": True}, "/srv/a")]
ANNOUNCED = "announced"


class Entry(NamedTuple):
    """An event that the log has taken, and the cursor that it has for ever."""

    event: Event
    cursor: str


class Item(NamedTuple):
    """One frame that a client received. `cursor` is its id, None of those that have `properties` instead."""

    kind: str
    cursor: str | None
    properties: Mapping[str, Any]
    data: bytes


@dataclass
class Client:
    """Somebody who wants a selection's events after `start`, over as many connections as it takes.

    `items` is what it received, in order; it resumes after `last_id`, and is away while `handle` is None.
    """

    selection: Selection
    on_overflow: OnOverflow
    start: int
    last_id: str
    items: list[Item] = field(default_factory=list)
    handle: Subscriber | None = None
    connection: FakeConnection | None = None

    def hang_up(self, unread: int = 0) -> None:
        """Note what came over the connection but its last `unread` bytes, and be away."""
        assert self.connection is not None
        received = self.connection.received
        found = list(read(self.selection, unchunked(received[: len(received) - unread])))
        ends = [item.kind == DISPOSED and self.selection.directory is not None for item in found]
        assert not any(ends[:-1]), [item.kind for item in found]  # a stream went on behind its end
        self.items += found
        self.last_id = next((item.cursor for item in reversed(found) if item.cursor is not None), self.last_id)
        self.handle = self.connection = None

    def hears_all_of_gaps(self) -> bool:
        """Tell whether every gap that came over the connection, which has brought all there is, had its resync."""
        assert self.connection is not None
        kinds = [item.kind for item in read(self.selection, unchunked(self.connection.received))]
        if self.selection.stream == "instance":
            return wire.CONNECTED not in kinds and ANNOUNCED not in kinds
        behind = kinds[len(kinds) - kinds[::-1].index(GAP) :] if GAP in kinds else [wire.CONNECTED, ANNOUNCED]
        return (
            wire.CONNECTED in behind
            and ANNOUNCED in behind
            and kinds.count(wire.CONNECTED) == kinds.count(ANNOUNCED) <= kinds.count(GAP)
        )

    def is_told_of(self, oldest: str, newest: str) -> None:
        """Note that `server.connected` told that what follows its last id was trimmed."""
        properties = {"requested": self.last_id, "oldest": oldest, "newest": newest}
        self.items.append(Item(wire.EXPIRED, None, properties, b""))


def unchunked(received: bytes) -> bytes:
    """Undo HTTP's chunks of a stream that may be cut off anywhere."""
    parts, at = [], 0
    while (end := received.find(b"\r\n", at)) >= 0:
        length = int(received[at:end], 16)
        parts.append(received[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    return b"".join(parts)


def read(selection: Selection, body: bytes) -> Iterator[Item]:
    """Yield the frames of a body that may be cut off anywhere."""
    if selection.form == "sse":
        lines = [(message.data.encode(), message.last_event_id) for message in read_event_stream(body)]
    else:
        lines = [(line, json.loads(line).get("cursor")) for line in body.split(b"\n")[:-1]]
    for data, cursor in lines:
        value = json.loads(data)
        payload = value.get("payload", value)
        kind = payload["type"]
        if payload.get("properties", {}).get("announced"):
            yield Item(ANNOUNCED, None, {}, data)
        elif kind in UNNUMBERED:
            yield Item(kind, None, payload["properties"], data)
        else:
            yield Item(kind, cursor, {}, data)


def place_of(cursor: str) -> int:
    found = parse(cursor)
    assert found is not None, cursor
    return found.position


def is_wanted(selection: Selection, event: Event) -> bool:
    """Tell whether an event belongs to a selection's stream, for those selections that the model uses."""
    if event.type == GAP:
        return True
    if selection.stream == "instance" and (event.is_sync or event.directory != selection.directory):
        return False
    if event.type == DISPOSED and not event.is_sync:
        return True
    if selection.sync != "all" and (selection.sync == "only") != event.is_sync:
        return False
    if selection.sessions and event.session not in selection.sessions:
        return False
    return not selection.types or any(fnmatch.fnmatchcase(event.type, glob) for glob in selection.types)


def text_of(selection: Selection, entry: Entry) -> bytes:
    """Return the data of an event's frame."""
    text = entry.event.payload if selection.stream == "instance" else entry.event.envelope
    return text if selection.form == "sse" else text[:-1] + b',"cursor":"%b"}' % entry.cursor.encode()


def audit(client: Client, accepted: Mapping[int, Entry], oldest: int, head: int) -> None:
    """Raise AssertionError unless a client that has caught up received all it wants, once, in order.

    But for what it was told that it missed: that must have been trimmed, as all before `oldest` is now.
    """
    wanted = [position for position in sorted(accepted) if is_wanted(client.selection, accepted[position].event)]
    received = {place_of(item.cursor) for item in client.items if item.cursor and item.kind != wire.HEARTBEAT}
    place = client.start
    for number, item in enumerate(client.items):
        story = [one[:3] for one in client.items[max(number - 3, 0) : number + 1]]
        if item.kind == wire.EXPIRED:
            requested, follows, newest = (place_of(item.properties[key]) for key in ("requested", "oldest", "newest"))
            assert requested < follows <= newest, story
            assert not within(wanted, place, requested), story
            assert all(position < oldest for position in within(wanted, place, follows - 1)), story
            # It has no id: who was cut behind it asks for the same again, and is told so again.
            place = max(place, follows - 1)
            if follows == newest and follows < oldest and follows not in received and follows in wanted:
                wanted.remove(follows)  # that is how a log tells that nothing is left
        elif item.kind == wire.CLOSING:
            assert place <= place_of(item.properties["cursor"]), story
            assert not within(wanted, place, place_of(item.properties["cursor"])), story
        elif item.kind == wire.HEARTBEAT:
            assert item.cursor is not None
            assert place <= place_of(item.cursor), story
            assert not within(wanted, place, place_of(item.cursor)), story
            place = place_of(item.cursor)
        elif item.kind not in UNNUMBERED and item.kind != ANNOUNCED:
            assert item.cursor is not None
            position = place_of(item.cursor)
            assert within(wanted, place, position) == [position], story
            assert item.cursor == accepted[position].cursor, story
            assert item.data == text_of(client.selection, accepted[position]), story
            place = position
    assert not within(wanted, place, head), (client.selection, client.start, [one[:3] for one in client.items[-3:]])


def within(positions: Iterable[int], after: int, until: int) -> list[int]:
    return [position for position in positions if after < position <= until]
