"""Who comes back, and who reads too slowly, gets every event once and in order, and nobody else pays for it.

They get it from the log of a real daemon: in a storm of clients, behind a flood, past a retention that overtakes them.
"""

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from opencode_events import statedir
from opencode_events.events import DISPOSED
from tests.cli.logs import acceptable, make_schema_1
from tests.clients import NDJSON, Client, Frame, envelope, until
from tests.e2e.audience import Audience, Kind, Listener, position
from tests.e2e.ledger import Ledger, anything, of_instance, plain, read_log
from tests.e2e.publishers import DIRECTORIES, Objects, Twins, publishing
from tests.samples import event, make, recorded
from tests.servers import Daemon

StartDaemon = Callable[..., Daemon]

PAD = "x" * 1_000
# More than the kernel takes for a connection that nobody reads, by far.
FLOOD = 12_000
SMALL = 8_192


def flood(client: Client, start: int, events: int = FLOOD, batch: int = 1_000) -> list[str]:
    """Publish events with ids from `start` on; return these."""
    for first in range(start, start + events, batch):
        client.publish(*(envelope(number, pad=PAD) for number in range(first, first + batch)))
    return [f"evt_{number}" for number in range(start, start + events)]


def handle(client: Client, number: int) -> dict[str, Any]:
    """Return what the server shows of a handle."""
    return next(each for each in client.subscribers() if each["id"] == number)


def names(frames: list[Frame]) -> list[str]:
    """Return the ids of those frames that are events."""
    return [frame.event for frame in frames if not frame.is_control]


# --- a storm

STORM = 300
HISTORY = 2_000


def storm(chance: random.Random, cursors: list[str]) -> list[Listener]:
    """Return listeners of several kinds that were here before, each up to another place."""
    kinds = [
        Kind(name="global", wants=anything),
        Kind(name="plain", target="/global/event?sync=none", wants=plain),
        Kind(name="twins", target="/global/event?sync=only", wants=lambda row: row.key[1] or row.type == DISPOSED),
        Kind(name="lines", fields=(f"Accept: {NDJSON}",), wants=anything),
        Kind(name="cut", cuts=200, wants=anything),
        *(
            Kind(
                name=directory,
                target=f"/event?directory={directory}",
                wants=of_instance(directory),
            )
            for directory in DIRECTORIES
        ),
    ]
    listeners = []
    for number in range(STORM):
        cursor = chance.choice(cursors)
        listeners.append(Listener(kinds[number % len(kinds)], after=cursor, start=position(cursor)))
    return listeners


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_a_storm_that_comes_back_at_once_gets_everything_while_publishers_go_on(
    start_daemon: StartDaemon, uvloop: bool
) -> None:
    chance = random.Random(1)
    daemon, ledger = start_daemon(uvloop=uvloop), Ledger()
    client = daemon.client
    publishers = [
        kind(name, daemon.url, ledger, random.Random(chance.random()), pause_s=0.03)
        for name, kind in {"o": Objects, "t": Twins}.items()
    ]
    client.publish(*(envelope(number, chance.choice(DIRECTORIES), kind="test.tick") for number in range(HISTORY)))
    cursors = [row.cursor for row in read_log(daemon.log_path)]
    audience = Audience(daemon.url, storm(chance, cursors), chance)

    with publishing(publishers), audience:
        for _ in range(3):
            audience.cut()
        for publisher in publishers:
            publisher.stop()
        rows = read_log(daemon.log_path)
        ledger.check(rows)
        audience.check(rows)


# --- readers that are too slow


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_a_slow_reader_behind_a_flood_costs_nothing_and_comes_to_see_it_all(
    start_daemon: StartDaemon, uvloop: bool
) -> None:
    """It reads 50 KB/s, of some MB/s."""
    daemon = start_daemon(uvloop=uvloop, backlog_events=500, heartbeat_s=0.2)
    client = daemon.client
    slow = Listener(
        Kind(
            name="slow",
            target="/global/event?on_overflow=catchup",
            receive_buffer=SMALL,
            pace=50_000,
            wants=anything,
        )
    )
    fast = Listener(Kind(name="fast", wants=anything))
    held, resident, states = [], [], []

    with Audience(daemon.url, [slow, fast], random.Random(1)) as audience:
        (number,) = [each["id"] for each in client.subscribers() if each["on_overflow"] == "catchup"]
        for batch in range(40):
            flood(client, batch * 1_000, 1_000)
            held.append(client.status()["broker"]["held_bytes"])
            resident.append(daemon.resident_kib())
            states.append(handle(client, number)["state"])
        behind = handle(client, number)["lag_events"]
        audience.hurry()
        until(lambda: handle(client, number)["state"] == "live", timeout_s=40)
        flood(client, 40_000, 10, 10)
        audience.check(read_log(daemon.log_path))

    assert states[-20:] == ["catching_up"] * 20
    assert behind > 25_000
    assert max(held) < 1_500_000  # two backlogs of 500, or a page and what its transport holds
    assert resident[-1] - resident[15] < 8 * 1024
    assert slow.connections == 1
    assert [frame.type for frame in slow.told if frame.type != "server.stream.lagging"] == [
        "server.connected", "server.stream.live",
    ]  # fmt: skip
    assert client.status()["broker"]["fell_behind"] == 1


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_a_flood_during_a_replay_is_no_overflow(start_daemon: StartDaemon, uvloop: bool) -> None:
    """Who is being replayed to queues nothing; once it is live, it can be too slow, and comes back again."""
    daemon = start_daemon(uvloop=uvloop, backlog_events=200)
    client = daemon.client
    published = flood(client, 0)
    stream = client.ask("/global/event?after=earliest", receive_buffer=SMALL)
    until(lambda: client.subscribers() and client.subscribers()[0]["is_parked"])
    (number,) = [each["id"] for each in client.subscribers()]

    published += flood(client, FLOOD)
    shown = handle(client, number)
    assert (shown["state"], shown["reason"], shown["on_overflow"]) == ("replaying", None, "end")
    assert shown["queued_bytes"] <= 70_000
    assert client.status()["broker"]["held_bytes"] < 200_000
    replayed = stream.until("server.stream.live")
    assert names(replayed) == published
    assert replayed[-1].properties == {"replayed": len(published)}

    start = len(published)
    while handle(client, number)["state"] == "live":
        published += flood(client, start, 1_000)
        start += 1_000
    rest = stream.rest()
    assert rest[-1].properties["reason"] == "overflow_events"
    resumed = client.subscribe("/global/event", f"Last-Event-ID: {rest[-1].properties['cursor']}")
    rest += resumed.until("server.stream.live")
    assert names(replayed + rest) == published


def test_a_client_that_comes_back_twice_at_once_gets_everything_twice(start_daemon: StartDaemon) -> None:
    """As one does whose first connection is half dead: neither takes from the other."""
    daemon = start_daemon()
    client = daemon.client
    published = flood(client, 0)
    first = client.subscribe("/global/event?after=earliest")
    seen = first.events(5_000)
    first.reset()

    stalled = client.ask("/global/event", f"Last-Event-ID: {seen[-1].id}", receive_buffer=SMALL)
    second = client.subscribe("/global/event?on_overflow=catchup", f"Last-Event-ID: {seen[-1].id}")
    seen_again = second.events(1_000)
    third = client.subscribe("/global/event?on_overflow=catchup", f"Last-Event-ID: {seen_again[-1].id}")
    published += flood(client, FLOOD, 1_000)

    rest = second.events(len(published) - 6_000)
    assert names(seen + seen_again + rest) == published
    assert names(third.events(len(rest))) == names(rest)
    until(lambda: client.subscribers()[0]["is_parked"])
    assert names(stalled.events(len(published) - 5_000)) == names(seen_again + rest)


# --- retention


def assert_unbroken(frames: list[Frame], start: int) -> list[Frame]:
    """Positions have no gap but where the client was told, and told truly; return these frames."""
    expected, told = start + 1, []
    for frame in frames:
        if frame.type == "server.stream.expired":
            told.append(frame)
            properties = frame.properties
            assert properties["reason"] == "trimmed"
            assert position(properties["requested"]) == expected - 1
            assert position(properties["oldest"]) > expected
            expected = position(properties["oldest"])
        elif not frame.is_control:
            assert position(frame.id) == expected
            expected += 1
    return told


@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_a_stopped_reader_that_retention_overtakes_is_told_and_goes_on(start_daemon: StartDaemon, uvloop: bool) -> None:
    daemon = start_daemon(uvloop=uvloop, log_max_events=500, backlog_events=200, heartbeat_s=60)
    client = daemon.client
    stream = client.subscribe("/global/event?on_overflow=catchup", receive_buffer=SMALL)
    (number,) = [each["id"] for each in client.subscribers()]

    published = flood(client, 0)
    until(lambda: client.status()["log"]["events"] == 500)
    assert handle(client, number)["state"] == "catching_up"
    frames = stream.until("server.stream.live")
    last = client.publish(envelope("live"))["last"]
    frames += stream.events(1)

    (expired,) = assert_unbroken(frames, 0)
    seen = names(frames)
    at = frames.index(expired)
    before = names(frames[:at])
    assert before == published[: len(before)]
    assert 20 < len(before) < FLOOD - 500
    assert seen[len(before) :] == [*published[-500:], "evt_live"]
    oldest, newest = expired.properties["oldest"], expired.properties["newest"]
    assert (position(oldest), position(newest)) == (FLOOD - 499, FLOOD)
    assert frames[-1].id == last
    assert handle(client, number)["state"] == "live"


@contextmanager
def a_publisher(client: Client, pause_s: float = 0.01) -> Iterator[list[int]]:
    """Publish beside what is done in the block; what is lent counts the events so far."""
    over, counted, own = threading.Event(), [0], Client(f"http://{client.host}:{client.port}")

    def publish() -> None:
        for number in count():
            if over.wait(pause_s):
                return
            own.publish(*(envelope(f"{number}_{each}", pad="x" * 100) for each in range(100)))
            counted[0] += 100

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield counted
    finally:
        over.set()
        thread.join()


def test_retention_at_work_breaks_no_replay(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(log_max_events=3_000)
    client = daemon.client
    witness = Listener(Kind(name="witness", wants=anything))
    trims = 0

    with Audience(daemon.url, [witness], random.Random(1)), a_publisher(client) as counted:
        until(lambda: client.status()["log"]["oldest"] > 500)
        for _ in range(20):
            before = client.status()["log"]["oldest"]
            stream = client.subscribe("/global/event?after=earliest")
            assert stream.connected is not None
            frames = stream.until("server.stream.live")
            assert_unbroken(frames, position(stream.connected.id))
            assert len(names(frames)) > 1_000
            stream.close()
            trims += client.status()["log"]["oldest"] > before
        slow = client.subscribe("/global/event?after=earliest", receive_buffer=SMALL)
        first = slow.frames(100)
        assert slow.connected is not None
        until(lambda: client.status()["log"]["oldest"] > position(first[-1].id) + 3_000)
        assert_unbroken(first + slow.until("server.stream.live"), position(slow.connected.id))
        until(lambda: len(witness.seen) >= counted[0] - 1_000)

    assert trims > 1
    assert [position(cursor) for cursor, _ in witness.seen] == list(range(1, len(witness.seen) + 1))
    until(lambda: client.status()["log"]["events"] <= 3_000)


# --- an older log

# Events that take some tenths of a second to be brought to this version.
MIGRATED = 50_000


def test_a_log_of_the_first_version_is_migrated_at_the_start(start_daemon: StartDaemon, tmp_path: Path) -> None:
    lines = acceptable(recorded())
    state = tmp_path / "state"
    state.mkdir()
    make_schema_1(state / "events.sqlite3", [make(line) for line in lines])

    daemon = start_daemon()
    (migrated,) = [line for line in daemon.lines() if line["event"] == "eventlog.migrated"]
    assert (migrated["schema"], migrated["to"]) == (1, 3)
    stream = daemon.client.subscribe("/global/event", "Last-Event-ID: 0123456789-3")
    assert stream.connected is not None
    assert stream.connected.properties["resumed"] is True
    assert [(frame.id, frame.data) for frame in stream.events(len(lines) - 3)] == [
        (f"0123456789-{position}", line) for position, line in enumerate(lines[3:], 4)
    ]
    again = daemon.client.post("/global/event", b"\n".join(lines), NDJSON).json
    assert (again["accepted"], again["duplicates"]) == (0, len(lines))
    history = daemon.client.post("/sync/history", b"{}").json
    assert len(history) == sum(b'"type":"sync"' in line for line in lines)


def test_a_daemon_that_is_killed_while_it_migrates_begins_again(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """At whatever moment: it is killed after longer and longer."""
    state = tmp_path / "state"
    state.mkdir()
    log = state / "events.sqlite3"
    make_schema_1(log, [event(1, pad=200)])
    with closing(sqlite3.connect(log)) as db, db:
        db.execute(
            "INSERT INTO event WITH RECURSIVE number (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM number LIMIT ?) "
            "SELECT n, 'evt_' || n, is_sync, type, directory, workspace, session, payload_start, payload_end, envelope "
            "FROM event, number WHERE position = 1",
            (MIGRATED - 1,),
        )

    for times in range(6):
        daemon = start_daemon(is_awaited=False)
        until(lambda: statedir.holder_pid(state) == daemon.pid)  # noqa: B023  # asked at once
        time.sleep(times * 0.05)
        daemon.kill()
    daemon = start_daemon()

    assert [row.cursor for row in read_log(daemon.log_path)] == [f"0123456789-{at}" for at in range(1, MIGRATED + 1)]
    assert daemon.client.publish(envelope("new"))["accepted"] == 1
