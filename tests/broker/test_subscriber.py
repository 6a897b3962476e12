"""What a handle does with segments: send them, hold them, send on where it stopped."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.outbox import WRITE_BYTES
from opencode_events.broker.subscriber import Subscriber
from tests.broker.fakes import FakeConnection, FakeOwner, segment

# --- one that reads


def test_before_its_head_is_out_everything_waits() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = owner.subscriber()

    handle.deliver(segment(1, events=2))
    handle.deliver(segment(2, events=3))
    assert handle.direct is None
    assert (handle.queued_events, handle.position) == (5, 0)

    connection.attach_to(handle)
    assert connection.body == b"<1><2>"
    assert len(connection.writes) == 1
    assert (handle.queued_events, handle.queued_bytes, handle.position, handle.sent_events) == (0, 0, 2, 5)
    assert owner.budget.held == 0


def test_one_that_keeps_up_is_written_to_past_its_backlog() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = owner.subscriber(connection)

    assert handle.direct == connection.write
    handle.deliver(segment(1))
    assert handle.direct == connection.write
    assert connection.body == b"<1>"
    assert handle.sent_bytes == len(connection.received)


@pytest.mark.parametrize(
    ("size", "pieces"),
    [(WRITE_BYTES, [65_536]), (WRITE_BYTES + 1, [65_536, 1]), (200_000, [65_536] * 3 + [3_392])],
    ids=["64 KiB", "one byte more", "three times and a rest"],
)
def test_a_connection_gets_64_kib_at_a_time(size: int, pieces: list[int]) -> None:
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection)

    handle.deliver(large := segment(1, size=size))
    assert [len(piece) for piece in connection.writes] == pieces
    assert connection.received == large.data
    assert (handle.position, handle.sent_events, handle.sent_bytes) == (1, 1, size)


def test_small_segments_that_waited_go_out_joined_up_to_64_kib() -> None:
    connection, handle = FakeConnection(), FakeOwner().subscriber()
    for number in range(1, 8):
        handle.deliver(segment(number, size=10_000))

    connection.attach_to(handle)
    assert [len(piece) for piece in connection.writes] == [65_536, 70_000 - 65_536]


# --- one that does not


def test_at_the_first_pause_it_is_parked() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=100)
    handle = owner.subscriber(connection)

    handle.deliver(segment(1, size=150))
    assert handle.direct is None
    handle.deliver(segment(2, size=150))
    assert len(connection.writes) == 1
    assert (handle.position, handle.queued_events, handle.queued_bytes) == (1, 1, 150)
    assert (owner.budget.segments, owner.budget.transports) == (150, 50)
    assert handle.outbox.is_paused
    assert (handle.outbox.parked_bytes, handle.held_bytes) == (50, 200)


def test_a_pause_in_the_middle_of_a_drain_stops_it_and_a_resume_goes_on_within_the_segment() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=70_000)
    handle = owner.subscriber(connection)
    handle.deliver(large := segment(1, size=200_000))
    handle.deliver(second := segment(2))

    assert len(connection.received) == 2 * 65_536
    assert (handle.position, handle.queued_events, handle.queued_bytes) == (0, 2, 200_000 + second.size)

    connection.make_room(1)
    assert len(connection.received) == 3 * 65_536
    assert handle.position == 0

    connection.make_room(None)
    assert connection.received == large.data + second.data
    assert (handle.position, handle.queued_events, owner.budget.held) == (2, 0, 0)
    assert handle.direct == connection.write


def test_a_transport_that_pauses_again_is_counted_anew() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=100)
    handle = owner.subscriber(connection)

    handle.deliver(segment(1, size=150))
    connection.make_room(10)
    assert owner.budget.transports == 0
    handle.deliver(segment(2, size=99))
    assert owner.budget.transports == 89
    handle.pause()
    assert owner.budget.transports == 89
    handle.lost(Reason.CLIENT_CLOSED)
    assert owner.budget.held == 0


def test_an_owner_is_told_when_more_is_held_than_may_be() -> None:
    owner = FakeOwner(budget_bytes=200)
    handle = owner.subscriber()

    handle.deliver(segment(1, size=200))
    assert owner.told == []
    handle.deliver(segment(2, size=10))
    assert owner.told == ["over_budget"]


@given(st.lists(st.tuples(st.sampled_from(["deliver", "room"]), st.integers(7, 200)), max_size=40), st.booleans())
def test_however_it_pauses_it_gets_every_byte_once_and_in_order(steps: list[tuple[str, int]], is_chunked: bool) -> None:
    owner, connection = FakeOwner(), FakeConnection(room=50)
    handle = owner.subscriber(connection, is_chunked=is_chunked)
    whole, parts = b"", b""
    for number, (step, value) in enumerate(steps, 1):
        if step == "deliver":
            handle.deliver(one := segment(number, size=value if value != 21 else 22))
            whole += one.data
            parts += one.data[one.head : -2]
        else:
            connection.make_room(value)
        held = len(whole if is_chunked else parts) - len(connection.received)
        assert held == 0 or handle.queued_bytes >= held
    connection.make_room(None)

    assert connection.received == (whole if is_chunked else parts)
    assert handle.sent_bytes == len(connection.received)
    assert handle.queued_bytes == owner.budget.held == 0


# --- lagging


def control_frames(connection: FakeConnection) -> list[dict[str, Any]]:
    """Return the payloads of control frames; the segments of these tests are no frames."""
    return [json.loads(data)["payload"] for data in re.findall(rb"data: (.*)\n\n", connection.body)]


def test_lagging_is_told_behind_what_waits_once_and_with_its_numbers() -> None:
    owner, connection = FakeOwner(backlog_events=8, backlog_bytes=10_000), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    handle.deliver(segment(1))
    for number in (2, 3):
        handle.deliver(segment(number, events=3))
    assert handle.queued_events == 6  # three quarters: not past them
    handle.deliver(segment(4))
    handle.deliver(segment(5))

    connection.make_room(None)
    assert connection.body.startswith(b"<1><2><3><4>data: ")
    assert connection.body.endswith(b"\n\n<5>")
    (frame,) = control_frames(connection)
    assert frame["type"] == "server.stream.lagging"
    assert frame["properties"] == {
        "queued_events": 7, "queued_bytes": 3 * segment(2).size, "limit_events": 8, "limit_bytes": 10_000,
    }  # fmt: skip
    assert (handle.sent_events, handle.position) == (9, 5)


def fill(handle: Subscriber, events: int) -> None:
    """Deliver segments of what a connection is given at a time, so that each resume of one with no room takes one."""
    while handle.queued_events < events:
        handle.deliver(segment(9, size=WRITE_BYTES))


def drain(connection: FakeConnection, handle: Subscriber, events: int) -> None:
    while handle.queued_events > events:
        connection.make_room(1)


def test_lagging_is_told_again_only_after_less_than_half_of_that() -> None:
    owner, connection = FakeOwner(backlog_events=8), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    handle.deliver(segment(1))

    fill(handle, 7)
    drain(connection, handle, 3)  # 37.5 %: not below
    fill(handle, 7)
    drain(connection, handle, 2)
    assert len(control_frames(connection)) == 1
    fill(handle, 7)
    connection.make_room(None)
    assert len(control_frames(connection)) == 2


def test_lagging_is_told_again_after_everything_went_out_at_once() -> None:
    owner, connection = FakeOwner(backlog_events=8), FakeConnection()
    handle = owner.subscriber(connection)

    for _ in range(3):
        connection.room = 1
        handle.deliver(segment(1))
        fill(handle, 7)
        connection.make_room(None)
    assert len(control_frames(connection)) == 3
