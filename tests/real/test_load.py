"""What subscribers cost the server behind the shield: nothing. Bare, each that ever came is kept for good."""

from collections.abc import Callable

from tests.clients import Client, until
from tests.real.opencode import Opencode
from tests.servers import Daemon

SUBSCRIBERS = 200


def come_and_go(client: Client) -> None:
    for _ in range(SUBSCRIBERS):
        client.subscribe().close()


def test_upstream_sees_one_subscriber_whoever_comes_and_goes(
    new_opencode: Callable[..., Opencode], new_shield: Callable[..., Daemon]
) -> None:
    """Its log says who came, and that it let nobody go. The last lines are what it would be without a shield."""
    upstream = new_opencode()
    shield = new_shield(upstream)
    shield.client.subscribe()

    come_and_go(shield.client)

    until(lambda: len(shield.client.subscribers()) == 1)
    assert until(lambda: upstream.log().count("event connected")) == 1  # it writes its log in its own time
    come_and_go(upstream.client)
    assert until(lambda: upstream.log().count("event connected") > SUBSCRIBERS)
    assert upstream.log().count("event disconnected") == 0
