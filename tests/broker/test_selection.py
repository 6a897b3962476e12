"""Which events a selection lets through."""

import re
from typing import Any

import pytest

from opencode_events.broker.selection import REMEMBERED, Selection
from opencode_events.events import Event
from tests.samples import disposal, event, make, twin

GAP = make(b'{"payload":{"id":"e","type":"a","properties":{}}}')._replace(type="server.stream.gap")


def matches(found: Event, stream: str = "global", **filters: Any) -> bool:
    sets = {name: value if isinstance(value, str) else frozenset(value) for name, value in filters.items()}
    matcher = Selection(stream=stream, **sets).matcher()  # type: ignore[arg-type]  # one of the two names
    return matcher is None or matcher(found)


def test_without_filters_there_is_nothing_to_test() -> None:
    assert Selection(stream="global").matcher() is None
    assert Selection(stream="global", form="ndjson").matcher() is None
    assert Selection(stream="instance", directory="/srv/a").matcher() is None


@pytest.mark.parametrize(
    ("globs", "kind", "is_wanted"),
    [
        ({"session.idle"}, "session.idle", True),
        ({"session.idle"}, "session.idles", False),
        ({"session.idle"}, "xsession.idle", False),
        ({"session.idle"}, "session_idle", False),
        ({"message.*"}, "message.updated", True),
        ({"message.*"}, "message.part.delta", True),
        ({"message.*"}, "message", False),
        ({"*"}, "a\nb", True),
        ({"*.updated"}, "message.part.updated", True),
        ({"session.?dle"}, "session.idle", True),
        ({"session.[ij]dle"}, "session.jdle", True),
        ({"session.[!i]dle"}, "session.idle", False),
        ({"a", "b.*"}, "b.c", True),
        ({"a", "b.*"}, "c", False),
        ({"Session.idle"}, "session.idle", False),
        ({"a|b"}, "b", False),
        ({"(a"}, "(a", True),
        ({"[a"}, "[a", True),
    ],
)
def test_types_are_globs_of_the_whole_type(globs: set[str], kind: str, is_wanted: bool) -> None:
    assert matches(event(kind=kind), types=globs) is is_wanted


def test_a_twin_is_tested_by_its_type_without_its_version() -> None:
    assert matches(twin(kind="session.updated.1"), types={"session.updated"})
    assert not matches(twin(kind="session.updated.1"), types={"session.updated.1"})
    assert not matches(twin(kind="session.updated.1"), types={"sync"})


@pytest.mark.parametrize(
    ("sync", "is_twin", "is_wanted"),
    [("all", True, True), ("all", False, True), ("none", True, False), ("none", False, True), ("only", True, True),
     ("only", False, False)],
)  # fmt: skip
def test_sync_takes_or_leaves_the_twins(sync: str, is_twin: bool, is_wanted: bool) -> None:
    assert matches(twin() if is_twin else event(), sync=sync) is is_wanted


@pytest.mark.parametrize("sync", ["all", "none"])
def test_an_instance_s_events_are_not_tested_for_twins(sync: str) -> None:
    """Its events are found by directory, and twins are none of them: whatever is asked for, there is nothing left."""
    found = Selection(stream="instance", directory="/srv/a", sync=sync)  # type: ignore[arg-type]  # two of the names

    assert found.matcher() is None


def test_the_instance_called_global_has_no_events() -> None:
    assert not matches(event(directory="global"), stream="instance", directory="global")
    assert not matches(disposal(directory="global"), stream="instance", directory="global")


@pytest.mark.parametrize("found", [event(session="ses_1"), twin(session="ses_1")], ids=["plain", "twin"])
def test_a_session_is_a_property_or_a_twin_s_aggregate(found: Event) -> None:
    assert matches(found, sessions={"ses_1"})
    assert matches(found, sessions={"ses_2", "ses_1"})
    assert not matches(found, sessions={"ses_2"})


def test_an_event_without_a_session_belongs_to_none() -> None:
    assert not matches(event(session=None), sessions={"ses_1"})


def test_a_workspace_leaves_out_other_ones_and_not_events_without() -> None:
    assert matches(event(workspace="w"), workspaces={"w", "v"})
    assert not matches(event(workspace="w"), workspaces={"v"})
    assert matches(event(workspace=None), workspaces={"v"})
    assert not matches(event(workspace=""), workspaces={"v"})


def test_filters_are_one_and_another() -> None:
    filters: dict[str, Any] = {"sessions": {"ses_1"}, "types": {"session.*"}, "workspaces": {"w"}, "sync": "none"}

    assert matches(event(kind="session.idle", session="ses_1", workspace="w"), **filters)
    assert not matches(event(kind="message.updated", session="ses_1", workspace="w"), **filters)
    assert not matches(event(kind="session.idle", session="ses_2", workspace="w"), **filters)
    assert not matches(event(kind="session.idle", session="ses_1", workspace="v"), **filters)
    assert not matches(twin(kind="session.idle.1", session="ses_1", workspace="w"), **filters)


@pytest.mark.parametrize("found", [disposal(), GAP], ids=["disposed", "gap"])
@pytest.mark.parametrize(
    "filters",
    [{"types": {"nothing"}}, {"sessions": {"ses_9"}}, {"workspaces": {"w"}}, {"sync": "only"}, {"sync": "none"}],
    ids=["types", "session", "workspace", "sync only", "sync none"],
)
def test_what_everybody_must_hear_passes_every_filter(found: Event, filters: dict[str, Any]) -> None:
    assert matches(found._replace(workspace="v"), **filters)


def test_a_twin_by_such_a_name_does_not() -> None:
    assert not matches(twin(kind="server.instance.disposed.1"), types={"nothing"})


def test_types_that_are_minted_without_end_are_still_judged() -> None:
    matcher = Selection(stream="global", types=frozenset({"*.7"})).matcher()
    assert matcher is not None
    kinds = [f"t.{number}" for number in range(REMEMBERED + 10)]
    plain = event()

    for _ in range(2):
        found = [kind for kind in kinds if matcher(plain._replace(type=kind))]
        assert found == [kind for kind in kinds if re.search(r"\.7$", kind)]


def test_who_wants_the_same_has_the_same_selection() -> None:
    one = Selection(stream="global", types=frozenset(["a", "b"]))

    assert one == Selection(stream="global", types=frozenset(["b", "a"]))
    assert len({one, Selection(stream="global", types=frozenset(["b", "a"])), Selection(stream="global")}) == 2
