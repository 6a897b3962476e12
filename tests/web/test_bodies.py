"""Unfinished bodies share one limit."""

import pytest

from opencode_events.errors import Busy
from opencode_events.web.bodies import Bodies


def test_bodies_hold_as_much_as_the_limit_and_not_a_byte_more() -> None:
    bodies = Bodies(100)
    bodies.hold(60)
    bodies.hold(40)
    with pytest.raises(Busy) as refused:
        bodies.hold(1)

    assert (bodies.held, refused.value.limit) == (100, 100)

    bodies.release(60)
    bodies.hold(60)
    assert bodies.held == 100
