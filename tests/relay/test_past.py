"""Rows of a history become the events that they were."""

import json
from typing import Any

import pytest

from opencode_events import events
from opencode_events.errors import RequestError
from opencode_events.eventlog.base import Aggregate
from opencode_events.events import Event
from opencode_events.relay import past
from tests.clients import dumps
from tests.samples import LIMIT, recorded

PLACE = Aggregate(0, "/srv/a", "prj_a")


def row(**changes: Any) -> bytes:
    known = {"id": "evt_1", "aggregate_id": "ses_1", "seq": 3, "type": "message.updated.1", "data": {"sessionID": "s"}}
    return dumps(known | changes)


def test_the_twins_of_a_recorded_event_are_those_that_were_sent() -> None:
    by_id: dict[str, list[bytes]] = {}
    for line in recorded():
        by_id.setdefault(json.loads(line)["payload"]["id"], []).append(line)
    pairs = [lines for lines in by_id.values() if len(lines) == 2]
    assert len(pairs) >= 7
    for plain, sync in pairs:
        envelope = json.loads(sync)
        inner = envelope["payload"]["syncEvent"]
        text = dumps(
            {"id": inner["id"], "aggregate_id": inner["aggregateID"], "seq": inner["seq"], "type": inner["type"]}
            | {"data": inner["data"]}
        )
        place = Aggregate(0, envelope["directory"], envelope["project"])

        made = past.both_twins(past.read_row(text), place, LIMIT)

        assert [one.envelope for one in made] == [
            events.parse_global(line, LIMIT).envelope  # type: ignore[union-attr]
            for line in (plain, sync)
        ]


def test_the_plain_one_is_first_and_both_can_be_told_apart() -> None:
    plain, sync = past.both_twins(past.read_row(row()), PLACE._replace(workspace="wrk_1"), LIMIT)

    assert (plain.id, plain.type, plain.is_sync, plain.session) == ("evt_1", "message.updated", False, "s")
    assert (sync.id, sync.type, sync.is_sync, sync.aggregate, sync.seq) == (
        "evt_1",
        "message.updated",
        True,
        "ses_1",
        3,
    )
    assert {(one.directory, one.workspace) for one in (plain, sync)} == {("/srv/a", "wrk_1")}


@pytest.mark.parametrize("place", [Aggregate(0), Aggregate(0, "")], ids=["unknown", "nowhere"])
def test_an_event_without_a_home_has_no_directory(place: Aggregate) -> None:
    found = past.both_twins(past.read_row(row()), place, LIMIT)

    assert [one.directory for one in found] == [None, None]
    assert [list(json.loads(one.envelope)) for one in found] == [["payload"], ["payload"]]


def test_data_is_kept_to_the_letter() -> None:
    data = r'{"b": 1.0, "a":[ "\u00e9", "\ud83d", "é\ud83d\ude00" ],"b":2}'
    text = row(data="@").replace(b'"@"', data.encode())
    plain, sync = past.both_twins(past.read_row(text), PLACE, LIMIT)

    assert b'"properties":' + data.encode() in plain.envelope
    assert b'"data":' + data.encode() in sync.envelope


def test_a_row_over_several_lines_is_put_on_one() -> None:
    text = json.dumps(json.loads(row(data={"a": "b c"})), indent=2).encode()

    assert bytes(past.read_row(text).data) == b'{"a":"b c"}'


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b"[]", b"{", b"[" * 100_000, row(id=""), row(id=7), row(aggregate_id=""), row(seq=-1),
        row(seq=2**53), row(seq=1.5), row(type=""), row().replace(b"evt", b"\xff"),
        row(data="@").replace(b'"@"', b"[" * 100_000),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_what_is_no_row_raises(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a row"):
        past.read_row(text)


@pytest.mark.parametrize("kind", [".1", "x" * 300, "server.stream.gap.1", "server.connected"])
def test_a_row_that_cannot_be_an_event_is_none_or_refused(kind: str) -> None:
    found: list[Event] = []
    try:
        found = past.both_twins(past.read_row(row(type=kind)), PLACE, LIMIT)
    except RequestError:
        pass
    assert [one for one in found if not one.is_sync] == []


def test_a_twin_over_the_limit_is_refused() -> None:
    found = past.read_row(row(data={"pad": "x" * 100}))
    longest = max(len(one.envelope) for one in past.both_twins(found, PLACE, LIMIT))

    assert len(past.both_twins(found, PLACE, longest)) == 2
    with pytest.raises(RequestError):
        past.both_twins(found, PLACE, longest - 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"info": {"directory": "/srv/b", "projectID": "prj_b", "workspaceID": "wrk_b"}}, ("/srv/b", "prj_b", "wrk_b")),
        ({"info": {"directory": "/srv/b", "projectID": 7}}, ("/srv/b", None, None)),
        ({"info": {"directory": ""}}, None),
        ({"info": {"directory": 7}}, None),
        ({"info": {"id": "msg_1"}}, None),
        ({"info": "text"}, None),
        ({"info": None}, None),
        ({}, None),
        ([], None),
        ("\ud800", None),
    ],
    ids=ascii,
)
def test_a_sessions_own_event_tells_its_home(data: object, expected: tuple[str, str | None, str | None] | None) -> None:
    text = json.dumps(json.loads(row()) | {"data": data}).encode()
    found = past.place_in(past.read_row(text))

    assert found == (None if expected is None else Aggregate(3, *expected))


def test_data_that_is_not_utf_8_tells_no_home_and_is_no_event() -> None:
    found = past.read_row(row(data={"info": {"directory": "@"}}).replace(b"@", b"\xff"))

    assert past.place_in(found) is None
    with pytest.raises(RequestError):
        past.both_twins(found, PLACE, LIMIT)
