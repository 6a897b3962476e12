"""Settings are declared once; a group refuses what is out of bounds, and cannot be changed."""

import dataclasses
from collections.abc import Callable

import pytest

from opencode_events import settings
from opencode_events.errors import SettingError
from opencode_events.settings import BrokerSettings, EventLogSettings, ServerSettings, Settings

SPECS = settings.specs()


def test_every_setting_has_a_reason_and_a_name_of_its_own() -> None:
    fields = sum(len(dataclasses.fields(group)) for group in settings.GROUPS.values())

    assert len(SPECS) == fields, "two groups use one name"
    assert all(spec.reason.endswith(".") for spec in SPECS.values())


def test_names_are_made_from_the_field() -> None:
    spec = SPECS["max_event_bytes"]

    assert (spec.flag, spec.env) == ("--max-event-bytes", "OPENCODE_EVENTS_MAX_EVENT_BYTES")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BrokerSettings(backlog_events=0), "backlog_events: must be at least 1, not 0"),
        (lambda: ServerSettings(port=65_536), "port: must be at most 65535, not 65536"),
        (lambda: EventLogSettings(durability="Full"), "durability: must be one of normal, full, not 'Full'"),
    ],
    ids=["too small", "too large", "not a choice"],
)
def test_a_group_refuses_what_is_out_of_bounds(make: Callable[[], object], says: str) -> None:
    with pytest.raises(SettingError) as refused:
        make()

    assert str(refused.value) == says
