"""A flusher and its feeds with time and loop turned by hand: what comes out of them is in the fake connections."""

from typing import Any

from opencode_events.broker.connection import End
from opencode_events.broker.feeds import Feeds
from opencode_events.broker.flusher import Flusher
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.events import Event
from tests.broker.fakes import EPOCH, GLOBAL, FakeConnection, FakeLoop, FakeOwner, terms


class Stage:
    """A flusher and its feeds on a fake loop, with handles of one fake owner. `position` is the last one looked at."""

    def __init__(self, **changes: Any) -> None:
        self.owner = FakeOwner(**changes)
        self.loop = FakeLoop()
        self.position = 0
        self.flusher = Flusher(self.owner.settings, self.loop.as_loop, lambda: self.position)
        self.flusher._clock = self.loop.clock  # the loop's own clock would be too coarse for it, so it has its own
        self.feeds = Feeds(self.owner.settings, self.flusher)

    def join(
        self, selection: Selection = GLOBAL, connection: FakeConnection | None = None, *, end: End = "clean"
    ) -> FakeConnection:
        """Subscribe a connection, which reads unless it is another one."""
        connection = connection or FakeConnection()
        feed = self.feeds.find(selection)
        handle = Subscriber(len(self.feeds), self.owner, feed, terms(end), self.position)
        self.feeds.join(handle)
        connection.attach_to(handle)
        return connection

    def gather(self, *events: Event) -> None:
        """Have feeds look at events, at the next positions."""
        for event in events:
            self.position += 1
            self.feeds.gather(event, self.position, b"%b-%d" % (EPOCH.encode(), self.position))

    def append(self, selection: Selection, *frames: bytes) -> None:
        """Append frames to a feed as they are, and want it flushed."""
        feed = self.feeds.find(selection)
        for frame in frames:
            feed.append(frame)
        self.flusher.want(feed)

    def flush(self) -> None:
        """Let time pass until everything is out."""
        while not self.loop.is_idle or self.loop.pending:
            self.loop.run_ready()
            self.loop.advance(0.05)
