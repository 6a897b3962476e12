"""All feeds: how an event finds those that want it, and how a selection finds its feed. Knows no subscriber's state."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from opencode_events import wire
from opencode_events.broker import announcement
from opencode_events.broker.announcement import Announcement
from opencode_events.broker.feed import Feed
from opencode_events.broker.flusher import Flusher
from opencode_events.broker.selection import Selection, is_gap
from opencode_events.broker.subscriber import Subscriber
from opencode_events.errors import Busy
from opencode_events.events import DISPOSED, NO_INSTANCE, Event
from opencode_events.settings import BrokerSettings

# Feeds that are found, and encoded, together.
_Siblings = dict[wire.Format, list[Feed]]


class Feeds:
    """The feeds that have subscribers. Fills them with events, and tells `flusher` which have something to flush."""

    def __init__(self, settings: BrokerSettings, flusher: Flusher) -> None:
        self._settings = settings
        self._flusher = flusher
        # A backlog takes a segment whole or not at all, so one may hold no more events than a backlog.
        self._segment_events = min(settings.segment_events, settings.backlog_events)
        self._by_selection: dict[Selection, Feed] = {}
        self._global: _Siblings = {"sse": [], "ndjson": []}
        self._instances: dict[str, _Siblings] = {}

    def __len__(self) -> int:
        return len(self._by_selection)

    def __iter__(self) -> Iterator[Feed]:
        return iter(self._by_selection.values())

    @property
    def directories(self) -> set[str]:
        """Those that somebody has subscribed to the instance of."""
        return {one.directory for one in self._by_selection if one.directory is not None} - {NO_INSTANCE}

    @property
    def away(self) -> int:
        """How many subscribers are behind, and read from the log."""
        return sum(len(feed.away) for feed in self)

    def find(self, selection: Selection) -> Feed:
        """Return the feed of `selection`, a new one if there is none. Raises Busy when there are too many."""
        feed = self._by_selection.get(selection)
        if feed is None:
            limit = self._settings.max_selections
            if len(self) >= limit:
                detail = f"max_selections ({limit}) are in use: subscribe with a common one"
                raise Busy(detail, retry_after_s=5, limit=limit)
            feed = self._by_selection[selection] = Feed(selection)
        return feed

    def join(self, subscriber: Subscriber) -> None:
        """Give a subscriber everything that its feed gathers from now on."""
        feed = subscriber.feed
        if not feed.is_heard:
            self._siblings(feed.selection).append(feed)
        feed.join(subscriber)

    def part(self, subscriber: Subscriber) -> None:
        """Give a subscriber nothing for now: it reads from the log, and keeps its feed to come back to."""
        feed, selection = subscriber.feed, subscriber.feed.selection
        was_heard = feed.is_heard
        feed.leave(subscriber)
        if self._by_selection.get(selection) is not feed:  # it has ended, and is not out yet: what follows has another
            self._succeed(selection, [subscriber])
            return
        feed.away[subscriber] = None
        if was_heard:
            self._forget_unheard(feed)

    def _succeed(self, selection: Selection, away: Iterable[Subscriber]) -> None:
        """Give those who are behind, and were in a feed that has ended, the one of what follows."""
        successor = self._by_selection.setdefault(selection, Feed(selection))
        for subscriber in away:
            successor.away[subscriber] = None
            subscriber.feed = successor

    def leave(self, subscriber: Subscriber) -> None:
        """Give a subscriber nothing more; its feed ends with its last member. Leaving twice is fine."""
        feed, selection = subscriber.feed, subscriber.feed.selection
        was_heard = feed.is_heard
        feed.leave(subscriber)
        if self._by_selection.get(selection) is not feed:
            return
        if not len(feed):
            del self._by_selection[selection]
        if was_heard:
            self._forget_unheard(feed)

    def _forget_unheard(self, feed: Feed) -> None:
        """Gather nothing for a feed that nobody hears."""
        selection = feed.selection
        if feed.is_heard:
            return
        self._siblings(selection).remove(feed)
        if selection.directory is not None and not any(self._instances[selection.directory].values()):
            del self._instances[selection.directory]

    def gather(self, event: Event, position: int, cursor: bytes) -> None:
        """Append an event to every feed that wants it: to the global ones and, for what it is one, its instance's."""
        for form, feeds in self._global.items():
            self._append(feeds, wire.ENCODERS["global", form], cursor, event, position)
        directory = event.directory
        if directory is None:
            if is_gap(event):
                self._gather_gap(event, position, cursor)
            return
        if directory == NO_INSTANCE or directory not in self._instances or event.is_sync:
            return
        for form, feeds in self._instances[directory].items():
            self._append(feeds, wire.ENCODERS["instance", form], cursor, event, position)
        if event.type == DISPOSED:
            self._end(directory, position)

    def _gather_gap(self, event: Event, position: int, cursor: bytes) -> None:
        """Append a gap to the feeds of all instances, encoded once for all of them."""
        for form in self._global:
            feeds = [feed for siblings in self._instances.values() for feed in siblings[form]]
            self._append(feeds, wire.ENCODERS["instance", form], cursor, event, position)

    def announce(self, announcements: Sequence[Announcement]) -> None:
        """Append control frames to every global feed, in its order and past its filters; they end nothing.

        What is about a directory goes to those only who may know of it.
        """
        for form, feeds in self._global.items():
            everything = announcement.frames(announcements, form) if feeds else ()
            for feed in feeds:
                within = feed.selection.within
                frames = everything if within is None else announcement.frames(announcements, form, within)
                for frame in frames:
                    feed.append(frame, is_event=False)
                    self._flusher.want(feed)

    def heartbeat(self, cursor: str) -> None:
        """Append a heartbeat to every feed, in its order."""
        for feed in self:
            if not feed.is_heard:
                continue
            stream, form = feed.selection.stream, feed.selection.form
            feed.append(wire.control(stream, form, wire.HEARTBEAT, cursor=cursor), is_event=False)
            self._flusher.want(feed)

    def _siblings(self, selection: Selection) -> list[Feed]:
        if selection.directory is None:
            return self._global[selection.form]
        return self._instances.setdefault(selection.directory, {"sse": [], "ndjson": []})[selection.form]

    def _append(
        self, feeds: list[Feed], encode: Callable[[bytes, Event], bytes], cursor: bytes, event: Event, position: int
    ) -> None:
        """Append an event to those of `feeds` that want it. All of them have one encoding, made for the first."""
        frame = b""
        for feed in feeds:
            if feed.matches is not None and not feed.matches(event):
                continue
            frame = frame or encode(cursor, event)
            if feed.events >= self._segment_events or (
                feed.events and feed.bytes + len(frame) > self._settings.segment_bytes
            ):
                self._flusher.seal(feed, position - 1)
            feed.append(frame)
            self._flusher.want(feed)

    def _end(self, directory: str, position: int) -> None:
        """End the streams of an instance, as upstream does: its disposal is their last event."""
        for feeds in self._instances.pop(directory).values():
            for feed in feeds:
                self._flusher.seal(feed, position, ends=True)
                self._flusher.want(feed)
                del self._by_selection[feed.selection]
                if feed.away:  # they read on, and come to what follows
                    self._succeed(feed.selection, feed.away)
                    feed.away = {}
