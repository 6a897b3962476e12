"""What a handle does while it reads from the log: one page after the other, at its client's pace, until it is live."""

import json
import re
from typing import Any

import pytest

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.outbox import WRITE_BYTES
from opencode_events.broker.subscriber import Subscriber
from tests.broker.fakes import EPOCH, INSTANCE, FakeConnection, FakeOwner, segment


def frames(connection: FakeConnection) -> list[tuple[str, dict[str, Any]]]:
    """Return type and properties of the control frames; the segments of these tests are no frames."""
    found = [json.loads(data)["payload"] for data in re.findall(rb"data: (.*)\n\n", connection.body)]
    return [(payload["type"], payload["properties"]) for payload in found]


def replaying(owner: FakeOwner, connection: FakeConnection | None = None, *, position: int = 0) -> Subscriber:
    return owner.subscriber(connection, position=position, state=State.REPLAYING)


def fallen_behind(owner: FakeOwner, connection: FakeConnection) -> Subscriber:
    """Return a handle that overflowed behind <1>, which its connection holds."""
    connection.room = 1
    handle = owner.subscriber(connection, on_overflow="catchup")
    for number in (1, 2, 3, 4):
        handle.deliver(segment(number))
    assert handle.state is State.CATCHING_UP
    return handle


# --- pages


def test_one_that_resumes_asks_for_a_page_when_it_has_its_connection() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, position=7)
    assert owner.told == []

    connection.attach_to(handle)
    assert owner.told == ["wants_page 7"]
    assert handle.direct is None
    assert handle.is_behind


def test_a_page_is_sent_and_the_next_one_is_wanted_behind_it() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.take_page(segment(5, events=3), 5)
    handle.take_page(segment(9, events=4), 9)

    assert connection.body == b"<5><9>"
    assert owner.told == ["wants_page 0", "wants_page 5", "wants_page 9"]
    assert (handle.position, handle.sent_events, handle.replayed) == (9, 7, 7)
    assert (handle.queued_events, owner.budget.held) == (0, 0)


def test_where_nothing_matched_its_place_goes_on_without_a_byte() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.take_page(None, 2_000)

    assert connection.received == b""
    assert owner.told == ["wants_page 0", "wants_page 2000"]
    assert (handle.position, handle.replayed) == (2_000, 0)


def test_the_next_page_waits_until_the_client_has_read_this_one() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = replaying(owner, connection)
    handle.take_page(segment(5, events=3, size=2 * WRITE_BYTES), 5)
    assert owner.told == ["wants_page 0"]
    assert (handle.position, handle.queued_events, owner.budget.segments) == (0, 3, 2 * WRITE_BYTES)

    connection.make_room(1)  # the transport has it all, and is full
    assert owner.told == ["wants_page 0"]
    assert (handle.position, handle.queued_events) == (5, 0)

    connection.make_room(None)
    assert owner.told == ["wants_page 0", "wants_page 5"]


def test_however_often_it_pauses_it_asks_once_for_each_page() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    for _ in range(3):
        handle.pause()
        handle.resume()
    handle.pause()
    handle.take_page(None, 4)
    assert owner.told == ["wants_page 0"]

    for _ in range(3):
        handle.resume()
        handle.pause()
    assert owner.told == ["wants_page 0", "wants_page 4"]


def test_a_page_that_comes_while_it_is_paused_waits() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.pause()
    handle.take_page(segment(5), 5)
    assert (connection.received, handle.queued_events) == (b"", 1)

    handle.resume()
    assert connection.body == b"<5>"
    assert owner.told == ["wants_page 0", "wants_page 5"]


def test_an_owner_is_told_when_pages_hold_more_than_may_be() -> None:
    owner, connection = FakeOwner(budget_bytes=200), FakeConnection()
    handle = replaying(owner, connection)
    handle.pause()

    handle.take_page(segment(5, size=201), 5)
    assert owner.told == ["wants_page 0", "over_budget"]


def test_what_its_feed_sends_is_not_for_it() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.deliver(segment(9))

    assert (connection.received, handle.queued_events, handle.position) == (b"", 0, 0)


def test_http_1_0_is_replayed_to_without_chunks() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = owner.subscriber(connection, is_chunked=False, state=State.REPLAYING)
    handle.take_page(segment(5), 5)
    handle.go_live()

    assert connection.received.startswith(b"<5>data: ")
    assert handle.direct is None


# --- the end of an instance


def test_a_disposal_in_a_page_ends_the_stream_when_the_page_is_read() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = owner.subscriber(connection, selection=INSTANCE, end="abort", state=State.REPLAYING)
    handle.take_page(page := segment(5, events=2, size=2 * WRITE_BYTES), 5, ends=True)
    assert (handle.state, handle.reason, connection.ended) == (State.CLOSING, Reason.DISPOSED, None)

    connection.make_room(None)
    assert connection.received == page.data + b"0\r\n\r\n"
    assert connection.ended == "closed"
    assert owner.told == ["wants_page 0", "closing"]
    assert handle.position == 5


# --- retention has overtaken it


@pytest.mark.parametrize(
    ("oldest", "told_oldest", "place"), [(6, 6, 5), (20, 20, 19), (21, 20, 20)], ids=["some", "but one", "everything"]
)
def test_what_was_trimmed_is_told_and_the_oldest_there_is_follows(oldest: int, told_oldest: int, place: int) -> None:
    owner, connection = FakeOwner(), FakeConnection()
    owner.head_position = 20
    handle = replaying(owner, connection, position=2)
    handle.expire(oldest)

    assert frames(connection) == [
        (
            "server.stream.expired",
            {
                "requested": f"{EPOCH}-2", "oldest": f"{EPOCH}-{told_oldest}", "newest": f"{EPOCH}-20",
                "reason": "trimmed",
            },
        )
    ]  # fmt: skip
    assert b"id: " not in connection.body
    assert owner.told == ["wants_page 2", f"wants_page {place}"]
    assert (handle.position, handle.sent_events) == (place, 0)


def test_what_was_trimmed_is_told_once_though_a_heartbeat_has_paused_it() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    owner.head_position = 20
    handle = replaying(owner, connection, position=2)
    handle.heartbeat()
    handle.expire(11)
    assert handle.position == 10
    connection.make_room(None)

    assert [kind for kind, _ in frames(connection)] == ["server.heartbeat", "server.stream.expired"]
    assert owner.told == ["wants_page 2", "wants_page 10"]
    handle.take_page(segment(12), 12)
    assert handle.position == 12


def test_what_was_trimmed_is_told_though_memory_is_short_before_it_is_out() -> None:
    """The place to resume at is behind what was trimmed: who resumes there would never hear of it."""
    owner, connection = FakeOwner(), FakeConnection()
    owner.head_position = 20
    handle = replaying(owner, connection, position=2)
    handle.pause()
    handle.expire(11)
    handle.give_up(Reason.OVERFLOW_MEMORY)
    connection.make_room(None)

    assert [kind for kind, _ in frames(connection)] == ["server.stream.expired", "server.stream.closing"]
    assert frames(connection)[1][1]["cursor"] == f"{EPOCH}-10"


# --- heartbeats


def test_a_heartbeat_carries_its_own_place() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    owner.head_position = 1_000
    handle = replaying(owner, connection)
    handle.take_page(None, 400)
    handle.heartbeat()

    assert connection.body.startswith(f"id: {EPOCH}-400\ndata: ".encode())
    assert frames(connection) == [("server.heartbeat", {})]
    assert (handle.position, handle.sent_events, handle.queued_events) == (400, 0, 0)
    assert owner.told == ["wants_page 0", "wants_page 400"]  # it asks once, heartbeat or not


def test_there_is_no_heartbeat_where_something_is_on_its_way() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = replaying(owner, connection)
    handle.take_page(segment(5, size=WRITE_BYTES + 1), 5)
    handle.heartbeat()
    connection.make_room(1)
    handle.heartbeat()
    connection.make_room(None)

    assert len(connection.received) == WRITE_BYTES + 1


@pytest.mark.parametrize("state", [State.LIVE, State.CLOSING])
def test_who_is_not_behind_has_no_heartbeat_of_its_own(state: State) -> None:
    connection = FakeConnection()
    handle = FakeOwner().subscriber(connection, state=state)
    connection.writes.clear()
    handle.heartbeat()

    assert connection.writes == []


def test_its_place_does_not_go_back_to_a_heartbeat_that_paused_it() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = replaying(owner, connection, position=2)
    handle.heartbeat()
    handle.take_page(None, 9)
    connection.make_room(None)

    assert handle.position == 9
    assert owner.told == ["wants_page 2", "wants_page 9"]


# --- live again


def test_going_live_is_told_with_the_number_that_came_from_the_log() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.take_page(segment(5, events=3), 5)
    handle.go_live()

    assert (handle.state, handle.is_behind) == (State.LIVE, False)
    assert frames(connection) == [("server.stream.live", {"replayed": 3})]
    assert b"id: " not in connection.body
    assert handle.direct == connection.write
    handle.deliver(segment(6))
    assert connection.body.endswith(b"\n\n<6>")
    assert owner.told == ["wants_page 0", "wants_page 5"]


def test_what_comes_live_waits_behind_the_news_that_it_is_live() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.pause()
    handle.go_live()
    handle.deliver(segment(1))
    assert (connection.received, handle.direct) == (b"", None)

    handle.resume()
    assert re.fullmatch(rb"data: .*\n\n<1>", connection.body)
    assert handle.direct == connection.write


# --- falling behind


def test_at_its_cap_it_gives_its_backlog_back_and_reads_on_from_its_place() -> None:
    owner, connection = FakeOwner(backlog_events=2), FakeConnection()
    handle = fallen_behind(owner, connection)
    assert (handle.position, handle.queued_events, owner.budget.segments) == (1, 0, 0)
    assert owner.told == ["fell_behind"]
    assert handle.reason is None

    connection.make_room(None)
    assert connection.body == b"<1>"
    assert owner.told == ["fell_behind", "wants_page 1"]
    handle.take_page(segment(4, events=3), 4)
    handle.go_live()
    assert frames(connection) == [("server.stream.live", {"replayed": 3})]


def test_half_a_segment_is_read_to_its_end_before_the_log_goes_on_behind_it() -> None:
    owner, connection = FakeOwner(backlog_events=2), FakeConnection(room=1)
    handle = owner.subscriber(connection, on_overflow="catchup")
    handle.deliver(half := segment(1, size=2 * WRITE_BYTES))
    handle.deliver(segment(2))
    handle.deliver(segment(3))
    assert (handle.state, handle.position, handle.queued_events) == (State.CATCHING_UP, 0, 1)

    connection.make_room(None)
    assert connection.received == half.data
    assert owner.told == ["fell_behind", "wants_page 1"]


def test_what_was_sealed_for_it_before_is_not_taken_afterwards() -> None:
    owner, connection = FakeOwner(backlog_events=2), FakeConnection()
    handle = fallen_behind(owner, connection)
    handle.deliver(segment(5))
    connection.make_room(None)

    assert connection.body == b"<1>"


def test_it_may_not_be_live_before_what_was_sealed_with_it_is_out() -> None:
    owner, connection = FakeOwner(backlog_events=2), FakeConnection(room=1)
    handle = owner.subscriber(connection, on_overflow="catchup")
    handle.feed.sealed, handle.feed.written = 7, 5
    assert not handle.is_stale
    for number in (1, 2, 3, 4):
        handle.deliver(segment(number))
    handle.feed.sealed += 2  # without it

    found = []
    for handle.feed.written in (5, 6, 7, 8):
        found.append(handle.is_stale)
    assert found == [True, True, False, False]
    connection.make_room(None)
    handle.feed.written = 6
    handle.go_live()
    assert not handle.is_stale


def test_it_counts_what_it_is_replayed_anew_each_time() -> None:
    owner, connection = FakeOwner(backlog_events=2), FakeConnection()
    handle = fallen_behind(owner, connection)
    connection.make_room(None)
    handle.take_page(segment(4, events=3), 4)
    handle.go_live()
    connection.room = 1
    for number in (5, 6, 7, 8):
        handle.deliver(segment(number))
    connection.make_room(None)
    handle.take_page(segment(8, events=2), 8)
    handle.go_live()

    assert frames(connection) == [("server.stream.live", {"replayed": 3}), ("server.stream.live", {"replayed": 2})]


def test_for_want_of_memory_it_gives_its_backlog_back_and_stays() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = owner.subscriber(connection, on_overflow="catchup")
    handle.deliver(segment(1))
    handle.deliver(segment(2))
    handle.give_up(Reason.OVERFLOW_MEMORY)

    assert (handle.state, handle.reason, handle.queued_bytes) == (State.CATCHING_UP, None, 0)
    connection.make_room(None)
    assert owner.told == ["fell_behind", "wants_page 1"]


@pytest.mark.parametrize("reason", [Reason.OVERFLOW_EVENTS, Reason.OVERFLOW_BYTES, Reason.OVERFLOW_MEMORY])
def test_who_did_not_ask_for_it_is_ended(reason: Reason) -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = owner.subscriber(connection, on_overflow="end")
    handle.deliver(segment(1))
    handle.give_up(reason)

    assert (handle.state, handle.reason) == (State.CLOSING, reason)
    assert owner.told == ["closing"]


@pytest.mark.parametrize("state", [State.REPLAYING, State.CATCHING_UP])
def test_who_is_behind_already_has_a_page_and_no_more_to_give_and_ends(state: State) -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = owner.subscriber(connection, on_overflow="catchup", state=state)
    handle.pause()
    handle.take_page(segment(5), 5)
    handle.give_up(Reason.OVERFLOW_MEMORY)
    connection.make_room(None)

    assert (handle.state, handle.reason) == (State.CLOSING, Reason.OVERFLOW_MEMORY)
    assert frames(connection) == [("server.stream.closing", {"reason": "overflow_memory", "cursor": f"{EPOCH}-0"})]


# --- closing


def test_one_that_is_closed_in_the_middle_of_a_page_sends_it_and_tells_where_to_resume() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = replaying(owner, connection)
    handle.take_page(segment(5, size=2 * WRITE_BYTES), 5)
    handle.close(Reason.SHUTDOWN)
    connection.make_room(None)

    assert frames(connection) == [("server.stream.closing", {"reason": "shutdown", "cursor": f"{EPOCH}-5"})]
    assert (connection.ended, connection.is_complete) == ("closed", True)
    assert owner.told == ["wants_page 0", "closing"]


def test_one_that_is_closed_while_it_waits_for_a_page_resumes_at_its_place() -> None:
    owner, connection = FakeOwner(), FakeConnection()
    handle = replaying(owner, connection)
    handle.take_page(None, 400)
    handle.close(Reason.OPERATOR)

    assert frames(connection) == [("server.stream.closing", {"reason": "operator", "cursor": f"{EPOCH}-400"})]
    assert connection.ended == "closed"


def closing(handle: Subscriber) -> None:
    handle.close(Reason.OPERATOR)


def lost(handle: Subscriber) -> None:
    handle.lost(Reason.CLIENT_RESET)


@pytest.mark.parametrize("end", [closing, lost])
@pytest.mark.parametrize(
    "late",
    [
        lambda handle: handle.take_page(segment(5), 5),
        lambda handle: handle.take_page(None, 5),
        lambda handle: handle.take_page(segment(5), 5, ends=True),
        lambda handle: handle.expire(9),
        lambda handle: handle.heartbeat(),
    ],
    ids=["page", "nothing", "last page", "trimmed", "heartbeat"],
)
def test_what_comes_from_the_log_after_its_end_is_not_for_it(end: Any, late: Any) -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = replaying(owner, connection)
    end(handle)
    state, reason, written, told = handle.state, handle.reason, len(connection.writes), list(owner.told)
    late(handle)

    assert (handle.state, handle.reason, handle.queued_events, handle.position) == (state, reason, 0, 0)
    assert (len(connection.writes), owner.told) == (written, told)
