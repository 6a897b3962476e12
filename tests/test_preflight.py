"""What is a preflight: it is let in by whoever it comes from, so it must be no more than one."""

import pytest
from multidict import CIMultiDict

from opencode_events.preflight import is_preflight

ASKS = (("Origin", "http://localhost:1"), ("access-control-request-method", "PUT"))


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("OPTIONS", ASKS, True),
        ("OPTIONS", (*ASKS, ("Content-Length", "0")), True),
        ("GET", ASKS, False),
        ("options", ASKS, False),
        ("OPTIONS", ASKS[:1], False),
        ("OPTIONS", ASKS[1:], False),
        ("OPTIONS", (*ASKS, ("content-length", "1")), False),
        ("OPTIONS", (*ASKS, ("content-length", "00")), False),
        ("OPTIONS", (*ASKS, ("Transfer-Encoding", "chunked")), False),
    ],
)
def test_a_preflight_is_a_page_s_question_and_has_no_body(
    method: str, fields: tuple[tuple[str, str], ...], expected: bool
) -> None:
    assert is_preflight(method, CIMultiDict(fields)) is expected
