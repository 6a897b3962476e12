"""What a subscriber has seen, against what upstream says has happened.

Durable events are numbered for each session. Upstream sends each twice: plain, then as its `sync` twin.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from tests.real.opencode import Opencode

Payload = dict[str, Any]
CONTROL = ("server.connected", "server.heartbeat", "server.stream.")


def events(payloads: Iterable[Payload]) -> list[Payload]:
    """Return those that are no control frames."""
    return [each for each in payloads if not each["type"].startswith(CONTROL)]


def key(payload: Payload) -> tuple[str, bool]:
    """Return what no two events have in common."""
    return payload["id"], payload["type"] == "sync"


def history(opencode: Opencode, session: str) -> list[dict[str, Any]]:
    """Return a session's durable events, as upstream has them."""
    answer = opencode.client.send(
        "POST", "/sync/history", b"{}", Content_Type="application/json", **opencode.credentials
    )
    assert answer.status == 200, answer.body
    return sorted((each for each in answer.json if each["aggregate_id"] == session), key=lambda each: int(each["seq"]))


def assert_whole(payloads: Sequence[Payload], opencode: Opencode, session: str) -> None:
    """Of this session all durable events were seen, each in its two forms, once, in order, as upstream has them.

    But for those that have happened since: upstream sums an answer up when it is over.
    """
    wanted = [each for each in history(opencode, session) if each["id"] <= payloads[-1]["id"]]
    ids = {each["id"] for each in wanted}
    seen = [each for each in payloads if each.get("id") in ids]
    twins = [each["syncEvent"] for each in seen if each["type"] == "sync"]
    plain = [each for each in seen if each["type"] != "sync"]
    assert [each["seq"] for each in twins] == [each["seq"] for each in wanted]
    assert [(each["id"], each["type"], each["data"]) for each in twins] == [
        (each["id"], each["type"], each["data"]) for each in wanted
    ]
    assert [(each["id"], each["type"], each["properties"]) for each in plain] == [
        (each["id"], each["type"].rpartition(".")[0], each["data"]) for each in twins
    ]
