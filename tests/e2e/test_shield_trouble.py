"""A real daemon before an opencode server that breaks: what its clients see of that, and what they miss: nothing."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.clients import Frame, Stream, until
from tests.e2e.ledger import read_log
from tests.relay.fake_upstream import EVENTS, HISTORY, FakeUpstream, ThreadedUpstream
from tests.relay.stage import audit, gaps
from tests.servers import Daemon, free_port

QUICK = {"upstream_retry_min_s": 0.05, "upstream_retry_max_s": 0.1}


@pytest.fixture
def upstream() -> Iterator[ThreadedUpstream]:
    with ThreadedUpstream() as started:
        yield started


@pytest.fixture
def shield(start_daemon: Callable[..., Daemon], upstream: ThreadedUpstream) -> Callable[..., Daemon]:
    """Start a daemon before `upstream`, at the same port each time."""
    port = free_port()

    def start(**changes: Any) -> Daemon:
        return start_daemon(**({"port": port, "upstream": upstream.fake.url} | QUICK | changes))

    return start


def is_ready(daemon: Daemon) -> bool:
    return daemon.client.get("/-/ready").status == 200


def read(stream: Stream, upstream: ThreadedUpstream) -> list[Frame]:
    """Say one thing more at upstream, and return all that comes up to it."""
    last = upstream.do(lambda: upstream.fake.transient("tui.toast.show"))
    found = [stream.frame()]
    while found[-1].event != last:
        found.append(stream.frame())
    return found


def restart(upstream: ThreadedUpstream, meanwhile: Callable[[FakeUpstream], None]) -> None:
    upstream.wait(upstream.fake.stop)
    upstream.do(lambda: meanwhile(upstream.fake))
    upstream.wait(upstream.fake.start)


def test_who_stays_while_upstream_is_restarted_has_each_durable_event_once(
    shield: Callable[..., Daemon], upstream: ThreadedUpstream
) -> None:
    fake = upstream.fake
    upstream.do(lambda: fake.many(10))
    daemon = shield()
    until(lambda: is_ready(daemon))
    everything, instance = daemon.client.subscribe("/global/event"), daemon.client.subscribe("/event?directory=/srv/a")
    upstream.do(lambda: fake.many(5))

    upstream.wait(fake.stop)
    answer = until(lambda: found if (found := daemon.client.get("/-/ready")).status == 503 else None)
    assert answer.json["reasons"][0].startswith("upstream is away: ")
    assert daemon.client.get("/session/ses_1").status == 502
    upstream.do(lambda: fake.open("ses_new", "/srv/a"))
    upstream.do(lambda: fake.many(5, "ses_new"))
    upstream.wait(fake.start)
    until(lambda: is_ready(daemon))
    upstream.do(lambda: fake.many(5))

    found = read(everything, upstream)
    audit([frame.json for frame in found], fake.memory, 10)
    at = [frame.type for frame in found].index("server.stream.gap")
    assert [frame.type for frame in found[at + 1 : at + 3]] == ["server.connected", "server.instance.disposed"]
    own = [frame.event for frame in read(instance, upstream) if not frame.is_control]
    assert own[:-2] == [row["id"] for row in fake.memory.rows[10:]]
    lines = [line["event"] for line in daemon.lines() if line["event"].startswith("relay.")]
    assert lines == ["relay.live", "relay.lost", "relay.gap_logged", "relay.live"]
    assert fake.most_listeners == 1
    assert daemon.client.get("/session/ses_1").json["directory"] == "/srv/a"


def test_who_resumes_after_the_shield_was_killed_has_each_durable_event_once(
    shield: Callable[..., Daemon], upstream: ThreadedUpstream
) -> None:
    fake = upstream.fake
    upstream.do(lambda: fake.many(10))
    daemon = shield()
    until(lambda: is_ready(daemon))
    stream = daemon.client.subscribe("/global/event")
    upstream.do(lambda: fake.many(5))
    before = read(stream, upstream)
    daemon.kill()
    restart(upstream, lambda fake: fake.many(5))
    upstream.do(lambda: fake.open("ses_new", "/srv/b", "prj_b"))

    daemon = shield()
    stream = daemon.client.subscribe("/global/event", f"Last-Event-ID: {before[-1].id}")
    until(lambda: is_ready(daemon))
    upstream.do(lambda: fake.many(5, "ses_new"))
    behind = read(stream, upstream)

    audit([frame.json for frame in before + behind], fake.memory, 10)
    assert len(gaps(frame.json for frame in behind)) == 1
    daemon.kill()
    rows = read_log(daemon.log_path)
    assert len(rows) == 2 * (len(fake.memory.rows) - 10) + 3


@pytest.mark.parametrize("when", ["away", "hanging", "catching up", "live"])
def test_a_shield_that_is_asked_to_end_does_so_at_once_and_loses_nothing(
    shield: Callable[..., Daemon], upstream: ThreadedUpstream, when: str
) -> None:
    fake = upstream.fake
    daemon = shield()
    until(lambda: is_ready(daemon))
    upstream.do(lambda: fake.many(5))
    until(lambda: daemon.client.status()["upstream"]["relayed_events"] == 10)
    if when == "away":
        upstream.wait(fake.stop)
    elif when == "hanging":
        upstream.do(lambda: fake.moods.update({EVENTS: "hang"}))
    elif when == "catching up":
        upstream.do(lambda: fake.moods.update({HISTORY: "stalls"}))
    if when != "live":
        upstream.do(fake.lose)
        until(lambda: not is_ready(daemon))
    if when == "catching up":
        until(lambda: upstream.do(lambda: fake.count(HISTORY)) == 2)
    upstream.do(lambda: fake.many(5))
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)

    assert daemon.wait() == 0
    assert time.monotonic() - began < 5
    assert daemon.errors().count("Traceback") == 0
    restart(upstream, lambda fake: fake.moods.clear())
    daemon = shield()
    stream = daemon.client.subscribe("/global/event?after=earliest")
    until(lambda: is_ready(daemon))
    audit([frame.json for frame in read(stream, upstream)], fake.memory)


def test_a_shield_whose_upstream_wants_a_password_serves_no_stream_until_it_has_it(
    shield: Callable[..., Daemon], upstream: ThreadedUpstream, tmp_path: Any
) -> None:
    fake = upstream.fake
    fake.password = "secret"
    daemon = shield()
    until(lambda: "OPENCODE_SERVER_PASSWORD" in daemon.client.get("/-/ready").json["reasons"][0])
    assert daemon.client.get("/global/event").status == 503
    assert daemon.stop() == 0
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o600)

    daemon = shield(upstream_password_file=file)
    shown = "Basic b3BlbmNvZGU6c2VjcmV0"
    assert daemon.client.get("/-/ready").status == 401
    until(lambda: daemon.client.send("GET", "/-/ready", Authorization=shown).status == 200)
    assert daemon.client.get("/session/ses_1").status == 401
    stream = daemon.client.subscribe("/global/event", f"Authorization: {shown}")
    upstream.do(lambda: fake.many(3))
    audit([frame.json for frame in read(stream, upstream)], fake.memory)


def test_a_password_file_that_is_open_to_others_is_named_and_nothing_starts(
    shield: Callable[..., Daemon], tmp_path: Any
) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    file.chmod(0o644)
    daemon = shield(upstream_password_file=file, is_awaited=False)

    assert daemon.wait() == 2
    assert "upstream_password_file" in daemon.errors()
    assert "Traceback" not in daemon.errors()
