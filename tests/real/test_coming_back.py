"""opencode's SDK comes back by itself after a cut, and misses nothing."""

import signal
from collections.abc import Callable, Sequence

from tests.clients import until
from tests.real.audit import Payload, assert_whole, events
from tests.real.opencode import Opencode
from tests.real.sdk import Listening, Sdk
from tests.servers import Daemon

DISPOSED = "server.instance.disposed"


def cut(shield: Daemon) -> None:
    """Evict everybody, as an operator does."""
    for each in shield.client.subscribers():
        answer = shield.client.send("DELETE", f"/-/subscribers/{each['id']}")
        assert answer.status == 200


def test_a_stream_that_was_cut_goes_on_where_it_was(
    new_sdk: Callable[..., Sdk], shield: Daemon, opencode: Opencode
) -> None:
    """The work goes on while nobody listens, and is replayed. `end=abort` is what a shield does unasked."""
    watcher, worker = new_sdk(shield.url), new_sdk(opencode.url)
    streams = [watcher.listen("global.event"), watcher.listen("event.subscribe")]
    session = worker.create("goes on")
    worker.prompt(session, "say 10")
    for stream in streams:
        stream.until("session.idle", sessionID=session)

    cut(shield)
    worker.prompt(session, "write unseen.txt", "say 20")
    assert_seen_to_the_end(shield, streams, worker)

    for stream in streams:
        closing = stream.of("server.stream.closing")
        assert [each["properties"]["reason"] for each in closing] == ["operator"]
        assert len(stream.troubles) == 1
        assert [each["properties"]["resumed"] for each in stream.of("server.connected")] == [False, True]
    assert_whole(streams[0].payloads, opencode, session)


def assert_seen_to_the_end(shield: Daemon, streams: list[Listening], worker: Sdk) -> None:
    """Each stream has all that the log has since it began, once and in order, up to a session that is made now.

    But for disposals of instances: after a gap the shield tells of some that are not logged, and programs look again.
    """
    last = worker.create("the last one")
    everything, own = streams
    own.until("session.created", sessionID=last)
    until(lambda: last in [each["syncEvent"]["aggregateID"] for each in everything.of("sync")])
    for stream, target in ((everything, "/global/event?"), (own, f"/event?directory={worker.directory}&")):
        replayed = shield.client.subscribe(f"{target}after={stream.cursors[0]}").until("server.stream.live")
        wanted = [frame.payload for frame in replayed if not frame.is_control and frame.type != DISPOSED]
        seen = [each for each in events(stream.payloads) if each["type"] != DISPOSED]
        assert up_to(last, seen) == up_to(last, wanted)
        assert not stream.has_ended


def up_to(session: str, payloads: Sequence[Payload]) -> Sequence[Payload]:
    """Return what came before a session was made, and that: upstream still sums up the answers before it."""
    made = [each["type"] == "session.created" and each["properties"]["sessionID"] == session for each in payloads]
    return payloads[: made.index(True) + 1]


def test_a_shield_that_is_started_again_goes_on_for_everybody(
    new_sdk: Callable[..., Sdk], new_shield: Callable[..., Daemon], opencode: Opencode
) -> None:
    """What happened meanwhile is fetched: all that is durable. A gap is told, for the rest has gone."""
    shield = new_shield(opencode)
    watcher, worker = new_sdk(shield.url), new_sdk(opencode.url)
    streams = [watcher.listen("global.event"), watcher.listen("event.subscribe")]
    session = worker.create("before the restart")
    worker.prompt(session, "say 10")
    for stream in streams:
        stream.until("session.idle", sessionID=session)

    shield.signal(signal.SIGTERM)
    assert shield.wait() == 0
    worker.prompt(session, "write unseen.txt", "say 20")
    unseen = worker.create("born while nobody looked")
    shield = new_shield(opencode)
    for stream in streams:
        stream.until("server.stream.gap")
    worker.prompt(session, "say 5")

    assert_seen_to_the_end(shield, streams, worker)
    for stream in streams:
        assert [each["properties"]["reason"] for each in stream.of("server.stream.closing")] == ["shutdown"]
        assert stream.of("session.created", sessionID=unseen)
        assert len(stream.of("server.stream.gap")) == 1
    for each in (session, unseen):
        assert_whole(streams[0].payloads, opencode, each)
