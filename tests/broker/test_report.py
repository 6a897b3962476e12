"""What people are told of a handle: one object while it is there, one line when it is over."""

from typing import Any

import pytest

from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.report import farewell, report
from opencode_events.broker.selection import Selection
from opencode_events.wire import Format
from tests.broker.fakes import FakeConnection, FakeOwner, segment


@pytest.mark.parametrize("form", ["sse", "ndjson"])
def test_a_report_tells_what_it_is_and_has(form: Format) -> None:
    owner = FakeOwner()
    selection = Selection(
        stream="global", form=form, sessions=frozenset(["b", "a"]), types=frozenset(["t"]), sync="none",
        workspaces=frozenset(["w"]),
    )  # fmt: skip
    handle = owner.subscriber(position=7, selection=selection, end="abort", on_overflow="catchup")
    owner.head_position = 10
    owner.advance(2.5)
    handle.deliver(segment(8, events=3, size=100))

    assert report(handle, owner) == {
        "id": 1, "peer": "192.0.2.1:5", "state": "live", "reason": None,
        "selection": {
            "stream": "global", "format": form, "directory": None, "session": ["a", "b"], "types": ["t"],
            "sync": "none", "workspace": ["w"], "within": None,
        },
        "on_overflow": "catchup", "end": "abort", "open_s": 2.5, "is_parked": True, "queued_events": 3,
        "queued_bytes": 100, "queued_s": 0.0, "peak_queued_events": 3, "peak_queued_bytes": 100, "transport_bytes": 0,
        "sent_events": 0, "sent_bytes": 0, "cursor": "0123456789-7", "lag_events": 3,
    }  # fmt: skip


def told(handle_state: State, owner: FakeOwner, connection: FakeConnection) -> dict[str, Any]:
    return report(owner.subscriber(connection, state=handle_state), owner)


def test_one_that_was_given_nothing_has_no_backlog_to_tell_of() -> None:
    found = told(State.LIVE, FakeOwner(), FakeConnection())

    assert [found[key] for key in ("queued_events", "queued_bytes", "peak_queued_events", "peak_queued_bytes")] == (
        [0] * 4
    )
    assert (found["is_parked"], found["transport_bytes"]) == (False, 0)


@pytest.mark.parametrize(("state", "name"), [(State.REPLAYING, "replaying"), (State.CATCHING_UP, "catching_up")])
def test_one_that_is_behind_says_which_way_it_came_there(state: State, name: str) -> None:
    owner = FakeOwner()
    owner.head_position = 1000
    found = told(state, owner, FakeConnection())

    assert (found["state"], found["lag_events"]) == (name, 1000)


def test_a_parked_one_tells_what_its_transport_holds() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=100)
    handle = owner.subscriber(connection)
    handle.deliver(segment(1, size=150))
    found = report(handle, owner)

    assert (found["is_parked"], found["transport_bytes"], found["sent_bytes"]) == (True, 50, 150)


def test_the_last_line_has_what_it_was_given_and_the_most_that_ever_waited() -> None:
    owner, connection = FakeOwner(), FakeConnection(room=1)
    handle = owner.subscriber(connection)
    handle.deliver(segment(1, events=2, size=100))
    handle.deliver(segment(2, events=3, size=70))
    connection.make_room(None)
    handle.lost(Reason.CLIENT_CLOSED)

    assert farewell(handle, 1.2341) == {
        "subscriber": 1, "peer": "192.0.2.1:5", "reason": "client_closed", "open_s": 1.234, "sent_events": 5,
        "sent_bytes": 170, "peak_queued_events": 3, "peak_queued_bytes": 100,
    }  # fmt: skip
