"""What is written of what waits: whole segments, in order, 64 KiB at a time, and half of one is never taken back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.broker.budget import Budget
from opencode_events.broker.feed import Segment
from opencode_events.broker.outbox import WRITE_BYTES, Outbox
from opencode_events.settings import BrokerSettings
from tests.broker.fakes import Unwatched, segment


class Desk(Unwatched):
    """An outbox on a connection that takes `room` bytes and then pauses it. `trace` has what was told and written."""

    def __init__(self, room: int | None = None, *, is_chunked: bool = True) -> None:
        self.room = room
        self.budget = Budget(1_000_000)
        self.outbox = Outbox(BrokerSettings(), self.budget, is_chunked=is_chunked)
        self.outbox.connection = self
        self.outbox.is_paused = False
        self.received = b""
        self.trace: list[str] = []

    def put(self, *segments: Segment) -> None:
        for one in segments:
            self.outbox.opened().append(one)

    def send(self) -> bool:
        return self.outbox.send(self._sent)

    def resume(self, room: int | None) -> bool:
        self.room = room
        self.outbox.resume()
        return self.send()

    def _sent(self, found: Segment | None, size: int) -> None:
        self.trace.append(f"{size} bytes" if found is None else f"segment {found.last}")

    def write(self, data: bytes | memoryview) -> None:
        self.received += data
        self.trace.append(f"written {len(data)}")
        if self.room is not None:
            self.room -= len(data)
            if self.room <= 0:
                self.outbox.pause()

    def buffered(self) -> int:
        return max(0, -(self.room or 0))

    def close(self) -> None:
        raise AssertionError("ending is the handle's")

    def reset(self) -> None:
        raise AssertionError("ending is the handle's")


# --- sending


def test_it_is_paused_and_needs_no_backlog_until_something_waits() -> None:
    outbox = Outbox(BrokerSettings(), Budget(1), is_chunked=True)

    assert (outbox.is_paused, outbox.connection, outbox.backlog) == (True, None, None)
    assert outbox.opened() is outbox.opened()


def test_with_nothing_to_send_all_is_out() -> None:
    desk = Desk()

    assert desk.send()
    desk.put(segment(1))
    assert desk.send()
    assert desk.send()
    assert desk.received == b"3\r\n<1>\r\n"


def test_a_segment_is_told_of_with_its_last_byte_and_before_the_write() -> None:
    """A write may pause the connection, and the handle looks at its place then."""
    desk = Desk()
    desk.put(segment(1, size=100), segment(2, size=WRITE_BYTES), segment(3, size=50))
    assert desk.send()

    assert desk.trace == [
        "segment 1", "65536 bytes", "written 65536",
        "segment 2", "segment 3", "150 bytes", "written 150",
    ]  # fmt: skip


def test_a_pause_stops_it_and_it_goes_on_within_the_segment() -> None:
    desk = Desk(room=1)
    desk.put(large := segment(1, size=3 * WRITE_BYTES), small := segment(2))
    assert not desk.send()
    assert not desk.send()  # still paused
    assert len(desk.received) == WRITE_BYTES

    assert not desk.resume(1)
    assert len(desk.received) == 2 * WRITE_BYTES
    assert desk.resume(None)
    assert desk.received == large.data + small.data
    assert desk.budget.held == 0


def test_without_chunks_only_the_body_is_written() -> None:
    desk = Desk(is_chunked=False)
    desk.put(large := segment(1, size=WRITE_BYTES + 500), segment(2))
    assert desk.send()

    assert desk.received == large.data[large.head : -2] + b"<2>"


# --- what the transport holds


def test_what_the_transport_holds_counts_from_its_pause_to_its_resume_and_once() -> None:
    desk = Desk(room=100)
    desk.put(segment(1, size=150))
    desk.send()
    assert (desk.outbox.is_paused, desk.outbox.parked_bytes, desk.budget.transports) == (True, 50, 50)

    desk.outbox.pause()
    assert desk.budget.transports == 50
    desk.outbox.resume()
    assert (desk.outbox.is_paused, desk.outbox.parked_bytes, desk.budget.transports) == (False, 0, 0)
    desk.outbox.forget_parked()
    assert desk.budget.transports == 0


# --- giving back


def test_what_waits_whole_is_given_back_and_may_come_again() -> None:
    desk = Desk(room=0)
    desk.outbox.pause()
    desk.put(segment(1), segment(2))
    desk.outbox.give_back()
    assert desk.budget.held == 0

    desk.put(segment(1))
    assert desk.resume(None)
    assert desk.received == segment(1).data


def test_a_segment_of_which_half_is_written_is_kept_and_ends_as_it_began() -> None:
    desk = Desk(room=1)
    desk.put(half := segment(1, size=WRITE_BYTES + 10), segment(2))
    desk.send()
    desk.outbox.give_back()
    assert desk.budget.segments == half.size

    desk.put(third := segment(3))
    assert desk.resume(None)
    assert desk.received == half.data + third.data


def test_what_is_dropped_is_not_gone_on_with() -> None:
    desk = Desk(room=1)
    desk.put(segment(1, size=WRITE_BYTES + 10), segment(2))
    desk.send()
    desk.outbox.drop()
    desk.outbox.forget_parked()
    assert desk.budget.held == 0

    desk.received = b""
    desk.put(third := segment(3))
    assert desk.resume(None)
    assert desk.received == third.data


@pytest.mark.parametrize("step", ["give_back", "drop"])
def test_giving_back_nothing_is_fine(step: str) -> None:
    desk = Desk()
    getattr(desk.outbox, step)()
    desk.put(segment(1))
    desk.send()
    getattr(desk.outbox, step)()

    assert desk.budget.held == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([8, 100, WRITE_BYTES - 1, WRITE_BYTES, 2 * WRITE_BYTES + 3])),
        st.tuples(st.just("room"), st.integers(1, 2 * WRITE_BYTES)),
        st.tuples(st.just("give back"), st.just(0)),
    ),
    max_size=30,
)


@given(STEPS, st.booleans())
def test_however_often_it_gives_back_whole_segments_go_out_in_order(
    steps: list[tuple[str, int]], is_chunked: bool
) -> None:
    desk = Desk(room=1, is_chunked=is_chunked)
    made: dict[int, bytes] = {}
    for number, (step, value) in enumerate(steps, 1):
        if step == "put":
            desk.put(one := segment(number, size=value))
            made[number] = one.data if is_chunked else one.data[one.head : -2]
            desk.send()
        elif step == "room":
            desk.resume(value)
        else:
            desk.outbox.give_back()
    assert desk.resume(None)

    told = [int(line.removeprefix("segment ")) for line in desk.trace if line.startswith("segment")]
    assert desk.received == b"".join(made[number] for number in told)
    assert told == sorted(set(told))
    assert desk.budget.held == 0
