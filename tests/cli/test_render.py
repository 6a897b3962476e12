"""A line for a person is one line, fits, and cannot steer the terminal."""

import json
from datetime import datetime

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.cli import render

AT = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - only the clock face is shown


def shown(data: str, width: int = 160) -> str:
    return click.unstyle(render.line(render.read(data), AT, width))


def test_a_global_event_has_its_columns() -> None:
    data = (
        '{"directory":"/srv/proj-a","project":"p","payload":{"id":"evt_1","type":"session.idle",'
        '"properties":{"sessionID":"ses_0123456789abcdef","n":1}}}'
    )

    assert shown(data) == '03:04:05 proj-a       session.idle …6789abcdef {"n":1}'


def test_an_instance_event_has_no_directory() -> None:
    assert shown('{"id":"evt_1","type":"session.idle","properties":{"sessionID":"ses_1"}}') == (
        "03:04:05 -            session.idle ses_1 {}"
    )


def test_a_sync_twin_shows_its_own_type_and_data() -> None:
    data = json.dumps(
        {
            "directory": "/",
            "payload": {
                "type": "sync",
                "id": "evt_1",
                "syncEvent": {
                    "type": "session.updated.1",
                    "seq": 1,
                    "aggregateID": "ses_1",
                    "data": {"sessionID": "ses_1"},
                },
            },
        }
    )

    assert shown(data) == "03:04:05 /            session.updated.1 (sync) ses_1 {}"


@pytest.mark.parametrize(
    ("kind", "is_control"),
    [
        ("server.connected", True),
        ("server.heartbeat", True),
        ("server.stream.closing", True),
        ("server.stream.gap", False),
        ("server.instance.disposed", False),
        ("session.idle", False),
    ],
)
def test_control_frames_are_told_from_events(kind: str, is_control: bool) -> None:
    assert render.read(json.dumps({"payload": {"type": kind, "properties": {}}})).is_control == is_control


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '{"payload":1}',
        '{"payload":{"type":1,"properties":[]}}',
        "[" * 100_000,
        '{"type":"sync"}',
    ],
    ids=["empty", "cut", "a list", "a number", "null", "payload", "type", "deep", "no syncEvent"],
)
def test_what_is_no_event_is_shown_all_the_same(data: str) -> None:
    assert shown(data).startswith("03:04:05")


def test_escape_sequences_are_shown_and_not_sent() -> None:
    data = json.dumps(
        {
            "directory": "/x/\x1b]0;title\x07",
            "payload": {"type": "a\nb\x9b31m", "properties": {"sessionID": "\r\ud800", "text": "\u202e\x7f\u009d"}},
        }
    )

    assert shown(data) == (r'03:04:05 \x1b]0;title\x07 a\nb\x9b31m \r\ud800 {"text":"\u202e\x7f\x9d"}')


@given(st.dictionaries(st.text(), st.text()), st.text(), st.text(), st.integers(1, 200))
def test_whatever_is_in_an_event_its_line_is_printable(
    properties: dict[str, str], kind: str, directory: str, width: int
) -> None:
    data = json.dumps({"directory": directory, "payload": {"type": kind, "properties": properties}})

    assert shown(data, width).isprintable()


@given(st.text(min_size=1, max_size=300), st.integers(60, 200))
def test_a_line_fits_its_width(text: str, width: int) -> None:
    data = json.dumps({"payload": {"type": "session.idle", "properties": {"text": text}}})

    assert len(shown(data, width)) <= width


def test_what_does_not_fit_ends_in_an_ellipsis() -> None:
    data = json.dumps({"payload": {"type": "t", "properties": {"text": "x" * 500}}})

    assert shown(data, 60).endswith("x…")
    assert len(shown(data, 60)) == 60


def test_a_family_of_types_has_one_colour() -> None:
    assert render.type_color("message.updated") == render.type_color("message.part.delta")
    assert render.type_color("\ud800")
