"""Gaps are on every stream, and on global ones what has clients resync is behind each, in one piece with it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from opencode_events import events
from opencode_events.broker.announcement import Announcement
from opencode_events.broker.lifecycle import State
from opencode_events.broker.selection import Selection
from tests.broker.brokers import live, positions, types
from tests.broker.fakes import EPOCH, GLOBAL, INSTANCE, FakeConnection, FakeLog
from tests.broker.stage import Stage
from tests.broker.stepped import Run
from tests.samples import disposal, event, read_event_stream, twin

NDJSON = Selection(stream="global", form="ndjson")
PICKY = [
    Selection(stream="global", sync="only"),
    Selection(stream="global", types=frozenset(["nothing"])),
    Selection(stream="global", sessions=frozenset(["ses_9"])),
    Selection(stream="global", workspaces=frozenset(["w"]), sync="none"),
    Selection(stream="instance", directory="/srv/b"),
    Selection(stream="instance", directory="/srv/b", types=frozenset(["nothing"]), form="ndjson"),
    Selection(stream="instance", directory="/srv/b", sessions=frozenset(["ses_9"])),
]
NAMES = [
    "only twins", "no type", "no session", "a workspace", "another instance", "an instance's types", "and its sessions"
]  # fmt: skip
OF_GLOBAL = Selection(stream="instance", directory="global")
RESYNC = [Announcement("server.connected"), Announcement("server.instance.disposed", {"directory": "/srv/a"}, "/srv/a")]
TOLD = ["server.stream.gap", "server.connected", "server.instance.disposed"]


def gap(number: int = 1) -> events.Event:
    return events.gap(None, number, 0)


def lines(connection: FakeConnection) -> list[dict[str, Any]]:
    """Return the data of all frames, whatever their format."""
    body = connection.body
    if body.startswith(b"{"):
        return [json.loads(line) for line in body.splitlines()]
    return [json.loads(message.data) for message in read_event_stream(body)]


def kinds(connection: FakeConnection) -> list[str]:
    return [value.get("payload", value)["type"] for value in lines(connection)]


# --- live


@pytest.mark.parametrize("selection", PICKY, ids=NAMES)
def test_a_gap_is_on_every_stream_whatever_its_filters(selection: Selection) -> None:
    stage = Stage()
    connection = stage.join(selection)
    stage.gather(event(1, workspace="v"), gap(), event(2, workspace="v"))
    stage.flush()

    assert kinds(connection) == ["server.stream.gap"]
    (found,) = lines(connection)
    assert ("payload" in found) is (selection.stream == "global")


def test_it_is_an_event_with_a_place_of_its_own_among_an_instance_s() -> None:
    stage = Stage()
    connection = stage.join(INSTANCE)
    stage.gather(event(1), gap(), event(2, directory="/srv/b"), event(3))
    stage.flush()

    assert positions(connection) == [1, 4]  # which leaves out what the name says to be a stream's own
    assert kinds(connection) == ["session.idle", "server.stream.gap", "session.idle"]
    assert b"id: %b-2\n" % EPOCH.encode() in connection.body


def test_what_is_called_global_is_no_instance() -> None:
    stage = Stage()
    connection = stage.join(OF_GLOBAL)
    stage.gather(gap(), event(1, directory="global"))
    stage.flush()

    assert connection.received == b""


def test_a_twin_by_its_name_is_none() -> None:
    stage = Stage()
    connection = stage.join(INSTANCE)
    stage.gather(twin(1, "server.stream.gap.1", directory=None), twin(2, "server.stream.gap.1"))
    stage.flush()

    assert connection.received == b""


def test_behind_the_end_of_an_instance_its_next_stream_has_it() -> None:
    stage = Stage()
    before = stage.join(INSTANCE)
    stage.gather(disposal())
    after = stage.join(INSTANCE)
    stage.gather(gap())
    stage.flush()

    assert kinds(before) == ["server.instance.disposed"]
    assert kinds(after) == ["server.stream.gap"]


# --- from the log


@pytest.mark.parametrize("recent", [1, 1000], ids=["from the log", "from memory"])
@pytest.mark.parametrize("selection", PICKY, ids=NAMES)
def test_who_resumes_across_a_gap_hears_of_it(start: Callable[..., Run], selection: Selection, recent: int) -> None:
    run = start(recent_events=recent)
    run.publish(event(1, workspace="v"), gap(), event(2, workspace="v"))
    _, connection = run.join(selection, after=0)
    run.loop.turns(50)

    assert kinds(connection) == ["server.stream.gap", "server.stream.live"]


# --- what is announced


def test_an_announcement_is_on_all_global_streams_in_feed_order_without_an_id(start: Callable[..., Run]) -> None:
    run = start()
    _, sse = run.join()
    _, ndjson = run.join(NDJSON)
    _, picky = run.join(Selection(stream="global", types=frozenset(["nothing"])))
    _, instance = run.join(INSTANCE)
    run.begin(event(1))
    run.loop.turn()
    run.broker.announce("server.instance.disposed", {"directory": "/srv/a"}, directory="/srv/a")
    run.broker.announce("server.connected")
    run.publish(event(2))

    ours = ["server.instance.disposed", "server.connected"]
    assert kinds(sse) == kinds(ndjson) == ["session.idle", *ours, "session.idle"]
    assert kinds(picky) == ours
    assert kinds(instance) == ["session.idle", "session.idle"]
    for connection in (sse, ndjson):
        disposed, connected = lines(connection)[1:3]
        assert list(disposed) == ["directory", "payload"]
        assert (disposed["directory"], disposed["payload"]["properties"]) == ("/srv/a", {"directory": "/srv/a"})
        assert list(connected) == ["payload"]
        assert connected["payload"]["properties"] == {}
        assert connected["payload"]["id"].startswith("evt_")


def test_it_ends_no_stream_and_counts_as_no_event(start: Callable[..., Run]) -> None:
    run = start()
    on_global, _ = run.join()
    on_instance, _ = run.join(INSTANCE)
    run.broker.announce("server.instance.disposed", {"directory": "/srv/a"}, directory="/srv/a")
    run.loop.turns(20)

    assert (on_global.state, on_instance.state) == (State.LIVE, State.LIVE)
    assert (on_global.sent_events, on_global.position) == (0, 0)


def test_who_is_behind_does_not_get_it(start: Callable[..., Run]) -> None:
    log = FakeLog()
    run = start(log, recent_events=1)
    run.publish(event(1), event(2))
    log.read_gate.clear()
    _, connection = run.join(after=0)
    run.loop.turns(5)
    run.broker.announce("server.connected")
    log.read_gate.set()
    run.loop.turns(50)

    assert kinds(connection) == ["session.idle", "session.idle", "server.stream.live"]


def test_nobody_is_there_to_hear_it(start: Callable[..., Run]) -> None:
    run = start()
    run.broker.announce("server.connected")
    run.broker.announce_resync()
    _, connection = run.join()
    run.loop.turns(20)

    assert connection.received == b""


def test_directories_are_those_of_instances_that_somebody_listens_to(start: Callable[..., Run]) -> None:
    run = start()
    assert run.broker.directories() == set()
    run.join()
    run.join(OF_GLOBAL)
    handle, _ = run.join(INSTANCE)
    run.join(Selection(stream="instance", directory="/srv/b", form="ndjson"), after=0)
    assert run.broker.directories() == {"/srv/a", "/srv/b"}

    handle.reset()
    run.loop.turns(5)
    assert run.broker.directories() == {"/srv/b"}


# --- behind a gap


def test_behind_a_gap_clients_are_told_to_resync_and_streams_go_on(start: Callable[..., Run]) -> None:
    run = start()
    run.broker.resync = lambda: RESYNC
    _, sse = run.join()
    _, ndjson = run.join(NDJSON)
    handle, instance = run.join(INSTANCE)
    run.publish(event(1), gap(), event(2))

    for connection in (sse, ndjson):
        assert kinds(connection) == ["session.idle", *TOLD, "session.idle"]
        assert len({line["payload"]["id"] for line in lines(connection)}) == 5
    assert kinds(instance) == ["session.idle", "server.stream.gap", "session.idle"]
    assert handle.state is State.LIVE


def test_by_itself_there_is_nothing_to_tell(start: Callable[..., Run]) -> None:
    run = start()
    _, connection = run.join()
    run.publish(gap())

    assert kinds(connection) == ["server.stream.gap"]


@pytest.mark.parametrize("recent", [1, 1000], ids=["from the log", "from memory"])
@pytest.mark.parametrize("selection", [GLOBAL, NDJSON, *PICKY[:4]], ids=["all", "NDJSON", *NAMES[:4]])
def test_who_comes_to_it_later_is_told_behind_its_page(
    start: Callable[..., Run], selection: Selection, recent: int
) -> None:
    run = start(recent_events=recent, replay_events=3)
    run.broker.resync = lambda: RESYNC
    run.publish(event(1), gap(1), gap(2), *[event(number) for number in range(3, 9)])
    handle, connection = run.join(selection, after=0)
    run.loop.turns(50)

    found = kinds(connection)
    assert [kind for kind in found if kind != "session.idle"] == [TOLD[0], *TOLD, "server.stream.live"]
    assert found.index("server.connected") <= 3
    assert handle.sent_events == found.count("session.idle") + 2
    assert handle.replayed == handle.sent_events


def test_an_instance_s_replay_has_the_gap_alone(start: Callable[..., Run]) -> None:
    run = start()
    run.broker.resync = lambda: RESYNC
    run.publish(event(1), gap())
    _, connection = run.join(INSTANCE, after=0)
    run.loop.turns(50)

    assert kinds(connection) == ["session.idle", "server.stream.gap", "server.stream.live"]


@pytest.mark.parametrize("room", range(1, 1200, 37))
def test_who_falls_behind_around_a_gap_has_never_the_one_without_the_other(
    start: Callable[..., Run], room: int
) -> None:
    """Wherever the connection stops to read, and gives its backlog back."""
    run = start(backlog_events=4, segment_events=2, flush_slice=1)
    run.broker.resync = lambda: RESYNC
    handle, connection = run.join(room=room)
    for number in range(4):
        run.publish(event(number), turns=3)
    run.publish(gap(), turns=3)
    for number in range(10, 20):
        run.publish(event(number), turns=3)
    assert handle.is_behind
    connection.make_room(None)
    run.loop.turns(200)

    found = kinds(connection)
    at = found.index("server.stream.gap")
    assert found.count("server.stream.gap") == 1
    assert [kind for kind in found[at:] if kind in TOLD] == TOLD
    assert found.count("session.idle") == 14
    assert handle.state is State.LIVE
    assert live(connection)
    assert types(connection) == found
