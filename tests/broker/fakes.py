"""Fakes of the broker's seams: a connection that stops reading, an owner, time, a loop turned by hand, a log."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

from opencode_events.broker.budget import Budget
from opencode_events.broker.connection import Connection, End, OnOverflow, Terms
from opencode_events.broker.feed import Feed, Segment
from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.recent import is_wanted
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.broker.watched import Outlook
from opencode_events.cursor import Cursor
from opencode_events.errors import LogUnavailable, OutOfSequence
from opencode_events.eventlog.base import Aggregate, Appended, Outcome, Page, Query, Stored, SyncRow
from opencode_events.events import Event
from opencode_events.settings import BrokerSettings
from tests.samples import dechunk

EPOCH = "0123456789"
GLOBAL = Selection(stream="global")
INSTANCE = Selection(stream="instance", directory="/srv/a")


def terms(end: End = "clean", *, on_overflow: OnOverflow = "end", is_chunked: bool = True) -> Terms:
    return Terms(peer="192.0.2.1:5", on_overflow=on_overflow, end=end, is_chunked=is_chunked)


def segment(last: int, *, events: int = 1, size: int = 0) -> Segment:
    """Return a segment whose body says which it is. `size` is that of its data, framing included."""
    body = b"<%d>" % last
    if size:
        digits = next(n for n in range(1, 8) if len(f"{size - 4 - n:x}") == n)
        body = body.ljust(size - 4 - digits, b".")[: size - 4 - digits]
    made = Segment([body], events, last)
    assert size in (0, made.size)
    return made


class FakeTimer:
    """What `call_later` returns."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeTime:
    """Time stands still but for `advance`, which calls what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._numbers = itertools.count()

    @property
    def pending(self) -> list[float]:
        """When timers that are not cancelled are due."""
        return sorted(timer.when for _, _, timer in self._timers if not timer.is_cancelled)

    def clock(self) -> float:
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        timer = FakeTimer(self.now + delay_s, callback)
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return cast(asyncio.TimerHandle, timer)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            self.now, _, timer = heapq.heappop(self._timers)
            if not timer.is_cancelled:
                timer.callback()
        self.now = until


class FakeLoop(FakeTime):
    """An event loop that turns when it is told to. `cost_s` is what each call takes."""

    def __init__(self) -> None:
        super().__init__()
        self.cost_s = 0.0
        self._ready: list[Callable[[], None]] = []

    @property
    def as_loop(self) -> asyncio.AbstractEventLoop:
        return cast(asyncio.AbstractEventLoop, self)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do without time going on."""
        return not self._ready

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._ready.append(callback)

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    def turn(self) -> None:
        """Call what was ready when the turn began."""
        ready, self._ready = self._ready, []
        for callback in ready:
            self.now += self.cost_s
            callback()

    def run_ready(self) -> int:
        """Turn until nothing is left; return how many turns that took."""
        turns = 0
        while self._ready:
            self.turn()
            turns += 1
        return turns


class Unwatched:
    """What the watchdog asks of a connection, of one that it never sees."""

    socket = None
    is_quiet = True

    def outlook(self) -> Outlook:
        return Outlook()

    def evict(self, reason: str) -> None:
        raise AssertionError(reason)

    def finish(self) -> None:
        raise AssertionError("nobody asks for it")

    def name(self) -> dict[str, object]:
        return {}


class FakeConnection(Unwatched):
    """Takes `room` bytes and then tells its handle to pause, as a transport whose client does not read.

    `room` None never pauses. What was written stays in `writes`. `ended` is "closed" or "reset"; nothing may be
    written after that. `fails` makes writing raise.
    """

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.writes: list[bytes] = []
        self.ended: str | None = None
        self.fails: Exception | None = None
        self.handle: Subscriber | None = None

    @property
    def received(self) -> bytes:
        return b"".join(self.writes)

    @property
    def body(self) -> bytes:
        """What was received, without HTTP's chunks."""
        return dechunk(self.received)[0]

    @property
    def is_complete(self) -> bool:
        """Whether the last chunk was sent."""
        return dechunk(self.received)[1]

    def attach_to(self, handle: Subscriber) -> None:
        self.handle = handle
        handle.attach(self)

    def make_room(self, room: int | None) -> None:
        """Be read until `room` bytes fit again."""
        assert self.handle is not None
        self.room = room
        self.handle.resume()

    def write(self, data: bytes | memoryview) -> None:
        assert self.ended is None
        if self.fails is not None:
            raise self.fails
        self.writes.append(bytes(data))
        if self.room is not None:
            self.room -= len(data)
            if self.room <= 0:
                assert self.handle is not None
                self.handle.pause()

    def buffered(self) -> int:
        return max(0, -(self.room or 0))

    def close(self) -> None:
        assert self.ended is None
        self.ended = "closed"

    def reset(self) -> None:
        self.ended = "reset"


class PromptConnection(FakeConnection):
    """Tells its handle of its end in the next turn of the running loop, as transports do."""

    def close(self) -> None:
        super().close()
        self._tell(Reason.CLIENT_CLOSED)

    def reset(self) -> None:
        super().reset()
        self._tell(Reason.CLIENT_LOST)

    def _tell(self, reason: Reason) -> None:
        assert self.handle is not None
        asyncio.get_running_loop().call_soon(self.handle.lost, reason)


class FakeOwner(FakeTime):
    """What a handle needs of the broker. `told` is what its handles told it, in order."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.settings = BrokerSettings(**changes)
        self.budget = Budget(self.settings.budget_bytes)
        self.told: list[str] = []
        self.head_position = 0

    def cursor(self, position: int) -> str:
        return str(Cursor(EPOCH, position))

    def fell_behind(self, subscriber: Subscriber) -> None:
        self.told.append("fell_behind")

    def wants_page(self, subscriber: Subscriber) -> None:
        self.told.append(f"wants_page {subscriber.position}")

    def closing(self, subscriber: Subscriber) -> None:
        self.told.append("closing")

    def closed(self, subscriber: Subscriber) -> None:
        self.told.append("closed")

    def over_budget(self) -> None:
        self.told.append("over_budget")

    def subscriber(
        self,
        connection: Connection | None = None,
        *,
        position: int = 0,
        selection: Selection = GLOBAL,
        end: End = "clean",
        on_overflow: OnOverflow = "end",
        is_chunked: bool = True,
        state: State = State.LIVE,
    ) -> Subscriber:
        """Return a handle, on `connection` if there is one."""
        how = terms(end, on_overflow=on_overflow, is_chunked=is_chunked)
        made = Subscriber(1, self, Feed(selection), how, position, state=state)
        if isinstance(connection, FakeConnection):
            connection.attach_to(made)
        return made


class FakeLog:
    """An event log that notes what it is asked in `trace`. Every event is new; those up to the first `head` are gone.

    `is_slow` declines to append on the loop; `append` then waits for `gate`. `error` refuses, `read_error` refuses to
    read; `read_gate` holds readers up. `upkeep` is what `maintain` answers, one after the other; `upkeep_gate` holds
    it up, `learn_gate` what learns. Batches with an event whose id is in `breaks` are out of sequence.
    """

    def __init__(self, trace: list[str] | None = None, head: int = 0) -> None:
        self.epoch = EPOCH
        self.head = head
        self.trace: list[str] = [] if trace is None else trace
        self.is_slow = False
        self.error: LogUnavailable | None = None
        self.gate = asyncio.Event()
        self.oldest = head + 1
        self.stored: list[Stored] = []
        self.read_error: LogUnavailable | None = None
        self.read_gate = asyncio.Event()
        self.read_gate.set()
        self.upkeep: list[bool] = []
        self.upkeep_gate = asyncio.Event()
        self.upkeep_gate.set()
        self.breaks: set[str] = set()
        self.places: dict[str, Aggregate] | None = None
        self.learn_gate = asyncio.Event()
        self.learn_gate.set()
        self.newest_ms: int | None = None

    def append_nowait(self, batches: Sequence[Sequence[Event]]) -> list[Outcome] | None:
        return None if self.is_slow else self._append("append_nowait", batches)

    async def append(self, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        await self.gate.wait()
        return self._append("append", batches)

    async def learn(self, places: Mapping[str, Aggregate]) -> None:
        self.trace.append(f"learn {dict(places)}")
        await self.learn_gate.wait()
        if self.error is not None:
            raise self.error
        self.places = (self.places or {}) | dict(places)

    async def aggregates(self) -> dict[str, Aggregate] | None:
        return self.places

    async def maintain(self) -> bool:
        self.trace.append("maintain")
        await self.upkeep_gate.wait()
        if self.error is not None:
            raise self.error
        return self.upkeep.pop(0) if self.upkeep else False

    async def read(self, after: int, until: int, query: Query) -> Page:
        self.trace.append(f"read {after}-{until}")
        await self.read_gate.wait()
        if self.read_error is not None:
            raise self.read_error
        found = [one for one in self.stored if after < one.position <= until and is_wanted(one.event, query)]
        page = found[: query.max_events]
        return Page(page, page[-1].position if len(page) < len(found) else until, self.oldest)

    def history(self, known: Mapping[str, int]) -> AsyncIterator[Sequence[SyncRow]]:
        raise NotImplementedError

    def trim(self, oldest: int) -> None:
        """Retain nothing before a position."""
        self.oldest = oldest
        self.stored = [one for one in self.stored if one.position >= oldest]

    def cursor(self, position: int) -> Cursor:
        return Cursor(EPOCH, position)

    def is_known(self, cursor: Cursor) -> bool:
        return cursor.epoch == EPOCH and cursor.position <= self.head

    def close(self) -> None:
        raise AssertionError("the log is not the broker's to close")

    def statistics(self) -> dict[str, object]:
        return {}

    def _append(self, how: str, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        self.trace.append(f"{how} {[[event.id for event in batch] for batch in batches]}")
        if self.error is not None:
            raise self.error
        appended: list[Outcome] = []
        for batch in batches:
            if any(event.id in self.breaks for event in batch):
                appended.append(OutOfSequence("not the next one"))
                continue
            for position, one in enumerate(batch, self.head + 1):
                self.stored.append(Stored(position, b"%b-%d" % (EPOCH.encode(), position), one))
            appended.append(Appended(self.head + 1, batch, 0, self.epoch))
            self.head += len(batch)
        return appended
