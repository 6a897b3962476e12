"""Subscribers of every kind, all on one thread, that come back after whatever cuts them, and note what they see.

Each is an EventSource at heart: it keeps the last id that it has seen, sends it when it comes back, and takes what is
whole. What it may never see (an id that steps back, a resume that is not granted) fails at once; whether it has seen
everything is for the `ledger` to say.
"""

import random
import selectors
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from tests.clients import DEADLINE_S, Client, Frame, Stream, until
from tests.e2e.ledger import Logged, Wants, first_difference

# Seconds until somebody who was refused tries again, and for which nobody waits for anything to happen.
RETRY_S = 0.02
TICK_S = 0.01
PACED_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a subscriber asks for, and how it reads.

    `wants` says which rows of the log it shall get. `pace` is the bytes a second that it reads, None for all it can;
    `cuts` the number of frames after which it leaves by itself, on average. One that `may_expire` goes on where it is
    told that its place was trimmed.
    """

    name: str
    wants: Wants
    target: str = "/global/event"
    fields: tuple[str, ...] = ()
    version: str = "1.1"
    receive_buffer: int = 0
    pace: int | None = None
    cuts: int | None = None
    may_expire: bool = False


@dataclass(eq=False)
class Listener:
    """One of `kind`. `seen` has the id and the data of each event, `told` the control frames but heartbeats."""

    kind: Kind
    after: str | None = None  # where it starts, None for the head; then the last id that it has seen
    start: int | None = None  # the position of where it has started
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    told: list[Frame] = field(default_factory=list)
    connections: int = 0
    stream: Stream | None = None
    client: Client | None = None  # whose the stream is
    not_before: float = 0.0  # when it may come again
    reads_since: float = 0.0
    read_bytes: int = 0
    leaves_at: int = 0  # len(seen) at which it cuts itself

    @property
    def is_global(self) -> bool:
        return self.kind.target.startswith("/global/")

    def wanted(self, rows: Sequence[Logged]) -> list[tuple[str, bytes]]:
        """Return what it should see: the rows that it wants, from where it started, once, in order."""
        assert self.start is not None
        return [
            (row.cursor, row.envelope if self.is_global else row.payload)
            for row in rows
            if row.position > self.start and self.kind.wants(row)
        ]

    def told_of(self, kind: str) -> list[Frame]:
        """Return the control frames of a type."""
        return [frame for frame in self.told if frame.type == kind]


class Audience:
    """Listeners of the server at `url`, in a `with` block, or until what they have seen is checked."""

    def __init__(self, url: str, listeners: Sequence[Listener], chance: random.Random) -> None:
        self.listeners = listeners
        self.refused = 0  # connections, and requests, that somebody did not get
        self._url = url
        self._chance = chance
        self._selector = selectors.DefaultSelector()
        self._texts: dict[bytes, bytes] = {}  # what many see is kept once
        self._is_stopped = False
        self._cut_all = False
        self._hurries = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="audience")

    def __enter__(self) -> Self:
        """Have all of them connect; return when each has been let in."""
        self._thread.start()
        try:
            until(lambda: self._error is not None or all(one.connections for one in self.listeners))
            self._raise()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def hurry(self) -> None:
        """Let those who read slowly read all they can."""
        self._hurries = True

    def cut(self) -> None:
        """Cut everybody's connection; they all come back at once. Returns when each is let in again."""
        before = [one.connections for one in self.listeners]
        self._cut_all = True
        until(lambda: self._error is not None or not self._cut_all)
        until(
            lambda: (
                self._error is not None
                or all(one.connections > was for one, was in zip(self.listeners, before, strict=True))
            )
        )
        self._raise()

    def check(self, rows: Sequence[Logged], timeout_s: float = 2 * DEADLINE_S) -> None:
        """Wait until all have seen what they should of these rows, end, and compare it byte for byte."""
        wanted = [(one, one.wanted(rows)) for one in self.listeners]

        def late() -> dict[str, str]:
            return {
                one.kind.name: f"{len(one.seen)} of {len(all_of_it)}"
                for one, all_of_it in wanted
                if len(one.seen) < len(all_of_it)
            }

        try:
            until(lambda: self._error is not None or not late(), timeout_s=timeout_s)
        except AssertionError:
            raise AssertionError(f"after {timeout_s:g} s some have seen only a part: {late()}") from None
        finally:
            self._end()
        self._raise()
        for one, all_of_it in wanted:
            difference = first_difference(one.seen, all_of_it)
            assert difference is None, f"{one.kind.name}: {difference}"

    def _end(self) -> None:
        """End, whatever they have seen. Twice is fine."""
        self._is_stopped = True
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # --- on the thread

    def _run(self) -> None:
        try:
            while not self._is_stopped:
                self._turn()
        except BaseException as error:  # noqa: BLE001  # the test's thread raises it
            self._error = error
        finally:
            for listener in self.listeners:
                self._leave(listener)
            self._selector.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if self._cut_all:
            for listener in self.listeners:
                self._leave(listener)
            self._cut_all = False
        for listener in self.listeners:
            if listener.stream is None:
                if now >= listener.not_before:
                    self._come(listener, now)
            elif listener.kind.pace is not None and not self._watch_if_hurried(listener):
                self._read_slowly(listener, listener.kind.pace, now)
        if not self._selector.get_map():
            time.sleep(TICK_S)
            return
        for key, _ in self._selector.select(TICK_S):
            self._read(key.data)

    def _come(self, listener: Listener, now: float) -> None:
        kind = listener.kind
        fields = kind.fields if listener.after is None else (*kind.fields, f"Last-Event-ID: {listener.after}")
        client = Client(self._url)
        try:
            listener.stream = client.ask(kind.target, *fields, version=kind.version, receive_buffer=kind.receive_buffer)
        except OSError:
            self.refused += 1
            client.close()
            listener.not_before = now + RETRY_S
            return
        listener.client = client
        listener.reads_since, listener.read_bytes = now, 0
        if kind.cuts is not None:
            listener.leaves_at = len(listener.seen) + self._chance.randrange(2 * kind.cuts)
        if kind.pace is None:
            self._selector.register(listener.stream.sock, selectors.EVENT_READ, listener)

    def _watch_if_hurried(self, listener: Listener) -> bool:
        """Have somebody who read slowly read all that comes, if it shall."""
        assert listener.stream is not None
        if self._hurries and listener.stream.sock not in self._selector.get_map():
            self._selector.register(listener.stream.sock, selectors.EVENT_READ, listener)
        return self._hurries

    def _read_slowly(self, listener: Listener, pace: int, now: float) -> None:
        if listener.read_bytes <= (now - listener.reads_since) * pace:
            listener.read_bytes += PACED_BYTES
            self._read(listener, PACED_BYTES)

    def _read(self, listener: Listener, size: int = 262_144) -> None:
        stream = listener.stream
        assert stream is not None
        for frame in stream.poll(size):
            self._note(listener, frame)
        is_refused = stream.head is not None and stream.head.status != 200
        self.refused += is_refused
        has_enough = listener.kind.cuts is not None and len(listener.seen) > listener.leaves_at
        if stream.ended is not None or is_refused or has_enough:
            self._leave(listener)

    def _leave(self, listener: Listener) -> None:
        stream, client = listener.stream, listener.client
        if stream is None or client is None:
            return
        if stream.sock in self._selector.get_map():
            self._selector.unregister(stream.sock)
        if self._chance.random() < 0.5:
            stream.reset()
        client.close()
        listener.stream = listener.client = None

    def _note(self, listener: Listener, frame: Frame) -> None:
        """Note what somebody has seen, and check what one frame tells."""
        before = position(listener.after)
        if frame.is_control:
            self._note_control(listener, frame)
        else:
            assert frame.id is not None, frame
            assert position(frame.id) > before, f"{listener.kind.name}: {frame.id} after {listener.after}"
            data = without_cursor(frame)
            listener.seen.append((frame.id, self._texts.setdefault(data, data)))
        if frame.id is not None:
            assert position(frame.id) >= before, f"{listener.kind.name}: {frame} after {listener.after}"
            listener.after = frame.id

    def _note_control(self, listener: Listener, frame: Frame) -> None:
        if frame.type == "server.heartbeat":
            return
        listener.told.append(frame)
        if frame.type == "server.connected":
            listener.connections += 1
            if listener.start is None:
                listener.start = position(frame.id)
            if listener.after is not None and not listener.kind.may_expire:
                assert frame.properties["resumed"] is True, f"{listener.kind.name}: {frame} after {listener.after}"
                assert frame.id == listener.after, f"{listener.kind.name}: {frame} after {listener.after}"
        elif frame.type == "server.stream.expired":
            assert listener.kind.may_expire, f"{listener.kind.name}: {frame} after {listener.after}"


def position(cursor: str | None) -> int:
    """Return a cursor's position; -1 for none."""
    return -1 if cursor is None else int(cursor.split("-")[1])


def without_cursor(frame: Frame) -> bytes:
    """Return an event's bytes as they were published: NDJSON adds a last member."""
    tail = f',"cursor":"{frame.id}"}}'.encode()
    return frame.data[: -len(tail)] + b"}" if frame.data.endswith(tail) else frame.data
