"""Upstream dies in the middle of an answer and comes back. Who is subscribed to the shield stays, and misses nothing of
what upstream still knows."""

import signal
from collections.abc import Callable

from tests.clients import until
from tests.real.audit import assert_whole
from tests.real.opencode import Opencode
from tests.real.sdk import Sdk
from tests.servers import Daemon

DISPOSED = "server.instance.disposed"


def test_a_subscriber_that_stays_misses_nothing_when_upstream_is_killed(
    new_opencode: Callable[..., Opencode], new_shield: Callable[..., Daemon], new_sdk: Callable[..., Sdk]
) -> None:
    """The shield is held still until upstream is back and has worked on: so there is something to fetch for sure."""
    upstream = new_opencode()
    shield = new_shield(upstream, upstream_retry_max_s=1)
    everything = shield.client.subscribe()
    own = shield.client.subscribe(f"/event?directory={upstream.project}")
    worker = new_sdk(upstream.url, upstream.project)
    watcher = worker.listen("global.event")
    session = worker.create("killed")
    worker.begin(session, "write first.txt", "crawl")
    watcher.until("message.part.delta", 3, sessionID=session)

    upstream.kill()
    until(lambda: shield.client.get("/-/ready").status == 503)
    shield.signal(signal.SIGSTOP)
    upstream.start()
    unseen = worker.create("born while nobody looked")
    worker.prompt(unseen, "write second.txt", "say 5")
    worker.prompt(session, "say 5")
    shield.signal(signal.SIGCONT)
    until(lambda: shield.client.get("/-/ready").status == 200)
    worker.prompt(session, "say 5")
    last = worker.create("the last one")

    frames = everything.until("server.stream.gap")
    gap = frames[-1]
    resync = [everything.frame(), everything.frame()]
    frames += resync
    while last not in frames[-1].data.decode():
        frames.append(everything.frame())
    frames.append(everything.frame())
    for each in (session, unseen):
        assert_whole([frame.payload for frame in frames], upstream, each)
    assert gap.id is not None
    assert gap.properties["refilled"] >= 2
    assert [frame.type for frame in resync] == ["server.connected", DISPOSED]
    assert [frame.id for frame in resync] == [None, None]
    assert resync[1].json["directory"] == resync[1].properties["directory"] == str(upstream.project)
    ids = [frame.id for frame in frames if frame.id is not None and frame.type != "server.heartbeat"]
    assert len(set(ids)) == len(ids)

    mine = own.until("server.stream.gap")
    while last not in mine[-1].data.decode():
        mine.append(own.frame())
    assert DISPOSED not in {frame.type for frame in mine}
    assert [frame.event for frame in mine if not frame.is_control] == [
        frame.event
        for frame in frames
        if not frame.is_control and frame.type not in ("sync", DISPOSED) and frame.json["directory"] != "global"
    ]
    assert len(shield.client.subscribers()) == 2
