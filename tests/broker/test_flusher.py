"""When bytes leave, and to how many at a time; the loop and its time are turned by hand."""

import asyncio

import pytest
from structlog.testing import capture_logs

from opencode_events.broker.flusher import BEHIND_BYTES
from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.selection import Selection
from tests.broker.fakes import GLOBAL, INSTANCE, FakeConnection
from tests.broker.stage import Stage

NDJSON = Selection(stream="global", form="ndjson")


def state(connection: FakeConnection) -> State:
    assert connection.handle is not None
    return connection.handle.state


# --- the window


def test_on_a_quiet_stream_a_frame_leaves_in_the_turn_it_came_in() -> None:
    stage = Stage()
    connection = stage.join()

    stage.append(GLOBAL, b"a", b"b")
    assert connection.writes == []
    stage.loop.turn()
    assert connection.body == b"ab"
    assert len(connection.writes) == 1
    assert stage.loop.pending == []


def test_all_of_one_turn_leaves_in_one_write_for_each_feed() -> None:
    stage = Stage()
    one, other = stage.join(), stage.join(NDJSON)

    stage.append(GLOBAL, b"a")
    stage.append(NDJSON, b"x")
    stage.append(GLOBAL, b"b")
    stage.loop.turn()
    assert (one.body, other.body) == (b"ab", b"x")
    assert (len(one.writes), len(other.writes)) == (1, 1)


@pytest.mark.parametrize(
    ("took_s", "wait_s"),
    [(0.0, 0.002), (0.001, 0.002), (0.010, 0.010), (0.050, 0.050), (0.200, 0.050)],
    ids=["at least 2 ms", "short", "as long as it took", "at the most", "at most 50 ms"],
)
def test_the_next_flush_waits_as_long_as_the_last_one_took(took_s: float, wait_s: float) -> None:
    stage = Stage()
    connection = stage.join()
    stage.loop.cost_s = took_s
    stage.append(GLOBAL, b"a")
    stage.loop.run_ready()
    over = stage.loop.now
    assert stage.flusher.last_flush_s == pytest.approx(took_s)

    stage.append(GLOBAL, b"b")
    assert stage.loop.is_idle
    assert stage.loop.pending == [pytest.approx(over + wait_s)]
    stage.append(GLOBAL, b"c")
    stage.loop.advance(wait_s * 0.99)
    assert connection.body == b"a"
    stage.loop.advance(wait_s * 0.02)
    assert connection.body == b"abc"
    assert len(connection.writes) == 2


def test_what_comes_during_a_flush_waits_for_the_next_one() -> None:
    stage = Stage(flush_slice=1)
    one, other = stage.join(), stage.join()
    stage.append(GLOBAL, b"a")
    stage.loop.turn()
    stage.append(GLOBAL, b"b")
    stage.loop.run_ready()

    assert (one.body, other.body) == (b"a", b"a")
    stage.loop.advance(0.002)
    stage.loop.run_ready()
    assert (one.body, other.body) == (b"ab", b"ab")


def test_after_the_window_a_frame_leaves_at_once_again() -> None:
    stage = Stage()
    connection = stage.join()
    stage.append(GLOBAL, b"a")
    stage.loop.run_ready()
    stage.loop.advance(0.002)

    stage.append(GLOBAL, b"b")
    assert not stage.loop.is_idle
    stage.loop.turn()
    assert connection.body == b"ab"


def test_a_segment_tells_the_last_position_looked_at_when_it_is_made() -> None:
    stage = Stage()
    connection = stage.join()
    stage.append(GLOBAL, b"a")
    stage.position = 7
    stage.loop.turn()

    assert connection.handle is not None
    assert connection.handle.position == 7


# --- slices


def test_a_flush_is_cut_into_slices_with_a_turn_in_between() -> None:
    stage = Stage(flush_slice=250)
    connections = [stage.join() for _ in range(600)]
    stage.append(GLOBAL, b"a")
    written = []
    for _ in range(4):
        stage.loop.turn()
        written.append(sum(bool(connection.writes) for connection in connections))

    assert written == [250, 500, 600, 600]
    assert stage.flusher.flushes == 1
    assert all(connection.body == b"a" for connection in connections)


def test_a_slice_is_shared_by_feeds() -> None:
    stage = Stage(flush_slice=3)
    connections = [stage.join(selection) for selection in (GLOBAL, GLOBAL, NDJSON, NDJSON)]
    stage.append(GLOBAL, b"a")
    stage.append(NDJSON, b"x")

    stage.loop.turn()
    assert [connection.body for connection in connections] == [b"a", b"a", b"x", b""]
    stage.loop.turn()
    assert connections[3].body == b"x"


def test_large_segments_make_slices_of_fewer() -> None:
    """64 KiB are copied: they count three times."""
    stage = Stage(flush_slice=6)
    connections = [stage.join() for _ in range(5)]
    stage.append(GLOBAL, b"x" * 65_536)
    written = []
    for _ in range(3):
        stage.loop.turn()
        written.append(sum(bool(connection.writes) for connection in connections))

    assert written == [2, 4, 5]


def test_a_segment_larger_than_a_slice_goes_to_one_at_a_time() -> None:
    stage = Stage(flush_slice=2)
    connections = [stage.join() for _ in range(2)]
    stage.append(GLOBAL, b"x" * 300_000)

    stage.loop.turn()
    assert [len(connection.body) for connection in connections] == [300_000, 0]
    stage.loop.turn()
    assert [len(connection.body) for connection in connections] == [300_000, 300_000]


def test_two_segments_of_one_feed_never_leave_in_one_flush() -> None:
    stage = Stage()
    one, other = stage.join(), stage.join(NDJSON)
    feed = stage.feeds.find(GLOBAL)
    for position, frame in enumerate((b"a", b"b"), 1):
        feed.append(frame)
        stage.flusher.seal(feed, position)
    stage.append(GLOBAL, b"c")
    stage.append(NDJSON, b"x")

    for body in (b"a", b"ab", b"abc"):
        stage.loop.run_ready()
        assert (one.body, other.body) == (body, b"x")
        stage.loop.advance(0.002)
    assert stage.loop.is_idle
    assert stage.flusher.flushes == 3


def test_who_left_since_the_seal_gets_nothing_and_who_came_does_not_either() -> None:
    stage = Stage(flush_slice=1)
    first, gone = stage.join(), stage.join()
    stage.append(GLOBAL, b"a")
    stage.loop.turn()
    assert gone.handle is not None
    gone.handle.lost(Reason.CLIENT_CLOSED)
    came = stage.join()
    stage.loop.run_ready()

    assert (first.body, gone.body, came.body) == (b"a", b"", b"")


def test_it_counts_for_a_feed_what_everybody_has_that_shall_get_it() -> None:
    """Who fell behind may be live again when all is out that was sealed with it."""
    stage = Stage(flush_slice=2)
    for _ in range(3):
        stage.join()
    feed = stage.feeds.find(GLOBAL)
    for position in (1, 2):
        feed.append(b"a")
        stage.flusher.seal(feed, position)
    stage.flusher.want(feed)
    counts = [(feed.sealed, feed.written)]
    for _ in range(2):
        stage.loop.turn()
        counts.append((feed.sealed, feed.written))
    stage.flush()

    assert counts == [(2, 0), (2, 0), (2, 1)]
    assert feed.written == 2


# --- failures


@pytest.mark.parametrize("room", [None, 1], ids=["written to directly", "while it drains"])
def test_one_that_fails_ends_and_its_neighbours_do_not_notice(room: int | None) -> None:
    stage = Stage()
    before, bad, behind = stage.join(), stage.join(connection=FakeConnection(room)), stage.join()
    assert bad.handle is not None
    bad.fails = RuntimeError("broken")
    if room is not None:
        bad.handle.direct = None
    with capture_logs() as lines:
        stage.append(GLOBAL, b"a")
        stage.flush()
        stage.append(GLOBAL, b"b")
        stage.flush()

    assert (before.body, bad.body, behind.body) == (b"ab", b"", b"ab")
    assert (bad.ended, state(bad)) == ("reset", State.CLOSING)
    (line,) = lines
    assert (line["event"], line["log_level"], line["error"]) == ("subscriber.failed", "error", "RuntimeError('broken')")


# --- the end of an instance


def test_the_last_segment_ends_its_stream_after_it() -> None:
    stage = Stage()
    reads, stalls = stage.join(INSTANCE, end="abort"), stage.join(INSTANCE, FakeConnection(room=1))
    feed = stage.feeds.find(INSTANCE)
    feed.append(b"a")
    stage.flusher.seal(feed, 1)
    feed.append(b"b")
    stage.flusher.seal(feed, 2, ends=True)
    stage.flusher.want(feed)
    stage.loop.run_ready()
    assert (reads.body, state(reads)) == (b"a", State.LIVE)
    stage.flush()

    assert (reads.body, reads.ended, reads.is_complete) == (b"ab", "closed", True)
    assert (stalls.body, stalls.ended, state(stalls)) == (b"a", None, State.CLOSING)
    stalls.make_room(None)
    assert (stalls.body, stalls.ended, stalls.is_complete) == (b"ab", "closed", True)


# --- publishers that are too fast


async def test_publishers_wait_while_more_is_sealed_than_the_loop_has_got_to() -> None:
    stage = Stage()
    stage.join()
    feed = stage.feeds.find(GLOBAL)
    frame = b"x" * (256 * 1024)
    sizes = 0
    while sizes + len(frame) <= BEHIND_BYTES:
        feed.append(frame)
        stage.flusher.seal(feed, 1)
        sizes += len(frame)
    assert not stage.flusher.is_behind
    await stage.flusher.caught_up()  # returns at once

    feed.append(frame)
    stage.flusher.seal(feed, 2)
    stage.flusher.want(feed)
    assert stage.flusher.is_behind
    waiting = [asyncio.create_task(stage.flusher.caught_up()) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert not waiting[1].done()

    stage.loop.run_ready()
    await waiting[1]
    assert not stage.flusher.is_behind
    assert waiting[0].cancelled()


async def test_whoever_is_stalled_keeps_no_publisher_waiting() -> None:
    stage = Stage()
    stalled = stage.join(connection=FakeConnection(room=1))
    for _ in range(20):
        stage.append(GLOBAL, b"x" * (256 * 1024))
        stage.flush()

    assert stalled.handle is not None
    assert stalled.handle.queued_bytes > 4 * BEHIND_BYTES
    assert not stage.flusher.is_behind


async def test_flushed_waits_until_everything_that_was_gathered_is_out() -> None:
    stage = Stage()
    connection = stage.join()
    await stage.flusher.flushed()  # returns at once
    feed = stage.feeds.find(GLOBAL)
    feed.append(b"a")
    stage.flusher.seal(feed, 1)
    stage.append(GLOBAL, b"b")

    waiting = asyncio.create_task(stage.flusher.flushed())
    await asyncio.sleep(0)
    stage.loop.run_ready()
    await asyncio.sleep(0)
    assert not waiting.done()
    stage.flush()
    await waiting
    assert connection.body == b"ab"
