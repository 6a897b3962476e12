"""What is remembered of a connection from one look to the next: its last progress, its goodbye, its request. Pure."""

from opencode_events.broker.watched import Outlook
from opencode_events.watchdog.classify import PEER_DONE, Observation
from opencode_events.watchdog.probe import Sample


class Track:
    """The memory of one connection that is not at rest; times are of one monotonic clock, in seconds."""

    __slots__ = ("acked", "answered", "fin_at", "head_at", "is_ending", "progress_at", "received")

    def __init__(self, progress_at: float) -> None:
        self.progress_at = progress_at
        self.fin_at: float | None = None
        self.head_at: float | None = None
        self.is_ending = False
        self.acked: int | None = None
        self.answered = -1  # nothing is known yet
        self.received: int | None = None

    def observe(self, sample: Sample, outlook: Outlook, now: float) -> Observation:
        """Return what is seen at `now`, and remember what the next look needs."""
        pending = sample.outq + outlook.buffered + outlook.queued
        # What has left the kernel, or the transport, stands in for what was acknowledged where it does not tell.
        acked = outlook.written - outlook.buffered - sample.outq if sample.acked is None else sample.acked
        # Where the state is known it decides: a transport that is closing may be closed by us, with an answer still to
        # be read, which a client on a slow path has the usual time for.
        is_closed = sample.state is None and outlook.is_closing and not outlook.is_ending
        has_gone = is_closed or sample.state in PEER_DONE
        if has_gone:
            if self.fin_at is None:
                self.fin_at = self.progress_at = now
        elif outlook.is_ending and not self.is_ending:  # whatever was before, there is time to read our goodbye
            self.is_ending, self.progress_at = True, now
        if not pending or (self.acked is not None and acked > self.acked):
            self.progress_at = now
        self.acked = acked
        self._watch_head(sample, outlook, now)
        return Observation(
            state=sample.state,
            pending=pending,
            unacked=sample.unacked,
            last_ack_s=sample.last_ack_s,
            stalled_s=now - self.progress_at,
            fin_s=None if self.fin_at is None else now - self.fin_at,
            is_ending=outlook.is_ending,
            head_s=None if self.head_at is None else now - self.head_at,
        )

    def _watch_head(self, sample: Sample, outlook: Outlook, now: float) -> None:
        """Note since when a request's head has been due: from the connection's start, or from its first byte."""
        if outlook.is_answering or self.fin_at is not None:  # whoever said goodbye asks for no more
            self.answered, self.received, self.head_at = outlook.answered, sample.received, None
        elif outlook.answered != self.answered:
            self.answered, self.received = outlook.answered, sample.received
            self.head_at = None if outlook.answered else now
        elif self.head_at is None and sample.received != self.received:
            self.head_at = now

    def copy(self) -> "Track":
        """Return another one that remembers the same."""
        other = Track(self.progress_at)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other
