"""Errors say what a person, and a problem document, need."""

import pytest

from opencode_events import errors
from opencode_events.errors import OpencodeEventsError


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.SettingError("port", "must be a number"), "port: must be a number"),
        (errors.SettingError("port", "must be a number", source="--port"), "port (--port): must be a number"),
        (errors.InvalidEvent("must not be empty", field="id"), "must not be empty"),
        (errors.Busy("too many", retry_after_s=5), "too many"),
        (errors.LogUnavailable("disk full"), "the event log cannot be written: disk full"),
        (errors.DaemonError("runs already"), "runs already"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_one_sentence(error: OpencodeEventsError, sentence: str) -> None:
    assert str(error) == sentence
    assert error.counts == {}


def test_a_problem_has_the_members_that_are_known_also_where_they_are_nought() -> None:
    assert errors.InvalidEvent("x").members() == {}
    assert errors.TooLarge("x", limit=0, index=0).members() == {"limit": 0, "index": 0}
    assert errors.InvalidEvent("x", field="id", line=3).members() == {"field": "id", "line": 3}


@pytest.mark.parametrize(
    ("kind", "status"),
    [(errors.InvalidEvent, 400), (errors.InvalidFilter, 400), (errors.TooLarge, 413), (errors.UnsupportedMedia, 415)],
)
def test_an_error_of_the_caller_s_has_its_status(kind: type[errors.RequestError], status: int) -> None:
    assert kind.status == status
