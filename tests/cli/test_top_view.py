"""What `top` makes of two answers."""

import json
from typing import Any

import msgspec
import pytest

from opencode_events.cli.top.handles import Handle, Selection, read, whole
from opencode_events.cli.top.view import Snapshot, View, compare


def snapshot(at_s: float, *handles: Handle, pid: int = 1, **broker: int) -> Snapshot:
    body = json.dumps({"subscribers": [msgspec.to_builtins(handle) for handle in handles]}).encode()
    return Snapshot(url="", at_s=at_s, status={"pid": pid, "broker": broker}, handles=read(body), body=body)


def handle(number: int, **members: Any) -> Handle:
    return Handle(id=number, peer=f"127.0.0.1:{50_000 + number}", state="live", **members)


# --- rates


def test_two_looks_tell_how_much_happens_in_a_second() -> None:
    earlier = snapshot(10, handle(1, sent_events=100, sent_bytes=1_000), handle(2), published_events=50)
    later = snapshot(12, handle(1, sent_events=140, sent_bytes=1_200), handle(3, sent_events=2), published_events=90)

    compare(earlier, later)

    assert later.rates == {"published_events": 20.0, "sent_events": 21.0, "sent_bytes": 100.0}
    assert [each.events_per_s for each in later.handles] == [20.0, 1.0]


@pytest.mark.parametrize(
    "earlier",
    [None, snapshot(10, pid=2, published_events=1), snapshot(12, published_events=1)],
    ids=["the first look", "another process", "no time between"],
)
def test_there_are_no_rates_without_two_looks_at_one_process(earlier: Snapshot | None) -> None:
    later = snapshot(12, handle(1, sent_events=140), published_events=90)

    compare(earlier, later)

    assert later.rates == {}
    assert later.handles[0].events_per_s is None


# --- rows


def test_rows_are_sorted_and_turned_round() -> None:
    view = View(order="lag")
    handles = [handle(1, lag_events=5), handle(2, lag_events=9), handle(3, lag_events=9)]

    assert [each.id for each in view.rows(handles)] == [2, 3, 1]
    assert view.mark == "▼"
    view.sort_by("lag")
    assert [each.id for each in view.rows(handles)] == [1, 2, 3]
    assert view.mark == "▲"
    view.sort_by("id")
    assert (view.is_turned, view.mark) == (False, "▲")


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [("", [1, 2, 3]), ("SRV/A", [1]), ("srv live", [1, 3]), ("#2", [2]), ("catching", [2]), ("127.0 suspect", [3]),
     ("overflow", [2]), ("nobody", []), ("ndjson", [3])],
)  # fmt: skip
def test_only_those_with_all_the_words_are_shown(wanted: str, ids: list[int]) -> None:
    handles = [
        handle(1, selection=Selection(directory="/srv/A")),
        Handle(id=2, peer="[::1]:9", state="catching_up", reason="overflow_events"),
        handle(3, verdict="suspect", selection=Selection(directory="/srv/b", format="ndjson")),
    ]

    assert [each.id for each in View(order="id", wanted=wanted).rows(handles)] == ids


def test_a_number_that_another_process_gives_again_is_another_handle() -> None:
    view = View(order="id", wanted="/old")
    old, new = Selection(directory="/old"), Selection(directory="/new")
    assert view.rows([Handle(id=1, peer="a:1", selection=old)])

    assert view.rows([Handle(id=1, peer="a:2", selection=new)]) == []


def test_a_state_of_which_nothing_is_known_stands_first() -> None:
    handles = [handle(1), Handle(id=2, state="dreaming"), Handle(id=3, state="closing")]

    assert [each.id for each in View(order="state").rows(handles)] == [2, 3, 1]


# --- answers


def test_all_that_is_known_of_some_handles_is_there_when_asked_for() -> None:
    body = json.dumps({"subscribers": [{"id": 1, "new": [1]}, {"id": 2, "peer": None, "new": {"a": 2}}]}).encode()
    found = Snapshot(url="", at_s=0, status={}, handles=read(body), body=body)
    found.handles[1].events_per_s = 3.0

    assert whole(body, [0]) == [{"id": 1, "new": [1]}]
    assert found.whole([found.handles[1]]) == [{"id": 2, "peer": None, "new": {"a": 2}, "events_per_s": 3.0}]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"subscribers":1}', b'{"subscribers":[{"id":"x"}]}', b'{"closed":[]}'])
def test_what_is_no_answer_is_told(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read(body)
