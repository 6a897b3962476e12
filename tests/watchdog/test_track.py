"""What is remembered from one look to the next: progress, the goodbye, and since when a head has been due."""

from typing import Any

import pytest

from opencode_events.broker.watched import Outlook
from opencode_events.watchdog.classify import Observation, Tcp
from opencode_events.watchdog.probe import AT_REST, Sample
from opencode_events.watchdog.track import Track

STREAM = Outlook()
FIRST = Outlook(is_answering=False)


def waiting(acked: int | None = 1000, **more: Any) -> Sample:
    """Return a sample of a connection whose client has 100 bytes to take."""
    return Sample(**({"state": Tcp.ESTABLISHED, "outq": 100, "acked": acked} | more))


# --- progress


def test_what_waits_in_three_places_is_added_up() -> None:
    seen = Track(0).observe(waiting(outq=1), Outlook(buffered=20, queued=300), 0)

    assert seen.pending == 321


def test_the_kernels_words_are_passed_on() -> None:
    seen = Track(0).observe(waiting(unacked=3, last_ack_s=0.5), STREAM, 1)

    assert seen == Observation(Tcp.ESTABLISHED, pending=100, unacked=3, last_ack_s=0.5, stalled_s=1)
    assert Track(0).observe(waiting(), Outlook(is_ending=True), 1).is_ending


def test_time_without_progress_counts_from_when_it_was_last_at_rest() -> None:
    track = Track(5)

    assert [track.observe(waiting(), STREAM, now).stalled_s for now in (6, 7, 50)] == [1, 2, 45]


def test_a_byte_acknowledged_is_progress() -> None:
    track = Track(0)

    found = [track.observe(waiting(acked), STREAM, now).stalled_s for now, acked in enumerate((7, 7, 8, 8, 9))]

    assert found == [0, 1, 0, 1, 0]


def test_nothing_waiting_is_progress() -> None:
    track = Track(0)
    track.observe(waiting(), STREAM, 10)

    assert track.observe(waiting(outq=0), STREAM, 20).stalled_s == 0
    assert track.observe(waiting(), STREAM, 21).stalled_s == 1


def test_more_to_take_is_no_progress() -> None:
    track = Track(0)

    found = [track.observe(waiting(outq=outq), Outlook(buffered=outq), outq).stalled_s for outq in (1, 2, 3)]

    assert found == [1, 2, 3]


@pytest.mark.parametrize("written", [True, False], ids=["a stream", "an answer"])
def test_where_the_kernel_tells_no_bytes_what_leaves_the_queues_is_progress(written: bool) -> None:
    """`written` is what a stream's connection was ever given; of an answer it is not known."""
    track = Track(0)
    looks = [
        # what was given, what the transport holds, what the kernel holds
        (100, 50, 50),
        (100, 50, 50),
        (100, 40, 60),  # only from the one to the other
        (100, 40, 40),
        (100, 0, 40),
        (100, 0, 30),
        (200, 100, 30),  # more to take
        (200, 90, 30),
    ]

    found = [
        track.observe(
            Sample(Tcp.ESTABLISHED, outq), Outlook(buffered=held, written=given if written else 0), now
        ).stalled_s
        for now, (given, held, outq) in enumerate(looks)
    ]

    assert found == [0, 1, 2, 0, 0, 0, 1, 0]


# --- the goodbye


@pytest.mark.parametrize("state", [Tcp.CLOSE_WAIT, Tcp.LAST_ACK, Tcp.CLOSING, Tcp.TIME_WAIT, Tcp.CLOSE])
def test_a_goodbye_is_seen_in_the_state(state: Tcp) -> None:
    track = Track(0)
    assert track.observe(waiting(), STREAM, 10).fin_s is None

    assert [track.observe(waiting(state=state), STREAM, now).fin_s for now in (11, 12, 71)] == [0, 1, 60]


def test_where_the_state_is_not_known_a_goodbye_is_that_the_loop_closes() -> None:
    assert Track(0).observe(Sample(), Outlook(is_closing=True), 5).fin_s == 0
    assert Track(0).observe(Sample(), Outlook(is_closing=True, is_ending=True), 5).fin_s is None


def test_where_the_state_is_known_it_decides() -> None:
    """A transport may be closing because the server has nothing to add, with an answer still to be read."""
    assert Track(0).observe(waiting(), Outlook(is_closing=True), 5).fin_s is None


def test_a_transport_that_we_close_is_no_goodbye_of_the_clients() -> None:
    assert Track(0).observe(waiting(), Outlook(is_closing=True, is_ending=True), 5).fin_s is None


@pytest.mark.parametrize("state", [Tcp.ESTABLISHED, Tcp.FIN_WAIT1, Tcp.FIN_WAIT2])
def test_our_own_goodbye_is_none_of_the_clients(state: Tcp) -> None:
    assert Track(0).observe(waiting(state=state), Outlook(is_ending=True), 5).fin_s is None


def test_a_goodbye_counts_as_progress_once() -> None:
    """Whoever was stalled before it gets all of the time after it."""
    track = Track(0)
    track.observe(waiting(), STREAM, 100)

    found = [track.observe(waiting(state=Tcp.CLOSE_WAIT), STREAM, now).stalled_s for now in (101, 102, 111)]

    assert found == [0, 1, 10]


def test_a_goodbye_is_not_forgotten() -> None:
    track = Track(0)
    track.observe(waiting(state=Tcp.CLOSE_WAIT), STREAM, 1)

    assert track.observe(waiting(state=Tcp.CLOSE), STREAM, 9).fin_s == 8


def test_our_goodbye_counts_as_progress_once() -> None:
    """Whoever did not read before it still has the time to read why it is ended."""
    track = Track(0)
    track.observe(waiting(), STREAM, 100)

    found = [track.observe(waiting(), Outlook(is_ending=True), now).stalled_s for now in (101, 102, 131)]

    assert found == [0, 1, 30]


def test_our_goodbye_gives_no_time_to_who_has_said_goodbye_before() -> None:
    track = Track(0)
    track.observe(waiting(state=Tcp.CLOSE_WAIT), STREAM, 100)

    seen = track.observe(waiting(state=Tcp.CLOSE_WAIT), Outlook(is_ending=True), 109)

    assert (seen.stalled_s, seen.fin_s) == (9, 9)


def test_after_a_goodbye_what_waits_counts_from_when_it_began_to_wait() -> None:
    """A half-closed reader of a quiet stream is not stalled because the next heartbeat is just on its way."""
    track = Track(0)
    for now in range(20):
        track.observe(waiting(state=Tcp.CLOSE_WAIT, outq=0), STREAM, now)

    seen = track.observe(waiting(state=Tcp.CLOSE_WAIT), STREAM, 20)

    assert (seen.stalled_s, seen.fin_s) == (1, 20)


# --- the head of a request


def test_the_first_head_is_due_from_the_start() -> None:
    track = Track(0)

    assert [track.observe(Sample(received=0), FIRST, now).head_s for now in (3, 4, 12)] == [0, 1, 9]


def test_a_part_of_the_first_head_changes_nothing() -> None:
    track = Track(0)
    track.observe(Sample(received=0), FIRST, 1)

    assert [track.observe(Sample(received=now), FIRST, now).head_s for now in (5, 9)] == [4, 8]


def test_no_head_is_due_while_one_is_answered() -> None:
    track = Track(0)
    track.observe(Sample(received=0), FIRST, 1)

    seen = track.observe(Sample(received=50), Outlook(is_answering=True), 100)

    assert seen.head_s is None


def test_between_two_requests_a_connection_may_be_silent() -> None:
    track = Track(0)
    track.observe(Sample(received=50), Outlook(is_answering=True), 1)
    rest = Outlook(is_answering=False, answered=1)

    assert [track.observe(Sample(received=50), rest, now).head_s for now in (2, 20, 75)] == [None] * 3


def test_a_later_head_is_due_from_its_first_byte() -> None:
    track = Track(0)
    rest = Outlook(is_answering=False, answered=1)
    track.observe(Sample(received=50), rest, 2)

    found = [track.observe(Sample(received=received), rest, now).head_s for now, received in ((40, 51), (45, 60))]

    assert found == [0, 5]


def test_a_request_that_came_and_went_between_two_looks_leaves_no_head_due() -> None:
    track = Track(0)
    track.observe(Sample(received=0), FIRST, 1)

    found = track.observe(Sample(received=90), Outlook(is_answering=False, answered=1), 2).head_s
    again = track.observe(Sample(received=180), Outlook(is_answering=False, answered=2), 3).head_s

    assert (found, again) == (None, None)


def test_where_the_kernel_tells_no_bytes_only_the_first_head_is_watched() -> None:
    track = Track(0)
    assert track.observe(Sample(), FIRST, 1).head_s == 0
    rest = Outlook(is_answering=False, answered=1)

    assert [track.observe(Sample(), rest, now).head_s for now in (2, 3)] == [None, None]


def test_whoever_has_said_goodbye_asks_for_no_more() -> None:
    """The goodbye counts as a byte received."""
    track = Track(0)
    rest = Outlook(is_answering=False, answered=1)
    track.observe(Sample(Tcp.ESTABLISHED, received=50), rest, 1)

    assert track.observe(Sample(Tcp.CLOSE_WAIT, received=51), rest, 2).head_s is None


def test_a_stream_has_no_head_to_wait_for() -> None:
    assert Track(0).observe(AT_REST, STREAM, 1000).head_s is None


# --- a copy


def test_a_copy_remembers_the_same_and_goes_its_own_way() -> None:
    track = Track(0)
    track.observe(waiting(received=5), FIRST, 3)
    other = track.copy()

    ahead = other.observe(waiting(2000), FIRST, 8)

    assert (ahead.stalled_s, ahead.head_s) == (0, 5)
    assert track.observe(waiting(state=Tcp.CLOSE_WAIT), FIRST, 9).fin_s == 0
    assert other.observe(waiting(2000), FIRST, 10).fin_s is None
    assert track.copy().observe(waiting(), FIRST, 11).fin_s == 2
