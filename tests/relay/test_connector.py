"""Whatever is asked of upstream, the kernel finds out when nobody is there any more; from aiohttp 3.12 on."""

import socket

import aiohttp
import pytest

from opencode_events.relay.passthrough import PassThrough
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import RelaySettings
from tests.relay.fake_upstream import HEALTH, FakeUpstream

KEEPALIVE = [1, 30, 10, 3]


def keepalive(response: aiohttp.ClientResponse) -> list[int]:
    """Return whether the kernel asks, after how many seconds, how long apart and how often."""
    assert response.connection is not None
    assert response.connection.transport is not None
    found = response.connection.transport.get_extra_info("socket")
    tcp = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    is_asked: int = found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return [is_asked, *(found.getsockopt(socket.IPPROTO_TCP, option) for option in tcp)]


async def test_it_looks_after_the_stream_of_events(fake: FakeUpstream) -> None:
    settings = RelaySettings(upstream=fake.url)
    async with Upstream(settings, None, max_row_bytes=1000) as upstream, upstream.events() as response:
        assert keepalive(response) == KEEPALIVE


@pytest.mark.parametrize("session", ["_kept", "_fresh"])
async def test_it_looks_after_what_passes_through(fake: FakeUpstream, session: str) -> None:
    fake.moods[HEALTH] = "stalls"  # or the connection is given back before it can be looked at
    settings, url = RelaySettings(upstream=fake.url), fake.url + HEALTH
    async with PassThrough(settings, None) as made, getattr(made, session).get(url) as response:
        assert keepalive(response) == KEEPALIVE
