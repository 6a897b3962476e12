"""Which feeds an event finds, how it looks there, how large a segment gets, and how a feed begins and ends."""

import json

import pytest

from opencode_events.broker.feed import Feed
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.broker.subscriber import Subscriber
from opencode_events.errors import Busy
from opencode_events.events import Event
from tests.broker.fakes import EPOCH, GLOBAL, INSTANCE, FakeConnection
from tests.broker.stage import Stage
from tests.samples import Message, disposal, event, make, read_event_stream, twin

NDJSON = Selection(stream="global", form="ndjson")
OTHER_INSTANCE = Selection(stream="instance", directory="/srv/b")


def ids(connection: FakeConnection) -> list[str]:
    """Return the ids of what was received, in order."""
    found = [json.loads(message.data) for message in read_event_stream(connection.body)]
    return [value.get("payload", value)["id"] for value in found]


def feed_of(connection: FakeConnection) -> Feed:
    assert connection.handle is not None
    return connection.handle.feed


def bodies(connection: FakeConnection) -> list[int]:
    """Return how many events came in each write."""
    return [write.count(b"data: ") for write in connection.writes]


# --- finding


def test_an_event_finds_the_global_feeds_and_its_instance_s() -> None:
    stage = Stage()
    on_global, on_a, on_b = stage.join(), stage.join(INSTANCE), stage.join(OTHER_INSTANCE)
    stage.gather(event(1, directory="/srv/a"), event(2, directory="/srv/b"), event(3, directory="/srv/c"))
    stage.flush()

    assert (ids(on_global), ids(on_a), ids(on_b)) == (["evt_1", "evt_2", "evt_3"], ["evt_1"], ["evt_2"])


@pytest.mark.parametrize(
    ("found", "directory"),
    [
        (twin(directory="/srv/a"), "/srv/a"),
        (event(directory=None), "/srv/a"),
        (event(directory=""), "/srv/a"),
        (event(directory="global"), "global"),
        (disposal(directory="global"), "global"),
        (twin(kind="server.instance.disposed.1", directory="/srv/a"), "/srv/a"),
    ],
    ids=["a twin", "no directory", "an empty one", "the one called global", "its disposal", "a disposal's twin"],
)
def test_what_belongs_to_no_instance_is_on_the_global_stream_alone(found: Event, directory: str) -> None:
    stage = Stage()
    on_global, on_instance = stage.join(), stage.join(Selection(stream="instance", directory=directory))
    stage.gather(found)
    stage.flush()

    assert ids(on_global) == [found.id]
    assert on_instance.received == b""
    assert stage.feeds.find(Selection(stream="instance", directory=directory)) is feed_of(on_instance)


def test_a_frame_has_the_shape_of_its_stream_and_format_and_the_cursor_of_its_event() -> None:
    stage = Stage()
    stage.position = 41
    connections = [
        stage.join(Selection(stream=stream, form=form, directory=directory))  # type: ignore[arg-type]  # two names each
        for stream, directory in (("global", None), ("instance", "/srv/a"))
        for form in ("sse", "ndjson")
    ]
    payload = b'{"id":"evt_1","type":"a","properties":{}}'
    envelope = b'{"directory":"/srv/a","payload":%b}' % payload
    stage.gather(make(envelope))
    stage.flush()

    assert [connection.body for connection in connections] == [
        b"id: 0123456789-42\ndata: " + envelope + b"\n\n",
        envelope[:-1] + b',"cursor":"0123456789-42"}\n',
        b"id: 0123456789-42\ndata: " + payload + b"\n\n",
        payload[:-1] + b',"cursor":"0123456789-42"}\n',
    ]


def test_what_a_selection_leaves_out_never_reaches_its_feed() -> None:
    stage = Stage()
    wanted = Selection(stream="global", types=frozenset(["message.*"]))
    connection = stage.join(wanted)
    stage.gather(event(1), event(2, "message.updated"), event(3), twin(4, "message.updated.1"))

    assert stage.feeds.find(wanted).events == 2
    stage.flush()
    assert ids(connection) == ["evt_2", "evt_4"]


# --- segments


def test_a_segment_holds_no_more_events_than_segment_events() -> None:
    stage = Stage(segment_events=1000)
    connection = stage.join()
    stage.gather(*[event(number) for number in range(2500)])
    stage.flush()

    assert ids(connection) == [f"evt_{number}" for number in range(2500)]
    assert stage.flusher.flushes == 3


def test_a_segment_holds_no_more_events_than_a_backlog() -> None:
    """A backlog takes a segment whole or not at all."""
    stage = Stage(segment_events=1000, backlog_events=3)
    connection = stage.join()
    stage.gather(*[event(number) for number in range(7)])
    stage.flush()

    assert bodies(connection) == [3, 3, 1]


def test_a_segment_holds_no_more_bytes_than_segment_bytes_unless_one_event_is_larger() -> None:
    stage = Stage()
    sizes = len(b"id: 0123456789-1\ndata: \n\n") + len(event(1).envelope)
    stage = Stage(segment_bytes=2 * sizes)
    connection = stage.join()
    stage.gather(event(1), event(2), event(3), event(4, pad=1000), event(5), event(6), event(7, pad=1))
    stage.flush()

    assert bodies(connection) == [2, 1, 1, 2, 1]


def test_a_segment_made_early_tells_the_position_before_the_event_that_did_not_fit() -> None:
    stage = Stage(segment_events=2)
    connection = stage.join(Selection(stream="global", types=frozenset(["a"])))
    assert connection.handle is not None
    stage.gather(event(1, "a"), event(2, "a"), event(3, "b"), event(4, "b"), event(5, "a"), event(6, "b"))
    stage.loop.run_ready()

    assert connection.handle.position == 4
    stage.flush()
    assert connection.handle.position == 6
    assert connection.handle.sent_events == 3


# --- heartbeats


def test_a_heartbeat_comes_to_every_feed_behind_what_waits_and_is_no_event() -> None:
    stage = Stage()
    quiet = Selection(stream="global", types=frozenset(["nothing"]))
    connections = [stage.join(GLOBAL), stage.join(quiet), stage.join(INSTANCE)]
    stage.gather(event(1))
    stage.feeds.heartbeat(f"{EPOCH}-1")
    stage.flush()

    found = [read_event_stream(connection.body)[-1] for connection in connections]
    assert [message.last_event_id for message in found] == [f"{EPOCH}-1"] * 3
    assert [json.loads(message.data).get("payload", json.loads(message.data))["type"] for message in found] == (
        ["server.heartbeat"] * 3
    )
    assert [len(read_event_stream(connection.body)) for connection in connections] == [2, 1, 2]
    assert [connection.handle and connection.handle.sent_events for connection in connections] == [1, 0, 1]


def test_a_heartbeat_of_ndjson_has_its_cursor_too() -> None:
    stage = Stage()
    connection = stage.join(NDJSON)
    stage.feeds.heartbeat(f"{EPOCH}-7")
    stage.flush()

    assert connection.body.endswith(b',"cursor":"0123456789-7"}\n')


# --- the end of an instance


def test_a_disposal_is_the_last_event_of_its_instance_s_streams_and_of_no_other() -> None:
    stage = Stage()
    filtered = Selection(stream="instance", directory="/srv/a", types=frozenset(["nothing"]))
    ended = [stage.join(INSTANCE, end="abort"), stage.join(filtered)]
    others = [stage.join(), stage.join(OTHER_INSTANCE)]
    stage.gather(event(1), disposal(2), event(3), event(4, directory="/srv/b"))
    stage.flush()

    assert [ids(connection) for connection in ended] == [["evt_1", "evt_2"], ["evt_2"]]
    assert [(connection.ended, connection.is_complete) for connection in ended] == [("closed", True)] * 2
    assert [connection.handle and connection.handle.reason for connection in ended] == [Reason.DISPOSED] * 2
    assert [ids(connection) for connection in others] == [["evt_1", "evt_2", "evt_3", "evt_4"], ["evt_4"]]
    assert [connection.ended for connection in others] == [None, None]


def test_who_comes_between_a_disposal_and_its_flush_has_a_new_feed() -> None:
    stage = Stage()
    before = stage.join(INSTANCE)
    stage.gather(disposal(1))
    behind = stage.join(INSTANCE)
    stage.gather(event(2))
    stage.flush()

    assert (ids(before), before.ended) == (["evt_1"], "closed")
    assert (ids(behind), behind.ended) == (["evt_2"], None)


def test_who_came_among_frames_that_wait_is_ended_too() -> None:
    stage = Stage()
    stage.join(INSTANCE)
    stage.gather(event(1))
    late = stage.join(INSTANCE)
    stage.gather(disposal(2))
    stage.flush()

    assert (ids(late), late.ended, late.is_complete) == (["evt_2"], "closed", True)


def test_a_retired_feed_s_last_member_does_not_take_the_new_feed_along() -> None:
    stage = Stage()
    before = stage.join(INSTANCE)
    stage.gather(disposal(1))
    behind = stage.join(INSTANCE)
    assert before.handle is not None
    stage.feeds.leave(before.handle)
    stage.feeds.leave(before.handle)
    stage.gather(event(2))
    stage.flush()

    assert ids(behind) == ["evt_2"]
    assert len(stage.feeds) == 1


# --- who is behind


def part(stage: Stage, connection: FakeConnection) -> Subscriber:
    assert connection.handle is not None
    stage.feeds.part(connection.handle)
    return connection.handle


@pytest.mark.parametrize("selection", [GLOBAL, INSTANCE], ids=["global", "instance"])
def test_who_parted_gets_nothing_and_keeps_its_feed_to_come_back_to(selection: Selection) -> None:
    stage = Stage()
    connection = stage.join(selection)
    feed = feed_of(connection)
    handle = part(stage, connection)
    stage.gather(event(1))
    stage.feeds.heartbeat(f"{EPOCH}-1")
    stage.flush()
    assert (connection.received, feed.events, len(stage.feeds)) == (b"", 0, 1)
    assert stage.feeds.find(selection) is feed

    stage.feeds.join(handle)
    stage.gather(event(2))
    stage.flush()
    assert ids(connection) == ["evt_2"]


def test_who_parted_among_frames_that_wait_gets_none_of_them_when_it_is_back_at_once() -> None:
    stage = Stage()
    connection, stays = stage.join(), stage.join()
    stage.gather(event(1))
    handle = part(stage, connection)
    stage.gather(event(2))
    stage.feeds.join(handle)
    stage.gather(event(3))
    stage.flush()

    assert (ids(connection), ids(stays)) == (["evt_3"], ["evt_1", "evt_2", "evt_3"])


def test_parting_twice_is_fine_and_leaving_ends_the_feed() -> None:
    stage = Stage()
    connection = stage.join(INSTANCE)
    part(stage, connection)
    handle = part(stage, connection)
    stage.feeds.leave(handle)
    stage.gather(event(1))

    assert len(stage.feeds) == 0


def test_a_disposal_gives_those_who_are_behind_the_feed_of_what_follows() -> None:
    stage = Stage()
    connection, ended = stage.join(INSTANCE), stage.join(INSTANCE)
    before = feed_of(connection)
    handle = part(stage, connection)
    stage.gather(disposal(1))
    came = stage.join(INSTANCE)
    assert (feed_of(connection) is before, feed_of(connection) is feed_of(came)) == (False, True)

    stage.feeds.join(handle)
    stage.gather(event(2))
    stage.flush()
    assert (ids(connection), ids(came), ids(ended)) == (["evt_2"], ["evt_2"], ["evt_1"])
    assert len(stage.feeds) == 1


def test_a_disposal_is_nothing_to_those_who_are_all_behind() -> None:
    stage = Stage()
    connection = stage.join(INSTANCE)
    feed = feed_of(connection)
    handle = part(stage, connection)
    stage.gather(disposal(1))
    stage.feeds.join(handle)
    stage.gather(event(2))
    stage.flush()

    assert (feed_of(connection) is feed, ids(connection), connection.ended) == (True, ["evt_2"], None)


@pytest.mark.parametrize("has_come", [True, False])
def test_who_parts_between_a_disposal_and_its_flush_has_the_feed_of_what_follows(has_come: bool) -> None:
    stage = Stage()
    connection = stage.join(INSTANCE)
    stage.gather(disposal(1))
    came = stage.join(INSTANCE) if has_come else None
    handle = part(stage, connection)
    assert len(stage.feeds) == 1
    assert came is None or feed_of(connection) is feed_of(came)

    stage.feeds.leave(handle)
    assert len(stage.feeds) == has_come


# --- how many there are


def test_who_wants_the_same_shares_a_feed_which_ends_with_the_last_one() -> None:
    stage = Stage()
    one, other, third = stage.join(INSTANCE), stage.join(INSTANCE), stage.join(NDJSON)
    feed = stage.feeds.find(INSTANCE)
    assert len(stage.feeds) == 2

    for connection, left in ((one, 2), (one, 2), (other, 1), (other, 1), (third, 0)):
        assert connection.handle is not None
        stage.feeds.leave(connection.handle)
        assert len(stage.feeds) == left
    assert stage.feeds.find(INSTANCE) is not feed


def test_max_selections_is_how_many_there_may_be() -> None:
    stage = Stage(max_selections=2)
    stage.join(GLOBAL)
    last = stage.join(NDJSON)

    with pytest.raises(Busy, match=r"max_selections \(2\)") as refused:
        stage.join(INSTANCE)
    assert refused.value.limit == 2
    assert refused.value.retry_after_s > 0
    stage.join(GLOBAL)
    assert last.handle is not None
    stage.feeds.leave(last.handle)
    stage.join(INSTANCE)
    assert len(stage.feeds) == 2


def test_frames_of_a_feed_that_nobody_is_left_of_go_nowhere() -> None:
    stage = Stage()
    connection = stage.join()
    stage.gather(event(1))
    assert connection.handle is not None
    stage.feeds.leave(connection.handle)
    stage.flush()

    assert connection.received == b""
    assert stage.owner.budget.held == 0


def test_a_recording_of_two_streams_is_told_apart() -> None:
    """Frames of both formats side by side: each reader sees its own, whole."""
    stage = Stage(segment_events=3)
    sse, ndjson = stage.join(), stage.join(NDJSON)
    found = [event(number) for number in range(1, 11)]
    stage.gather(*found)
    stage.flush()

    assert read_event_stream(sse.body) == [
        Message("message", each.envelope.decode(), f"{EPOCH}-{number}") for number, each in enumerate(found, 1)
    ]
    assert [json.loads(line)["cursor"] for line in ndjson.body.splitlines()] == [f"{EPOCH}-{n}" for n in range(1, 11)]
