"""Which pages may read, and what a preflight is told."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from opencode_events.web.cors import Cors

CORS = Cors(frozenset(["https://dash.example", "http://10.0.0.1:8080"]))


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost", "http://localhost:3000", "http://localhost:65535", "http://127.0.0.1", "http://127.0.0.1:4096",
        "https://app.opencode.ai", "tauri://localhost", "https://dash.example", "http://10.0.0.1:8080",
    ],
)  # fmt: skip
def test_origins_of_this_machine_of_opencode_and_of_the_configuration_may(origin: str) -> None:
    assert CORS.is_allowed(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "", "null", "*", "https://localhost", "http://localhost.example", "http://localhost:1@evil.example",
        "http://evil.example/http://localhost", "http://localhost:", "http://localhost:3000/", "http://localhost:123456",
        "http://LOCALHOST", "http://127.0.0.10", "http://127a0b0c1", "https://app.opencode.ai.example",
        "https://appxopencode.ai", "https://app.opencode.ai:8443", "tauri://localhost:1", "https://sub.dash.example",
        "http://dash.example", "http://10.0.0.1", "http://localhost\n", "http://localhost:\u0663",
    ],
)  # fmt: skip
def test_other_origins_may_not(origin: str) -> None:
    assert not CORS.is_allowed(origin)


def answered(**headers: str) -> CIMultiDict[str]:
    fields: CIMultiDict[str] = CIMultiDict()
    CORS.allow(make_mocked_request("GET", "/event", headers=headers), fields)
    return fields


def test_an_allowed_origin_is_named_back() -> None:
    assert answered(Origin="http://localhost:3000") == {
        "Vary": "Origin",
        "Access-Control-Allow-Origin": "http://localhost:3000",
    }


@pytest.mark.parametrize("headers", [{}, {"Origin": "https://evil.example"}], ids=["no origin", "another one"])
def test_whoever_may_not_gets_no_header_but_caches_are_told(headers: dict[str, str]) -> None:
    assert answered(**headers) == {"Vary": "Origin"}


async def preflight(asked: str | None) -> CIMultiDict[str]:
    headers = {} if asked is None else {"Access-Control-Request-Headers": asked}
    response = await CORS.preflight(make_mocked_request("OPTIONS", "/event", headers=headers))
    assert response.status == 204
    return CIMultiDict(response.headers)


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("last-event-id", "last-event-id"),
        ("Last-Event-ID,Authorization", "last-event-id, authorization"),
        ("x-opencode-directory, x-opencode-anything", "x-opencode-directory, x-opencode-anything"),
        ("content-type, x-evil, accept, cache-control", "content-type, accept, cache-control"),
        ("x-evil", None),
        ("x-opencode", None),
        ("*", None),
        ("", None),
        (None, None),
    ],
)
async def test_a_preflight_allows_the_headers_that_are_known(asked: str | None, allowed: str | None) -> None:
    headers = await preflight(asked)

    assert headers.get("Access-Control-Allow-Headers") == allowed
    assert headers["Access-Control-Max-Age"] == "86400"
    assert {"GET", "POST"} <= set(headers["Access-Control-Allow-Methods"].split(", "))
