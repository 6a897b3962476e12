"""What a request to become a websocket is."""

import pytest
from multidict import CIMultiDict

from opencode_events.upgrade import is_websocket


@pytest.mark.parametrize("value", ["websocket", "WebSocket", "h2c, websocket", "h2c,websocket ,x"])
def test_a_get_that_names_the_protocol_wants_a_websocket(value: str) -> None:
    assert is_websocket("GET", CIMultiDict({"upgrade": value}))


@pytest.mark.parametrize("value", ["", "h2c", "websockets", "web socket"])
def test_another_protocol_is_none(value: str) -> None:
    assert not is_websocket("GET", CIMultiDict(Upgrade=value))


def test_nothing_else_wants_one() -> None:
    assert not is_websocket("GET", CIMultiDict(Connection="Upgrade"))
    assert not is_websocket("POST", CIMultiDict(Upgrade="websocket"))
