"""Publishing twins: each must be the next of its aggregate, and what is out of sequence is refused by its place.

The rule itself is the log's, and is tested there.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients import JSON, NDJSON, Answer, dumps, envelope, lines
from tests.servers import Server
from tests.web.events import synced

Serve = Callable[..., Server]

SEQ = "payload.syncEvent.seq"
HEARTBEAT = {"payload": {"id": "evt_h", "type": "server.heartbeat", "properties": {}}}


def stored(server: Server) -> list[str]:
    """Return the ids in the log's file, as another process sees it."""
    with contextlib.closing(sqlite3.connect(f"file:{server.log_path}?mode=ro", uri=True)) as log:
        return [str(id_) for (id_,) in log.execute("SELECT id FROM event ORDER BY position")]


def refused(answer: Answer) -> dict[str, Any]:
    """Return the members of the refusal that `answer` must be."""
    assert answer.status == 409, answer.body
    assert answer.head["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = answer.json
    assert (document.pop("type"), document.pop("title")) == ("about:blank", "Out of sequence")
    assert document.pop("status") == 409
    assert document.pop("detail")
    return document


# --- the rule


def test_the_first_one_that_is_seen_of_an_aggregate_is_its_beginning(server: Server) -> None:
    receipt = server.client.publish(synced(1, 7), synced(2, 8), synced(3, 0, "ses_2"), synced(4, 9))

    assert (receipt["accepted"], receipt["duplicates"]) == (4, 0)


@pytest.mark.parametrize(
    ("number", "seq", "says"),
    [
        (9, 10, "ses_1 has come to 8: 9 is next, not 10"),
        (9, 2**53 - 1, "ses_1 has come to 8: 9 is next, not 9007199254740991"),
        (9, 6, "ses_1 was first seen at 7: 6 is before that"),
        (9, 0, "ses_1 was first seen at 7: 0 is before that"),
        (9, 8, "ses_1 has 8 already, under the id evt_2"),
        (9, 7, "ses_1 has 7 already, under the id evt_1"),
    ],
    ids=["a gap", "a large gap", "before the beginning", "0", "the last again", "an earlier one again"],
)
def test_what_is_out_of_sequence_is_refused_and_told_what_is_next(
    server: Server, number: int, seq: int, says: str
) -> None:
    server.client.publish(synced(1, 7), synced(2, 8))

    answer = server.client.post("/global/event", dumps(synced(number, seq)))

    assert answer.json["detail"] == says
    assert refused(answer) == {"field": SEQ}
    assert stored(server) == ["evt_1", "evt_2"]
    assert server.client.publish(synced(3, 9))["accepted"] == 1


def test_the_same_event_again_is_a_duplicate(server: Server) -> None:
    server.client.publish(synced(1, 0), synced(2, 1), synced(3, 2))

    again = server.client.publish(synced(1, 0), synced(3, 2), synced(2, 1), synced(4, 3))

    assert (again["accepted"], again["duplicates"]) == (1, 3)


def test_a_plain_event_has_no_sequence(server: Server) -> None:
    assert server.client.publish(synced(1, 0), envelope(1), envelope(9), synced(2, 1))["accepted"] == 4


def test_the_sequence_is_known_across_starts(serve: Serve) -> None:
    before = serve()
    before.client.publish(synced(1, 0), synced(2, 1))
    before.stop()
    client = serve().client

    assert refused(client.post("/global/event", dumps(synced(4, 3)))) == {"field": SEQ}
    receipt = client.publish(synced(2, 1), synced(3, 2))
    assert (receipt["accepted"], receipt["duplicates"]) == (1, 1)


def test_an_instance_s_payload_names_the_member_from_its_own_top(server: Server) -> None:
    target = "/event?directory=/d"
    for body, content_type, place in (
        (dumps(synced(1, 0)["payload"]), JSON, {}),
        (dumps([synced(2, 1)["payload"], synced(4, 3)["payload"]]), JSON, {"index": 1}),
        (lines([synced(4, 3)["payload"]]), NDJSON, {"line": 1}),
    ):
        answer = server.client.post(target, body, content_type)
        if place:
            assert place.items() | {"field": "syncEvent.seq"}.items() <= refused(answer).items()
        else:
            assert answer.status == 200
    assert stored(server) == ["evt_1"]


# --- where it stands


@pytest.mark.parametrize(
    ("items", "index"),
    [
        ([synced(2, 5)], 0),
        ([synced(2, 1), synced(3, 3)], 1),
        ([HEARTBEAT, envelope(5), HEARTBEAT, synced(2, 1), HEARTBEAT, synced(3, 3), HEARTBEAT, synced(4, 9)], 5),
        ([envelope(1), envelope(1), synced(1, 0), synced(3, 3)], 3),
        ([synced(2, 1), synced(3, 2), synced(9, 1)], 2),
    ],
    ids=["alone", "behind a good one", "among skipped ones", "behind duplicates", "against its own array"],
)
def test_of_an_array_nothing_is_taken_and_the_item_is_named(
    server: Server, items: list[dict[str, Any]], index: int
) -> None:
    stream = server.client.subscribe()
    server.client.publish(synced(1, 0))

    answer = server.client.post("/global/event", dumps(items))

    assert refused(answer) == {"field": SEQ, "index": index}
    assert stored(server) == ["evt_1"]
    assert server.client.publish(synced("next", 1))["accepted"] == 1
    assert [frame.event for frame in stream.frames(2)] == ["evt_1", "evt_next"]


def test_of_lines_what_stands_before_it_is_stored_and_counted(server: Server) -> None:
    stream = server.client.subscribe()
    body = (
        lines([synced(1, 0), HEARTBEAT])
        + b"\n \r\n"
        + lines([envelope(2), envelope(2), synced(3, 1)])
        + b"\n"
        + lines([HEARTBEAT, synced(4, 3), envelope(5), synced(6, 2)])
    )

    answer = server.client.post("/global/event", body, NDJSON)
    server.client.publish(envelope("after"))

    frames = stream.frames(4)
    assert [frame.event for frame in frames] == ["evt_1", "evt_2", "evt_3", "evt_after"]
    assert refused(answer) == {
        "field": SEQ, "line": 10, "accepted": 3, "duplicates": 1, "skipped": 2, "first": frames[0].id,
        "last": frames[2].id,
    }  # fmt: skip
    assert stored(server) == ["evt_1", "evt_2", "evt_3", "evt_after"]


@pytest.mark.parametrize("bad", [0, 249, 250, 251, 700])
def test_lines_are_counted_from_the_first_however_many_there_are(server: Server, bad: int) -> None:
    values = [synced(number, number) for number in range(800)]
    values[bad] = synced("bad", bad + 1) if bad else synced("bad", 0, "ses_0")
    if not bad:
        server.client.publish(synced("other", 3, "ses_0"))

    document = refused(server.client.post("/global/event", lines(values), NDJSON))

    assert (document["line"], document["accepted"]) == (bad + 1, bad)
    assert len(stored(server)) == bad + (not bad)


def test_a_line_that_is_no_event_does_not_hide_one_out_of_sequence_before_it(server: Server) -> None:
    body = lines([synced(1, 0), synced(3, 2), synced(2, 1)]) + b"{bad\n"

    document = refused(server.client.post("/global/event", body, NDJSON))

    assert (document["line"], document["accepted"]) == (2, 1)
    assert stored(server) == ["evt_1"]


def test_it_is_logged_with_its_place(server: Server) -> None:
    server.client.post("/global/event", dumps([HEARTBEAT, synced(1, 0), synced(2, 2)]))
    server.client.post("/global/event", lines([synced(1, 0), synced(2, 2)]), NDJSON)

    rejected = [line for line in server.lines if line["event"] == "publish.rejected"]
    assert [(line["status"], line["field"], line["index"], line["line"]) for line in rejected] == [
        (409, SEQ, 2, None),
        (409, SEQ, None, 2),
    ]
