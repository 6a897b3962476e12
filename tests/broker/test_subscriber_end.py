"""How a handle ends: what is still sent, what is told, how the connection is ended, and that it happens once."""

import json
import re
from typing import Any

import pytest

from opencode_events.broker.connection import End
from opencode_events.broker.lifecycle import TOLD, Reason, State
from opencode_events.broker.outbox import WRITE_BYTES
from opencode_events.broker.subscriber import Subscriber
from tests.broker.fakes import EPOCH, INSTANCE, FakeConnection, FakeOwner, segment


def closing_frames(body: bytes) -> list[dict[str, Any]]:
    """Return the properties of the closing frames."""
    found = [json.loads(data)["payload"] for data in re.findall(rb"data: (.*)\n\n", body)]
    return [payload["properties"] for payload in found if payload["type"] == "server.stream.closing"]


def overflown(owner: FakeOwner, connection: FakeConnection) -> Subscriber:
    """Return a handle whose connection holds <1>, with <2> to <4> at the cap of three, and one more refused."""
    connection.room = 1
    handle = owner.subscriber(connection)
    for number in range(1, 6):
        handle.deliver(segment(number))
    return handle


# --- at the cap


def test_at_its_cap_it_is_live_and_one_over_it_closes() -> None:
    owner, connection = FakeOwner(backlog_events=3), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    for number in range(1, 5):
        handle.deliver(segment(number))
    assert (handle.state, handle.queued_events) == (State.LIVE, 3)

    handle.deliver(segment(5))
    assert (handle.state, handle.reason, handle.queued_events) == (State.CLOSING, Reason.OVERFLOW_EVENTS, 3)
    assert owner.told == ["closing"]


def test_the_byte_cap_counts_to_the_byte() -> None:
    owner = FakeOwner(backlog_bytes=300)
    handle = owner.subscriber()
    handle.deliver(segment(1, size=100))
    handle.deliver(segment(2, size=100))

    handle.deliver(segment(3, size=100))
    assert handle.state is State.LIVE
    handle.deliver(segment(4, size=10))
    assert handle.reason is Reason.OVERFLOW_BYTES


def test_it_overflows_once_and_takes_nothing_afterwards() -> None:
    owner, connection = FakeOwner(backlog_events=3), FakeConnection()
    handle = overflown(owner, connection)
    handle.deliver(segment(6))
    handle.close(Reason.SHUTDOWN)
    connection.make_room(None)

    assert owner.told == ["closing"]
    assert handle.reason is Reason.OVERFLOW_EVENTS
    assert re.fullmatch(rb"<1><2><3><4>(data: .*\n\n){2}", connection.body)  # it lagged, and is closed
    assert closing_frames(connection.body) == [{"reason": "overflow_events", "cursor": f"{EPOCH}-4"}]
    assert (handle.position, handle.sent_events) == (4, 4)
    assert (connection.ended, connection.is_complete) == ("closed", True)


def test_the_cursor_is_the_last_position_looked_at_and_not_the_last_event_sent() -> None:
    """A segment of a filtered feed may stand for more than it holds."""
    owner, connection = FakeOwner(), FakeConnection()
    handle = owner.subscriber(connection, position=3)
    handle.deliver(segment(40, events=1))
    handle.close(Reason.OPERATOR)

    assert closing_frames(connection.body) == [{"reason": "operator", "cursor": f"{EPOCH}-40"}]


def test_one_that_was_given_nothing_resumes_where_it_came_in() -> None:
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection, position=7)
    handle.close(Reason.SHUTDOWN)

    assert closing_frames(connection.body) == [{"reason": "shutdown", "cursor": f"{EPOCH}-7"}]


def test_it_may_overflow_before_its_head_is_out() -> None:
    owner, connection = FakeOwner(backlog_events=3), FakeConnection()
    handle = owner.subscriber()
    for number in range(1, 6):
        handle.deliver(segment(number))
    assert handle.state is State.CLOSING

    connection.attach_to(handle)
    assert connection.body.startswith(b"<1><2><3>data: ")
    assert closing_frames(connection.body) == [{"reason": "overflow_events", "cursor": f"{EPOCH}-3"}]
    assert (connection.ended, connection.is_complete) == ("closed", True)


# --- how the stream ends

ENDS = [
    ("clean", True, Reason.OVERFLOW_EVENTS, True),
    ("clean", True, Reason.DISPOSED, True),
    ("abort", True, Reason.OVERFLOW_EVENTS, False),
    ("abort", True, Reason.SHUTDOWN, False),
    ("abort", True, Reason.DISPOSED, True),
    ("clean", False, Reason.OPERATOR, False),
    ("abort", False, Reason.DISPOSED, False),
]


@pytest.mark.parametrize(
    ("end", "is_chunked", "reason", "has_last_chunk"),
    ENDS,
    ids=lambda value: {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value),
)
def test_the_last_chunk_is_for_clean_ends_and_never_for_http_1_0(
    end: End, is_chunked: bool, reason: Reason, has_last_chunk: bool
) -> None:
    """The end of an instance is always clean: there is nothing to come back for."""
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection, end=end, is_chunked=is_chunked)
    handle.deliver(segment(1))
    handle.close(reason)

    assert connection.received.endswith(b"0\r\n\r\n") is has_last_chunk
    assert connection.ended == "closed"


def test_http_1_0_is_never_written_to_past_its_backlog() -> None:
    """Segments are chunks, which it does not know."""
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection, is_chunked=False)
    for number in (1, 2):
        handle.deliver(segment(number))
        assert handle.direct is None

    assert connection.received == b"<1><2>"


def test_http_1_0_gets_the_body_without_chunks_also_in_pieces() -> None:
    connection = FakeConnection(room=1)
    handle = FakeOwner().subscriber(connection, is_chunked=False)
    handle.deliver(first := segment(1, size=100_000))
    handle.deliver(segment(2))
    handle.close(Reason.SHUTDOWN)
    while connection.ended is None:
        connection.make_room(1)

    body = first.data[first.head : -2]
    assert connection.received.startswith(body + b"<2>data: ")
    assert connection.received.endswith(b"}}}\n\n")
    assert all(len(piece) <= WRITE_BYTES for piece in connection.writes)
    assert handle.direct is None


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_told_where_the_stream_does_not_say_it(reason: Reason) -> None:
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection)
    handle.close(reason)

    assert [frame["reason"] for frame in closing_frames(connection.body)] == ([reason.value] if reason in TOLD else [])


@pytest.mark.parametrize("room", [None, 1])
def test_the_end_of_an_instance_is_its_last_event_and_nothing_is_said_behind_it(room: int | None) -> None:
    owner, connection = FakeOwner(backlog_events=4), FakeConnection(room)
    handle = owner.subscriber(connection, selection=INSTANCE, on_overflow="catchup")
    handle.deliver(segment(1))
    handle.deliver(segment(2, events=4), ends=True)  # it would lag
    handle.deliver(segment(3))
    connection.make_room(None)

    assert (handle.reason, connection.body, connection.is_complete) == (Reason.DISPOSED, b"<1><2>", True)


def test_one_that_falls_behind_at_the_end_of_its_instance_is_not_ended() -> None:
    """It has not been given the end: that comes from the log."""
    owner, connection = FakeOwner(backlog_events=4), FakeConnection(room=1)
    handle = owner.subscriber(connection, selection=INSTANCE, on_overflow="catchup")
    handle.deliver(segment(1))
    handle.deliver(segment(2))
    handle.deliver(segment(3, events=4), ends=True)
    handle.deliver(segment(4), ends=True)

    assert (handle.state, handle.reason) == (State.CATCHING_UP, None)
    assert owner.told == ["fell_behind"]


def test_an_instance_stream_is_told_in_its_own_shape() -> None:
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection, selection=INSTANCE)
    handle.close(Reason.SHUTDOWN)

    assert b'"payload"' not in connection.body
    assert b'"type":"server.stream.closing"' in connection.body


def test_it_ends_when_the_last_byte_is_written_and_not_before() -> None:
    connection = FakeConnection()
    handle = overflown(FakeOwner(backlog_events=3), connection)
    assert connection.ended is None

    connection.make_room(1)
    assert connection.ended == "closed"
    writes = len(connection.writes)
    handle.resume()
    handle.deliver(segment(9))
    assert len(connection.writes) == writes


# --- over the budget


def test_out_of_memory_gives_back_what_waits_and_tells_where_to_resume() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    for number in (1, 2, 3):
        handle.deliver(segment(number))
    handle.close(Reason.OVERFLOW_MEMORY)

    assert handle.queued_events == 0
    assert handle.queued_bytes < 300  # the closing frame
    connection.make_room(None)
    assert connection.body.startswith(b"<1>data: ")
    assert closing_frames(connection.body) == [{"reason": "overflow_memory", "cursor": f"{EPOCH}-1"}]
    assert owner.budget.held == 0


def test_out_of_memory_keeps_a_segment_of_which_half_is_sent() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    handle.deliver(half := segment(1, size=100_000))
    handle.deliver(segment(2))
    handle.close(Reason.OVERFLOW_MEMORY)
    connection.make_room(None)

    assert connection.received.startswith(half.data)
    assert b"<2>" not in connection.body
    assert closing_frames(connection.body) == [{"reason": "overflow_memory", "cursor": f"{EPOCH}-1"}]
    assert connection.is_complete


# --- the deadline


def test_what_is_not_read_within_close_flush_s_is_reset() -> None:
    owner, connection = FakeOwner(backlog_events=3, close_flush_s=30.0), FakeConnection()
    handle = overflown(owner, connection)

    owner.advance(29.999)
    assert connection.ended is None
    owner.advance(0.001)
    assert connection.ended == "reset"
    assert (handle.queued_events, owner.budget.segments) == (0, 0)
    assert (handle.state, owner.told) == (State.CLOSING, ["closing"])

    handle.lost(Reason.CLIENT_LOST)
    assert (handle.state, handle.reason) == (State.CLOSED, Reason.OVERFLOW_EVENTS)
    assert owner.budget.held == 0


def test_progress_does_not_move_the_deadline_nor_does_a_second_close() -> None:
    owner, connection = FakeOwner(close_flush_s=30.0), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    handle.deliver(segment(1, size=WRITE_BYTES * 5))
    handle.close(Reason.OPERATOR)
    owner.advance(20.0)
    connection.make_room(1)
    handle.close(Reason.SHUTDOWN)

    assert owner.pending == [30.0]
    owner.advance(10.0)
    assert connection.ended == "reset"


def test_a_peer_that_does_not_answer_our_goodbye_is_reset_too() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = owner.subscriber(connection)
    handle.close(Reason.OPERATOR)
    assert connection.ended == "closed"

    owner.advance(30.0)
    assert connection.ended == "reset"


def test_without_a_connection_the_deadline_is_the_end() -> None:
    owner = FakeOwner()
    handle = owner.subscriber()
    handle.close(Reason.SHUTDOWN)
    owner.advance(30.0)

    assert handle.state is State.CLOSED
    assert owner.told == ["closing", "closed"]
