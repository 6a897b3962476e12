"""The few lines of a status."""

from typing import Any

import pytest

from opencode_events.cli.overview import overview

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 4242,
    "uptime_s": 7_322.0,
    "broker": {
        "published_events": 234_567,
        "duplicate_events": 0,
        "subscribers": 12,
        "subscribers_by_state": {"closing": 1, "live": 11},
        "subscribers_closed": {"operator": 1},
        "fell_behind": 3,
        "replayed_events": 10,
        "selections": 4,
        "held_bytes": 1_000,
        "held_bytes_limit": 268_435_456,
    },
    "log": {
        "path": "/srv/log\x1b[31m", "epoch": "ded0beba5d", "head": 9, "events": 9, "used_bytes": 40_960,
        "durability": "normal",
    },
    "upstream": {
        "url": "http://127.0.0.1:4096", "live": True, "trouble": None, "relayed_events": 90, "gaps": 0,
        "held_bytes": 0, "connections": 1,
    },
    "pass_through": {"requests": 3, "streams": 1, "answered": 50, "refused": 0, "away": 0, "cut": 0},
    "watchdog": {
        "watched": 13, "not_at_rest": 1, "close_wait": 0, "kernel_unsent_bytes": 0, "evictions": {"stalled": 2},
    },
    "http": {"connections": 2, "refusals": {"401": 3, "503": 12}},
    "memory": {"rss_bytes": 81_000_000, "limit_bytes": 3_600_000_000, "is_short": False},
}  # fmt: skip
RATES = {"published_events": 120.0, "sent_events": 1_440.0, "sent_bytes": 250_000.0, "relayed_events": 1.5}


def shown(status: dict[str, Any], width: int = 200, rates: dict[str, float] | None = None) -> list[str]:
    return [line.shown(width) for line in overview(status, rates or {})]


def test_each_part_has_a_line() -> None:
    assert shown(STATUS, rates=RATES) == [
        "daemon      version 0.1.0  pid 4242  up 2 h 02 min  memory 81 MB of 3.6 GB",
        "subscribers 12  11 live, 1 closing  4 selections  fell behind 3  closed: 1 operator",
        "events      234 567 published, 120/s  1 440/s sent, 250 kB/s  held 1 kB of 268 MB  0 duplicates  10 replayed",
        r"log         9 events  41 kB  head ded0beba5d-9  durability normal  /srv/log\x1b[31m",
        "upstream    live  http://127.0.0.1:4096  90 relayed, 1.5/s  0 gaps  held 0 B  1 connection",
        "passing     3 requests, 1 of them streams  50 answered  0 refused  0 away  0 cut",
        "watchdog    13 connections, 1 not at rest  0 B unacknowledged  0 CLOSE_WAIT  evicted: 2 stalled",
        "refused     12 with 503  3 with 401",
    ]


def test_one_look_tells_no_rates() -> None:
    assert shown(STATUS)[2] == ("events      234 567 published  held 1 kB of 268 MB  0 duplicates  10 replayed")


def test_what_is_not_there_has_no_line() -> None:
    assert [line.name for line in overview({"broker": {}, "log": "?"})] == ["daemon", "subscribers", "events"]
    assert shown({}) == ["daemon      version -  pid -  up -"]


def test_an_upstream_that_is_away_is_trouble() -> None:
    away = STATUS | {"upstream": {"live": False, "trouble": "connection refused"}}

    assert [line.name for line in overview(away) if line.is_trouble] == ["upstream"]
    assert shown(away)[4].startswith("upstream    away: connection refused  ")
    assert not [line for line in overview(STATUS) if line.is_trouble]


def test_memory_that_is_short_is_trouble_and_told_first() -> None:
    short = STATUS | {"memory": {"rss_bytes": 3_700_000_000, "limit_bytes": 3_600_000_000, "is_short": True}}

    assert [line.name for line in overview(short) if line.is_trouble] == ["daemon"]
    assert shown(short, 60)[0] == "daemon      MEMORY IS SHORT  version 0.1.0  pid 4242"


def test_memory_without_a_limit_is_told_as_it_is() -> None:
    unlimited = {"memory": {"rss_bytes": 81_000_000, "limit_bytes": 0, "is_short": False}}

    assert shown(unlimited) == ["daemon      version -  pid -  up -  memory 81 MB"]


def test_where_nobody_was_refused_there_is_no_line_for_it() -> None:
    assert [line.name for line in overview({"http": {"refusals": {}}})] == ["daemon"]


@pytest.mark.parametrize("width", [120, 60, 30, 12, 1])
def test_a_line_leaves_out_what_does_not_fit(width: int) -> None:
    lines = shown(STATUS, width)

    assert {len(line) <= width for line in lines} == {True}
    if width == 30:
        assert lines[:2] == ["daemon      version 0.1.0", "subscribers 12"]
