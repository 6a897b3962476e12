"""How many there may be at a time."""

import pytest

from opencode_events.errors import Busy
from opencode_events.relay.places import Places


def test_one_more_than_there_are_places_is_refused_and_counted() -> None:
    places = Places(2, "chairs")

    with places, places:
        with pytest.raises(Busy, match="there are 2 chairs already") as refusal, places:
            pass
        assert refusal.value.limit == 2

    assert (places.taken, places.peak, places.refused) == (0, 2, 1)


def test_a_place_is_given_back_by_who_fails() -> None:
    places = Places(1, "chairs")

    with pytest.raises(KeyError), places:
        raise KeyError

    assert places.taken == 0
