"""A relay on the running loop, between a fake upstream and a real broker with a real log, and an audit of what came.

What a stage was is over with it; its log's file may serve the next one, as after a daemon that was killed.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from opencode_events.broker.broker import Broker
from opencode_events.broker.selection import Selection
from opencode_events.credentials import Credentials
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.events import GAP
from opencode_events.relay.relay import Relay
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import BrokerSettings, EventLogSettings, RelaySettings
from tests.broker.fakes import GLOBAL, FakeConnection, PromptConnection, terms
from tests.eventlog.steps import EVERYTHING, read_all
from tests.relay.fake_upstream import FakeUpstream
from tests.relay.memory import Memory
from tests.samples import dechunk, read_event_stream

DEADLINE_S = 20.0
MAX_EVENT_BYTES = 64 * 1024

Envelope = dict[str, Any]
Lines = list[Any]  # what is logged


async def until(condition: Callable[[], object], timeout_s: float = DEADLINE_S) -> None:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # it may be anything
            await asyncio.sleep(0.001)


class Listener:
    """A subscriber that reads all it gets, unless it has only so much `room`."""

    def __init__(self, broker: Broker, selection: Selection, after: int | None, room: int | None) -> None:
        self.handle = broker.subscribe(selection, terms(on_overflow="catchup"), after)
        self.connection: FakeConnection = PromptConnection(room)
        self.connection.attach_to(self.handle)

    @property
    def frames(self) -> list[tuple[str, Envelope]]:
        """Each frame's id, empty where it has none, and what it says."""
        body, _ = dechunk(self.connection.received)
        found, last = [], ""
        for message in read_event_stream(body):
            has_id = message.last_event_id != last
            last = message.last_event_id
            found.append((last if has_id else "", json.loads(message.data)))
        return found

    @property
    def envelopes(self) -> list[Envelope]:
        """What all frames say."""
        return [envelope for _, envelope in self.frames]

    @property
    def types(self) -> list[str]:
        return [kind_of(envelope) for envelope in self.envelopes]


class Stage:
    """In a `with` block. `path` is the log's file, None one in memory; `changes` are settings of the relay."""

    def __init__(
        self,
        upstream: FakeUpstream,
        path: Path | None = None,
        *,
        password: str = "",
        eventlog: SqliteLog | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
        clock: Callable[[], float] = time.time,
        **changes: Any,
    ) -> None:
        quick = {"upstream_retry_min_s": 0.01, "upstream_retry_max_s": 0.02}
        self.fake = upstream
        self.settings = RelaySettings(**{"upstream": upstream.url} | quick | changes)
        self.log = eventlog or SqliteLog(path, EventLogSettings())
        credentials = Credentials("opencode", password) if password else None
        self.broker: Broker
        self.relay: Relay
        self._upstream = Upstream(self.settings, credentials, max_row_bytes=max_event_bytes)
        self._max_event_bytes = max_event_bytes
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self._upstream.__aenter__()
        self.broker = Broker(BrokerSettings(), self.log, asyncio.get_running_loop())
        self.relay = Relay(
            self.settings,
            self.broker,
            self._upstream,
            max_event_bytes=self._max_event_bytes,
            directory=None,
            clock=self._clock,
        )
        self.broker.resync = self.relay.resync
        self._tasks = [asyncio.create_task(run()) for run in (self.broker.run, self.relay.run)]
        return self

    async def __aexit__(self, *error: object) -> None:
        """End everything where it stands, as a kill would; nothing may have failed."""
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._upstream.__aexit__(None, None, None)
        self.log.close()
        assert [end for end in ends if not isinstance(end, asyncio.CancelledError)] == []

    def listen(self, selection: Selection = GLOBAL, after: int | None = None, *, room: int | None = None) -> Listener:
        """Subscribe."""
        return Listener(self.broker, selection, after, room)

    async def live(self) -> None:
        """Wait until upstream is heard."""
        await until(lambda: self.relay.trouble is None)

    async def away(self) -> None:
        """Wait until it is known not to be."""
        await until(lambda: self.relay.trouble is not None)

    async def logged(self) -> list[Envelope]:
        """Return everything that is in the log."""
        pages = await read_all(self.log, 0, EVERYTHING)
        return [json.loads(stored.event.envelope) for page in pages for stored in page.events]

    async def settled(self, memory: Memory, since: int = 0) -> None:
        """Wait until the log has all that a memory has from its row `since` on."""
        wanted = {row["id"] for row in memory.rows[since:]}
        async with asyncio.timeout(DEADLINE_S):
            while wanted - {id_of(one) for one in await self.logged() if kind_of(one) == "sync"}:  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    def statistic(self, name: str) -> Any:
        return self.relay.statistics()[name]


def kind_of(envelope: Mapping[str, Any]) -> str:
    return str(envelope.get("payload", envelope)["type"])


def id_of(envelope: Mapping[str, Any]) -> str:
    return str(envelope.get("payload", envelope)["id"])


def named(lines: Lines, event: str) -> Lines:
    """Return the lines that tell of one kind of event."""
    return [line for line in lines if line["event"] == event]


def gaps(envelopes: Iterable[Envelope]) -> list[dict[str, Any]]:
    """Return the properties of the gaps among some."""
    return [one["payload"]["properties"] for one in envelopes if kind_of(one) == GAP]


def audit(envelopes: Iterable[Envelope], memory: Memory, since: int = 0) -> None:
    """Compare what came with what a memory has from its row `since` on.

    Each durable event must be there once as plain and once as its twin, those of one session in their order, to the
    letter and under the envelope with which it was sent. Nothing from before may be there.
    """
    known = {row["id"]: row for row in memory.rows}
    wanted = [row["id"] for row in memory.rows[since:]]
    frames = {identity: memory.frames(known[identity]) for identity in known}
    came: dict[bool, dict[str, list[str]]] = {False: {}, True: {}}
    for envelope in envelopes:
        identity = id_of(envelope)
        if identity not in known:
            continue
        is_sync = kind_of(envelope) == "sync"
        assert envelope == json.loads(frames[identity][is_sync]), (envelope, frames[identity][is_sync])
        came[is_sync].setdefault(known[identity]["aggregate_id"], []).append(identity)
    expected: dict[str, list[str]] = {}
    for identity in wanted:
        expected.setdefault(known[identity]["aggregate_id"], []).append(identity)
    assert came[False] == expected
    assert came[True] == expected
