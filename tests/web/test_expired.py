"""Cursors that cannot be served: the client is told, in the stream, and the stream goes on.

On both loops and both ways of serving a stream.
"""

from collections.abc import Callable

import pytest

from tests.clients import NDJSON, Client, envelope, until
from tests.servers import LOOPS, Server
from tests.web.events import after, missed, names

Serve = Callable[..., Server]

INSTANCE = "/event?directory=/d"
EVERYTHING = "/global/event"


@pytest.fixture(params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["taken over", "plain"])
def takeover(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def client(serve: Serve, takeover: bool) -> Client:
    return serve(takeover=takeover).client


# --- no place in this log


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("{epoch}-3", "epoch"),
        ("{epoch}-999999999999999999", "epoch"),
        ("0123456789-1", "epoch"),
        ("0123456789-0", "epoch"),
        ("nonsense", "malformed"),
        ("{epoch}-01", "malformed"),
        ("{epoch}--1", "malformed"),
        ("{epoch}-1.0", "malformed"),
        ("{epoch}-" + "9" * 30, "malformed"),
        ("A{tail}-1", "malformed"),
        ("\xff\xfe", "malformed"),
        ("x" * 5_000, "malformed"),
        ("\x22\\", "malformed"),
    ],
    ids=[
        "beyond", "far beyond", "another epoch", "its beginning", "words", "leading zero", "negative", "fraction",
        "long", "a capital", "not UTF-8", "very long", "quotes",
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", [EVERYTHING, INSTANCE])
def test_what_is_no_place_in_this_log_is_told_and_the_stream_is_live_at_the_head(
    client: Client, target: str, asked: str, reason: str
) -> None:
    receipt = client.publish(envelope(1), envelope(2))
    epoch, head = receipt["last"].split("-")[0], receipt["last"]
    asked = asked.format(epoch=epoch, tail=epoch[1:])

    stream = client.subscribe(target, f"Last-Event-ID: {asked}")
    expired = stream.frame()
    client.publish(envelope(3))

    assert stream.connected is not None
    assert stream.connected.id is None
    assert stream.connected.properties == {"cursor": head, "head": head, "resumed": False}
    assert (expired.type, expired.id, expired.retry) == ("server.stream.expired", None, None)
    requested = expired.properties["requested"]
    assert requested == asked or "\xff" in asked
    assert expired.properties == {
        "requested": requested, "oldest": receipt["first"], "newest": head, "reason": reason,
    }  # fmt: skip
    assert stream.frame().event == "evt_3"


def test_an_expired_cursor_of_ndjson_is_one_line_without_a_cursor(client: Client) -> None:
    stream = client.subscribe(f"{EVERYTHING}?after=nonsense", f"Accept: {NDJSON}")

    expired = stream.frame()
    assert (expired.type, expired.id) == ("server.stream.expired", None)
    assert stream.connected is not None
    assert list(stream.connected.json) == list(expired.json) == ["payload"]


# --- trimmed


@pytest.fixture
def trimmed(serve: Serve, takeover: bool) -> tuple[Client, str]:
    """A server whose log retains the events 6 to 10 of ten, and the cursor of the first."""
    client = serve(takeover=takeover, log_max_events=5).client
    first = client.publish(*(envelope(number) for number in range(1, 11)))["first"]
    until(lambda: client.status()["log"]["oldest"] == 6)
    return client, first


@pytest.mark.parametrize(("position", "expected"), [(6, [7, 8, 9, 10]), (5, [6, 7, 8, 9, 10]), (10, [])])
def test_what_is_retained_is_served_from_one_before_the_oldest(
    trimmed: tuple[Client, str], position: int, expected: list[int]
) -> None:
    client, first = trimmed

    stream = client.subscribe(EVERYTHING, f"Last-Event-ID: {after(first, position - 1)}")

    assert stream.connected is not None
    assert stream.connected.properties["resumed"] is True
    assert names(missed(stream)) == [str(number) for number in expected]


@pytest.mark.parametrize("position", [4, 1, 0])
@pytest.mark.parametrize("target", [EVERYTHING, INSTANCE])
def test_a_trimmed_place_is_told_and_all_that_is_retained_follows(
    trimmed: tuple[Client, str], position: int, target: str
) -> None:
    client, first = trimmed
    asked = after(first, position - 1)

    stream = client.subscribe(target, f"Last-Event-ID: {asked}")
    expired = stream.frame()
    events = missed(stream)
    client.publish(envelope("now"))

    assert stream.connected is not None
    assert stream.connected.id is None
    assert stream.connected.properties == {
        "cursor": after(first, 4), "head": after(first, 9), "resumed": False,
    }  # fmt: skip
    assert (expired.type, expired.id) == ("server.stream.expired", None)
    assert expired.properties == {
        "requested": asked, "oldest": after(first, 5), "newest": after(first, 9), "reason": "trimmed",
    }  # fmt: skip
    assert [frame.id for frame in events] == [after(first, number) for number in range(5, 10)]
    assert stream.frame().event == "evt_now"


def test_earliest_is_the_oldest_that_is_retained(trimmed: tuple[Client, str]) -> None:
    client, first = trimmed

    stream = client.subscribe(f"{EVERYTHING}?after=earliest")

    assert stream.connected is not None
    assert (stream.connected.id, stream.connected.properties["resumed"]) == (after(first, 4), True)
    assert names(missed(stream)) == ["6", "7", "8", "9", "10"]
