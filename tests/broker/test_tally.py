"""What a broker has done since its start."""

import pytest

from opencode_events.broker.tally import Tally
from opencode_events.eventlog.base import Appended
from tests.clients import dumps, envelope
from tests.samples import make


def test_a_batch_counts_its_events_their_bytes_and_the_duplicates() -> None:
    tally = Tally()
    some = [make(dumps(envelope(number))) for number in (1, 2)]

    tally.stored(Appended(1, some, 3, "0123456789"))

    assert (tally.published_events, tally.duplicate_events) == (2, 3)
    assert tally.published_bytes == sum(len(event.envelope) for event in some)


@pytest.mark.parametrize(
    ("is_resuming", "has_missed", "start"),
    [(False, False, "fresh"), (True, False, "hit"), (True, True, "expired"), (False, True, "expired")],
)
def test_who_subscribes_counts_by_what_became_of_the_place_it_asked_for(
    is_resuming: bool, has_missed: bool, start: str
) -> None:
    tally = Tally()
    tally.came(is_resuming=is_resuming, has_missed=has_missed)

    assert tally.opened == 1
    assert {name for name, count in tally.starts.items() if count} == {start}
