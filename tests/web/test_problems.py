"""Every error of ours is a problem document (RFC 9457), readable by the page that caused it."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from opencode_events.errors import (
    Busy,
    InvalidEvent,
    InvalidFilter,
    InvalidQuery,
    LogUnavailable,
    OpencodeEventsError,
    OutOfSequence,
    TooLarge,
    TooMany,
    UnsupportedMedia,
)
from opencode_events.web.access import Access
from opencode_events.web.connections import Connections
from opencode_events.web.cors import Cors
from opencode_events.web.memory import Memory
from opencode_events.web.problems import Guard, problem, refusal


def document(response: web.StreamResponse) -> dict[str, Any]:
    assert isinstance(response, web.Response)
    assert response.content_type == "application/problem+json"
    assert isinstance(response.body, bytes)
    found: dict[str, Any] = json.loads(response.body)
    assert found["status"] == response.status
    assert found["type"] == "about:blank"
    return found


def guard() -> Guard:
    cors = Cors(frozenset())
    return Guard(Access(None, frozenset(), cors), cors, Connections(), Memory(0), max_head_bytes=16_384)


async def answer(error: Exception, **headers: str) -> web.StreamResponse:
    """Return what a handler that raises `error` is made to answer."""

    async def handler(request: web.Request) -> web.StreamResponse:
        raise error

    return await guard()(handler)(make_mocked_request("GET", "/event", headers={"Host": "localhost", **headers}))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            InvalidEvent("must not be empty", field="payload.id", line=3),
            {"status": 400, "title": "Invalid event", "detail": "must not be empty", "field": "payload.id", "line": 3},
        ),
        (
            InvalidEvent("not JSON", index=0),
            {"status": 400, "title": "Invalid event", "detail": "not JSON", "index": 0},
        ),
        (
            InvalidFilter("types has an empty value", field="types"),
            {"status": 400, "title": "Invalid subscription", "detail": "types has an empty value", "field": "types"},
        ),
        (
            InvalidQuery("not -1", field="ses_1"),
            {"status": 400, "title": "Invalid query", "detail": "not -1", "field": "ses_1"},
        ),
        (
            OutOfSequence("7 is next", field="payload.syncEvent.seq", line=2),
            {
                "status": 409,
                "title": "Out of sequence",
                "detail": "7 is next",
                "field": "payload.syncEvent.seq",
                "line": 2,
            },
        ),
        (TooLarge("over", limit=4), {"status": 413, "title": "Too large", "detail": "over", "limit": 4}),
        (
            UnsupportedMedia("gzip", field="Content-Encoding"),
            {"status": 415, "title": "Unsupported media type", "detail": "gzip", "field": "Content-Encoding"},
        ),
        (Busy("full", retry_after_s=5, limit=10), {"status": 503, "title": "Busy", "detail": "full", "limit": 10}),
        (Busy("closing", retry_after_s=1), {"status": 503, "title": "Busy", "detail": "closing"}),
        (
            LogUnavailable("disk full"),
            {"status": 503, "title": "Event log unavailable", "detail": "the event log cannot be written: disk full"},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_an_error_tells_what_is_known_of_it(error: OpencodeEventsError, expected: dict[str, Any]) -> None:
    assert document(await answer(error)) == {"type": "about:blank"} | expected


@pytest.mark.parametrize(
    ("error", "seconds"), [(Busy("full", retry_after_s=5), "5"), (LogUnavailable("full", retry_after_s=7), "7")]
)
async def test_what_may_pass_says_when_to_come_again(error: OpencodeEventsError, seconds: str) -> None:
    assert (await answer(error)).headers["Retry-After"] == seconds


@pytest.mark.parametrize(
    "error",
    [InvalidEvent("x"), LogUnavailable("x"), Busy("x", retry_after_s=1)],
    ids=lambda error: type(error).__name__,
)
async def test_what_was_done_before_the_error_is_told(error: OpencodeEventsError) -> None:
    error.counts = {"accepted": 2, "last": None}
    found = document(await answer(error))

    assert (found["accepted"], found["last"]) == (2, None)


async def test_an_error_can_be_read_by_the_page_that_caused_it() -> None:
    response = await answer(InvalidEvent("x"), Origin="http://localhost:3000")

    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert response.headers["Vary"] == "Origin"


async def test_a_good_answer_passes_with_the_headers_for_pages() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="fine")

    headers = {"Host": "localhost", "Origin": "http://localhost"}
    response = await guard()(handler)(make_mocked_request("GET", "/event", headers=headers))
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, "http://localhost")


async def test_a_bug_of_ours_has_the_same_form_and_its_trace_only_in_the_log() -> None:
    with capture_logs() as lines:
        found = document(await answer(ZeroDivisionError("a secret")))

    assert (found["status"], found["title"]) == (500, "Internal error")
    assert "secret" not in str(found)
    assert [(line["event"], line["log_level"], line["path"]) for line in lines] == [
        ("request.failed", "error", "/event")
    ]


@pytest.mark.parametrize("error", [web.RequestPayloadError("cut"), ConnectionResetError("gone")], ids=["cut", "gone"])
async def test_a_body_that_breaks_off_is_the_caller_s_doing(error: Exception) -> None:
    with capture_logs() as lines:
        assert document(await answer(error))["status"] == 400

    assert lines == []


async def test_an_answer_of_aiohttp_s_own_passes() -> None:
    with pytest.raises(web.HTTPNotFound):
        await answer(web.HTTPNotFound())


async def test_whoever_gives_up_is_not_answered() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await guard()(handler)(make_mocked_request("GET", "/event", headers={"Host": "localhost"}))


@pytest.mark.parametrize(
    ("status", "allow"), [(HTTPStatus.NOT_FOUND, ""), (HTTPStatus.METHOD_NOT_ALLOWED, "GET, OPTIONS")]
)
async def test_unknown_paths_and_methods_get_a_problem_too(status: HTTPStatus, allow: str) -> None:
    response = await refusal(status, allow=allow)(make_mocked_request("PUT", "/nowhere"))

    assert document(response)["title"] == status.phrase
    assert document(response)["detail"].startswith("PUT /nowhere: ")
    assert response.headers.get("Allow", "") == allow


def test_a_detail_may_quote_what_is_no_text() -> None:
    """Headers hold any bytes; those that are not UTF-8 come as half surrogate pairs."""
    assert document(problem(400, "Bad", 'a "\udcff" \u2028\0'))["detail"] == 'a "?" \u2028\0'


async def test_who_has_used_up_its_share_is_told_when_to_come_again() -> None:
    response = await answer(TooMany("too many", retry_after_s=7, limit=3))

    assert response.status == 429
    assert response.headers["Retry-After"] == "7"
    assert document(response)["limit"] == 3


async def test_when_there_is_no_memory_for_one_answer_it_is_refused_and_the_others_go_on() -> None:
    response = await answer(MemoryError())

    assert response.status == 503
    assert response.headers["Retry-After"] == "5"
    assert document(response)["title"] == "Busy"
