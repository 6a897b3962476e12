"""Whatever is published, cut, resumed, trimmed and restarted: every client gets what it wants, once and in order.

A real broker over a real log in SQLite runs on a loop that is turned by hand; `model` says what must come out.
"""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from opencode_events import events
from opencode_events.broker.connection import OnOverflow
from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.report import report
from opencode_events.broker.selection import Selection
from opencode_events.cursor import parse
from opencode_events.errors import Busy
from opencode_events.eventlog.base import Appended, Outcome, Query
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import Event
from opencode_events.settings import EventLogSettings
from tests.broker.model import RESYNC, Client, Entry, audit
from tests.broker.stepped import Run
from tests.samples import disposal, event, twin

SELECTIONS = [
    Selection(stream="global"),
    Selection(stream="global", form="ndjson", sync="none"),
    Selection(stream="global", sync="only"),
    Selection(stream="global", types=frozenset(["message.*"])),
    Selection(stream="global", types=frozenset(["nothing"])),
    Selection(stream="global", sessions=frozenset(["ses_1"])),
    Selection(stream="instance", directory="/srv/a"),
    Selection(stream="instance", directory="/srv/a", form="ndjson", types=frozenset(["message.*"])),
    Selection(stream="instance", directory="/srv/b"),
]
# Small enough that every limit is met.
SMALL = {
    "backlog_events": 5, "backlog_bytes": 4_000, "segment_events": 2, "segment_bytes": 1_500, "replay_events": 4,
    "replay_bytes": 1_000,
}  # fmt: skip
LARGE = 70_000  # more than a connection is given at a time, so that half of it may be written
KEPT_S = 20.0  # by the log's clock, which goes on by one with each publish
EVERYTHING = Query(None, None, 1_000_000, 1_000_000_000)

# Shrinking what fails takes its time.
pytestmark = pytest.mark.limit_s(300)

# What is published: one draw for each event.
ITEMS = st.sampled_from(
    [("plain", directory, session, 0) for directory in ("/srv/a", "/srv/b") for session in ("ses_1", "ses_2")] * 3
    + [("message", "/srv/a", "ses_1", 0), ("message", "/srv/b", "ses_2", 300), ("plain", "/srv/a", "ses_2", 300)]
    + [("twin", "/srv/a", "ses_1", 0), ("twin", "/srv/b", "ses_2", 0), ("plain", "/srv/a", "ses_1", LARGE)]
    + [("duplicate", "", "", 0), ("duplicate", "", "", 3), ("disposal", "/srv/a", "", 0), ("disposal", "/srv/b", "", 0)]
    + [("gap", "", "", 0)] * 2
)
ROOMS = st.sampled_from([None, None, 1, 200, 1_000])
TURNS = st.sampled_from([0, 0, 1, 1, 2, 2, 3, 4, 5, 7, 12])
WHICH = st.integers(0, 11)


class WitnessedLog(SqliteLog):
    """Tells `witness` of everything that is committed."""

    witness: Callable[[Sequence[Outcome]], None]

    def append_nowait(self, batches: Sequence[Sequence[Event]]) -> list[Outcome] | None:
        outcomes = super().append_nowait(batches)
        self.witness(outcomes or [])
        return outcomes

    async def append(self, batches: Sequence[Sequence[Event]]) -> list[Outcome]:
        outcomes = await super().append(batches)
        self.witness(outcomes)
        return outcomes


class BrokerMachine(RuleBasedStateMachine):
    """The log is in memory. The broker's subscribers are `clients`, and those that no client listens to any more."""

    path: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.lines = self.stack.enter_context(capture_logs())
        self.wall = 1_000_000.0
        self.accepted: dict[int, Entry] = {}
        self.clients: list[Client] = []
        self.numbers = 0
        self.published: list[Event] = []
        self.seqs: dict[str, int] = {}
        self.changes: dict[str, Any] = {}
        self.run: Run | None = None

    @property
    def running(self) -> Run:
        assert self.run is not None
        return self.run

    @initialize(
        selections=st.lists(st.sampled_from(SELECTIONS), min_size=1, max_size=3, unique=True),
        recent=st.sampled_from([1, 5, 1_000]),
        flush_slice=st.sampled_from([1, 1, 2, 250]),
        budget=st.sampled_from([20_000, 150_000, 10_000_000]),
        job_turns=st.sampled_from([0, 0, 1, 4]),
    )
    def begin(self, selections: list[Selection], recent: int, flush_slice: int, budget: int, job_turns: int) -> None:
        self.selections = selections
        self.changes = SMALL | {"recent_events": recent, "flush_slice": flush_slice, "budget_bytes": budget}
        self.job_turns = job_turns
        self.open()
        for number in range(3):
            self.subscribe(number, "catchup", "fresh", 0, None, 1)

    def open(self) -> None:
        """Start a broker on the log as it is."""
        self.log = WitnessedLog(self.path, EventLogSettings(log_max_age_s=KEPT_S), clock=lambda: self.wall)
        self.log.witness = self.witness
        self.run = Run(self.log, **self.changes)
        self.run.broker.resync = lambda: RESYNC
        self.run.loop.job_turns = self.job_turns

    def witness(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            assert isinstance(outcome, Appended), outcome
            for position, one in enumerate(outcome.events, outcome.first):
                assert position == len(self.accepted) + 1
                self.accepted[position] = Entry(one, f"{outcome.epoch}-{position}")

    # --- publishers

    @rule(items=st.lists(ITEMS, min_size=1, max_size=6), turns=TURNS)
    def publish(self, items: list[tuple[str, str, str, int]], turns: int) -> None:
        self.wall += 1
        batch = [self.make(*item) for item in items]
        self.published += batch
        self.running.begin(*batch)
        self.running.loop.turns(turns)

    @precondition(lambda self: self.there())
    @rule(
        which=WHICH,
        items=st.lists(ITEMS, min_size=6, max_size=16),
        turns=st.integers(2, 12),
        is_short=st.booleans(),
        then=TURNS,
    )
    def burst(self, which: int, items: list[tuple[str, str, str, int]], turns: int, is_short: bool, then: int) -> None:
        """A client stops to read just before a burst, and goes on in the middle of it."""
        client = self.there()[which % len(self.there())]
        assert client.connection is not None
        client.connection.room = 1
        self.publish(items, turns)
        if is_short and client.handle is not None:
            client.handle.give_up(Reason.OVERFLOW_MEMORY)
        if client.connection.ended != "reset":
            client.connection.make_room(None)
        self.running.loop.turns(then)

    def make(self, what: str, directory: str, session: str, pad: int) -> Event:
        if what == "duplicate" and self.published:
            return self.published[-pad % len(self.published) - 1]
        self.numbers += 1
        if what == "gap":
            return events.gap(None, self.numbers, 0)
        if what == "disposal":
            return disposal(self.numbers, directory)
        if what == "twin":
            seq = self.seqs[session] = self.seqs.get(session, -1) + 1
            return twin(self.numbers, directory=directory, session=session, seq=seq)
        kind = "message.updated" if what == "message" else "session.idle"
        return event(self.numbers, kind, directory=directory, session=session, pad=pad)

    # --- clients

    @rule(
        selection=st.integers(0, 5),
        on_overflow=st.sampled_from(["catchup", "catchup", "end"]),
        begin=st.sampled_from(["fresh", "fresh", "earliest", "after"]),
        which=st.integers(0, 1_000),
        room=ROOMS,
        turns=TURNS,
    )
    def subscribe(
        self, selection: int, on_overflow: OnOverflow, begin: str, which: int, room: int | None, turns: int
    ) -> None:
        broker = self.running.broker
        start = {"fresh": broker.head_position, "earliest": broker.oldest_position - 1}.get(
            begin, which % (broker.head_position + 1)
        )
        cursor = self.accepted[start].cursor if begin == "after" and start else broker.cursor(start)
        client = Client(self.selections[selection % len(self.selections)], on_overflow, start, cursor)
        self.clients.append(client)
        if begin == "fresh":
            self.attach(client, None, room)
        else:
            self.connect(client, room)
        self.running.loop.turns(turns)

    def connect(self, client: Client, room: int | None) -> None:
        """Come back with the last id that a client has seen, as the web part does it."""
        broker = self.running.broker
        cursor = parse(client.last_id)
        assert cursor is not None
        assert broker.is_known(cursor), client.last_id
        after = cursor.position
        if after < broker.oldest_position - 1:
            client.is_told_of(broker.cursor(min(broker.oldest_position, broker.head_position)), broker.head)
            after = broker.oldest_position - 1
        self.attach(client, after, room)

    def attach(self, client: Client, after: int | None, room: int | None) -> None:
        client.handle, client.connection = self.running.join(
            client.selection, after=after, room=room, on_overflow=client.on_overflow
        )

    def there(self) -> list[Client]:
        return [client for client in self.clients if client.connection is not None]

    def away(self) -> list[Client]:
        return [client for client in self.clients if client.connection is None]

    @precondition(lambda self: self.there())
    @rule(which=WHICH, room=ROOMS, turns=TURNS)
    def make_room(self, which: int, room: int | None, turns: int) -> None:
        client = self.there()[which % len(self.there())]
        assert client.connection is not None
        if client.connection.ended != "reset":
            client.connection.make_room(room)
        self.running.loop.turns(turns)

    @precondition(lambda self: self.there())
    @rule(which=WHICH, unread=st.sampled_from([0, 0, 1, 50, 400]), is_noticed=st.booleans())
    def cut(self, which: int, unread: int, is_noticed: bool) -> None:
        """A connection breaks, with bytes under way; the broker may not hear of it for long."""
        client = self.there()[which % len(self.there())]
        assert client.handle is not None
        assert client.connection is not None
        handle, connection = client.handle, client.connection
        client.hang_up(min(unread, len(connection.received)))
        if is_noticed:
            handle.lost(Reason.CLIENT_RESET)
        else:
            connection.room = 0

    @precondition(lambda self: self.away())
    @rule(which=WHICH, room=ROOMS, turns=TURNS)
    def resume(self, which: int, room: int | None, turns: int) -> None:
        self.connect(self.away()[which % len(self.away())], room)
        self.running.loop.turns(turns)

    # --- the broker

    @rule(turns=st.integers(1, 40))
    def turn(self, turns: int) -> None:
        self.running.loop.turns(turns)

    @rule(seconds=st.sampled_from([0.005, 0.5, 10.0]), turns=TURNS)
    def advance(self, seconds: float, turns: int) -> None:
        """Look again at what is stale, or have the log looked after, or heartbeats."""
        self.running.loop.advance(seconds)
        self.running.loop.turns(turns)

    @rule(seconds=st.integers(1, 25), turns=TURNS)
    def trim(self, seconds: int, turns: int) -> None:
        """Events grow old, and those that are too old go."""
        self.wall += seconds
        self.running.loop.advance(1.0)
        self.running.loop.turns(turns)

    @rule(which=WHICH, is_for_memory=st.booleans())
    def end(self, which: int, is_for_memory: bool) -> None:
        """An operator ends a subscription; or memory is short, and it is the one that holds most."""
        handles = list(self.running.broker.subscribers.values())
        if not handles:
            return
        handle = handles[which % len(handles)]
        if is_for_memory:
            handle.give_up(Reason.OVERFLOW_MEMORY)
        else:
            handle.close(Reason.OPERATOR)

    # --- what holds at all times

    @invariant()
    def nobody_fails(self) -> None:
        assert self.run is None or not self.run.running.done()
        assert [line for line in self.lines if line["log_level"] == "error"] == []

    @invariant()
    def who_is_behind_holds_a_page_at_most(self) -> None:
        for handle in self.running.broker.subscribers.values() if self.run else ():
            if handle.is_behind:
                assert handle.queued_events <= SMALL["replay_events"]
                assert handle.queued_bytes <= SMALL["replay_bytes"] + LARGE + 1_000

    # --- the end

    def teardown(self) -> None:
        with self.stack:
            if self.run is None:
                return
            try:
                self.settle()
                self.check()
            finally:
                self.run.loop.end()
                self.log.close()

    def settle(self) -> None:
        """Let everybody read, and come back, until all are live at the head."""
        loop = self.running.loop
        loop.job_turns = 0
        for _ in range(200):
            for client in self.there():
                assert client.handle is not None
                assert client.connection is not None
                if client.handle.state is State.CLOSED:
                    client.hang_up()
                elif client.connection.room is not None and client.connection.ended != "reset":
                    client.connection.make_room(None)
            for client in self.away():
                self.connect(client, None)
            flushes = self.running.broker.statistics()["flushes"]
            loop.turns(30)
            loop.advance(0.01)
            loop.turns(30)
            if self.is_settled() and self.running.broker.statistics()["flushes"] == flushes:
                break
        else:
            raise AssertionError([report(one, self.running.broker) for one in self.running.broker.subscribers.values()])
        for client in self.clients:
            assert client.hears_all_of_gaps(), client
            client.hang_up()
        self.nobody_fails()

    def is_settled(self) -> bool:
        return all(task.done() for task in self.running.publishing) and all(
            client.handle is not None and client.handle.state is State.LIVE and not client.handle.queued_events
            for client in self.clients
        )

    def check(self) -> None:
        assert self.running.broker.head_position == self.log.head == len(self.accepted)
        for client in self.clients:
            audit(client, self.accepted, self.log.oldest, self.log.head)
        self.check_answers()
        self.check_log()

    def check_answers(self) -> None:
        """Who was answered was told the truth."""
        for task in self.running.publishing:
            if not task.done() or task.cancelled() or isinstance(task.exception(), Busy):
                continue
            answer = task.result()
            for position, one in enumerate(answer.events, answer.first):
                assert self.accepted[position] == Entry(one, f"{answer.epoch}-{position}")

    def check_log(self) -> None:
        """What was accepted and is not too old is in the log, at its place."""
        page = self.running.loop.run_until_complete(self.log.read(0, self.log.head, EVERYTHING))
        assert [(one.position, one.cursor.decode(), one.event) for one in page.events] == [
            (position, self.accepted[position].cursor, self.accepted[position].event)
            for position in range(self.log.oldest, len(self.accepted) + 1)
        ]


class FileMachine(BrokerMachine):
    """The log is in a file, so that the daemon may end, or be killed, and start again."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(self.stack.enter_context(tempfile.TemporaryDirectory())) / "events.sqlite3"

    @rule(unread=st.sampled_from([0, 1, 100]))
    def kill(self, unread: int) -> None:
        """End without a word: what is on its way to clients is lost, and publishers never hear."""
        for client in self.there():
            assert client.connection is not None
            client.hang_up(min(unread, len(client.connection.received)))
        self.restart()

    @rule(wait_s=st.sampled_from([0.0, 5.0]))
    def stop(self, wait_s: float) -> None:
        """End in order: everybody is told."""
        loop = self.running.loop
        draining = loop.create_task(self.running.broker.drain(wait_s))
        while not draining.done():
            loop.turns(10)
            loop.advance(1.0)
        assert not self.running.broker.subscribers
        for client in self.there():
            client.hang_up()
        self.restart()

    def restart(self) -> None:
        self.check_answers()
        self.running.loop.end()
        self.log.close()
        self.open()
        assert self.log.head >= len(self.accepted)
        known = len(self.accepted)
        page = self.running.loop.run_until_complete(self.log.read(known, self.log.head, EVERYTHING))
        for position, cursor, one in page.events:  # committed, and nobody was told
            self.accepted[position] = Entry(one, cursor.decode())
        assert len(self.accepted) == self.log.head
        self.published = [entry.event for entry in self.accepted.values()]
        self.seqs = {
            one.aggregate: one.seq for one in self.published if one.aggregate is not None and one.seq is not None
        }
        self.check_log()


SETTINGS = settings(
    stateful_step_count=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # explaining takes longer than all of them
    suppress_health_check=[HealthCheck.too_slow],
)
TestInMemory = BrokerMachine.TestCase
TestInMemory.settings = settings(SETTINGS, max_examples=200)
TestInAFile = FileMachine.TestCase
TestInAFile.settings = settings(SETTINGS, max_examples=40)
