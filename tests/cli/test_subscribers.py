"""Who is subscribed, for a person and for a program, and ending one by hand."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from opencode_events.cli import columns
from opencode_events.cli.main import main
from tests.cli.fakedaemon import Answer, FakeDaemon, json_answer, problem

SELECTION: dict[str, Any] = {
    "stream": "global", "format": "sse", "directory": None, "session": [], "types": [], "sync": "all", "workspace": [],
}  # fmt: skip
REPORT: dict[str, Any] = {
    "id": 1,
    "peer": "127.0.0.1:57636",
    "state": "live",
    "reason": None,
    "selection": SELECTION,
    "open_s": 840.4,
    "queued_events": 0,
    "queued_bytes": 0,
    "transport_bytes": 0,
    "sent_events": 1_234_567,
    "lag_events": 0,
    "tcp_state": "ESTABLISHED",
    "verdict": "idle",
    "evict_in_s": None,
}
STUCK = REPORT | {
    "id": 42,
    "peer": "[2001:db8::1]:5",
    "state": "closing",
    "reason": "overflow_events",
    "selection": SELECTION | {"stream": "instance", "directory": "/srv/a", "format": "ndjson", "sync": "none"},
    "open_s": 7.04,
    "queued_events": 1_200,
    "queued_bytes": 3_000_000,
    "transport_bytes": 65_536,
    "sent_events": 7,
    "lag_events": 1_300,
    "tcp_state": "CLOSE_WAIT",
    "verdict": "draining",
    "evict_in_s": 8.6,
}
OVER = {
    "at": "2026-11-25T20:53:17.123+00:00",
    "subscriber": 42,
    "peer": "127.0.0.1:57636",
    "reason": "fin_zombie",
    "open_s": 812.4,
    "sent_events": 1_203,
    "sent_bytes": 999,
    "peak_queued_events": 10_000,
    "peak_queued_bytes": 5,
}


def shown(runner: CliRunner, answer: object, *options: str) -> list[str]:
    with FakeDaemon(json_answer(answer)) as daemon:
        result = runner.invoke(main, ["subscribers", "--url", daemon.url, *options])
    assert result.exit_code == 0, result.output
    return result.output.replace(daemon.url, "URL").splitlines()


# --- who is there


def test_a_person_gets_a_table(runner: CliRunner) -> None:
    assert shown(runner, {"subscribers": [REPORT, STUCK]}) == [
        "URL: 2 subscribers",
        "id  peer           state         stream          lag          queued     age       sent  tcp          verdict",
        " 1  127.0.0.1:57…  live          global            0               0  14 min  1 234 567  ESTABLISHED  idle",
        "42  [2001:db8::1…  closing: ov…  /srv/a ndjs…  1 300  1 200, 3.07 MB   7.0 s          7  CLOSE_WAIT "
        "  draining, 9 s left",
    ]


def test_nobody_is_no_table(runner: CliRunner) -> None:
    assert shown(runner, {"subscribers": []}) == ["URL: 0 subscribers"]
    assert shown(runner, {"closed": []}, "--closed") == ["URL: 0 who were there"]


def test_one_is_one(runner: CliRunner) -> None:
    assert shown(runner, {"subscribers": [REPORT]})[0] == "URL: 1 subscriber"


def test_the_daemon_is_asked_for_what_is_shown(runner: CliRunner) -> None:
    with FakeDaemon(json_answer({"subscribers": []}), json_answer({"closed": []})) as daemon:
        for options in ([], ["--closed"]):
            runner.invoke(main, ["subscribers", "--url", daemon.url, *options])

    assert [(asked.method, asked.path, asked.query) for asked in daemon.asked] == [
        ("GET", "/-/subscribers", []),
        ("GET", "/-/subscribers", [("closed", "1")]),
    ]


def test_one_without_a_connection_yet_is_shown(runner: CliRunner) -> None:
    """The watchdog has nothing to say of it."""
    bare = {name: value for name, value in REPORT.items() if name not in ("tcp_state", "verdict", "evict_in_s")}

    assert shown(runner, {"subscribers": [bare]})[2].split()[-2:] == ["-", "-"]


@pytest.mark.parametrize(
    ("changes", "stream"),
    [
        ({}, "global"),
        ({"stream": "instance", "directory": "/srv/a"}, "/srv/a"),
        ({"format": "ndjson"}, "global ndjson"),
        ({"types": ["a", "b.*"], "session": ["s"], "workspace": ["w", "v"], "sync": "only"},
         "global types=a,b.* session=s workspace=w,v sync=only"),
        ({"directory": "/a\x1b[31m\nb"}, r"/a\x1b[31m\nb"),
    ],
    ids=["everything", "a directory", "lines", "filters", "what steers a terminal"],
)  # fmt: skip
def test_a_stream_is_shown_as_it_was_asked_for(changes: dict[str, Any], stream: str) -> None:
    table = columns.table(columns.OPEN, [REPORT | {"selection": SELECTION | changes}], width=500)

    assert stream in table[1]


def test_however_much_there_is_to_say_a_line_fits(runner: CliRunner) -> None:
    everything = STUCK | {
        "id": 1_000_000,
        "peer": "[2001:db8:1111:2222:3333:4444:5555:6666]:65535",
        "state": "catching_up",
        "selection": SELECTION | {"directory": "/srv/" + "long" * 50},
        "queued_events": 9_999_999,
        "queued_bytes": 999_999_999_999,
        "sent_events": 10**12,
        "lag_events": 10**9,
        "tcp_state": "ESTABLISHED",
        "evict_in_s": 86_400.0,
    }
    lines = shown(runner, {"subscribers": [everything, REPORT]})

    assert {len(line) <= 120 for line in lines} == {True}
    assert lines[2].startswith("1000000  [2001:db8:1…  catching_up…  /srv/longlo…  1 000 000 000")
    assert lines[2].endswith("…")
    assert lines[1].split()[:4] == ["id", "peer", "state", "stream"]


def test_what_fits_is_not_cut() -> None:
    long = REPORT | {"selection": SELECTION | {"directory": "/srv/" + "x" * 30}}

    assert "/srv/" + "x" * 30 in columns.table(columns.OPEN, [long])[1]


@pytest.mark.parametrize(
    ("size", "text"),
    [(1, "1 B"), (999, "999 B"), (1_000, "1 kB"), (65_536, "65.5 kB"), (999_499, "999 kB"), (999_500, "1 MB"),
     (999_499_999, "999 MB"), (999_500_000, "1 GB"), (12 * 10**9, "12 GB")],
)  # fmt: skip
def test_bytes_have_a_unit(size: int, text: str) -> None:
    waiting = REPORT | {"queued_events": 1, "queued_bytes": size}

    assert f"  1, {text}  " in columns.table(columns.OPEN, [waiting])[1]


# --- who was there


def test_those_who_left_are_shown_with_why(runner: CliRunner) -> None:
    lines = shown(runner, {"closed": [OVER]}, "--closed")

    assert lines[0] == "URL: 1 who were there"
    assert lines[1] == "over at              id  peer             reason      was there  events  bytes  waited at most"
    assert lines[2][20:] == " 42  127.0.0.1:57636  fin_zombie     13 min   1 203  999 B          10 000"
    assert lines[2][:19].replace("-", "").replace(":", "").replace(" ", "").isdigit()  # in this machine's time


@pytest.mark.parametrize(
    ("open_s", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min"), (3_599, "59 min"), (3_600, "1 h 00 min"),
     (90_061, "25 h 01 min"), (None, "-")],
)  # fmt: skip
def test_how_long_one_was_there(open_s: float | None, text: str) -> None:
    assert f"  {text}  " in columns.table(columns.CLOSED, [OVER | {"open_s": open_s}])[1]


def test_a_time_that_is_none_is_no_time() -> None:
    assert columns.table(columns.CLOSED, [OVER | {"at": "yesterday"}])[1].startswith("-  ")


# --- for programs


@pytest.mark.parametrize("options", [[], ["--closed"]])
def test_a_program_gets_the_answer_as_it_is(runner: CliRunner, options: list[str]) -> None:
    with FakeDaemon(Answer(kind="application/json", pieces=(b'{"b":1,\n"a":2.50}\n',))) as daemon:
        result = runner.invoke(main, ["subscribers", "--json", "--url", daemon.url, *options])

    assert result.output == '{"b":1,\n"a":2.50}\n'


# --- ending one


def test_one_is_ended_politely(runner: CliRunner) -> None:
    with FakeDaemon(json_answer({"evicted": REPORT | {"queued_events": 1}})) as daemon:
        result = runner.invoke(main, ["evict", "1", "--url", daemon.url])

    assert [(asked.method, asked.path) for asked in daemon.asked] == [("DELETE", "/-/subscribers/1")]
    assert result.output == "being ended: 1 (127.0.0.1:57636, global); waiting to be read: 1 event\n"
    assert result.exit_code == 0


def test_one_that_was_being_ended_is_ended_now(runner: CliRunner) -> None:
    with FakeDaemon(json_answer({"evicted": STUCK})) as daemon:
        result = runner.invoke(main, ["evict", "42", "--url", daemon.url])

    assert result.output == (
        "ended: 42 ([2001:db8::1]:5, /srv/a ndjson sync=none), which was being ended already; not read: 1 200 events\n"
    )


def test_one_that_is_not_there_is_1(runner: CliRunner) -> None:
    with FakeDaemon(problem(404, detail="there is no subscriber 7", field="id")) as daemon:
        result = runner.invoke(main, ["evict", "7", "--url", daemon.url])

    assert (result.output, result.exit_code) == ("error: id: there is no subscriber 7\n", 1)


@pytest.mark.parametrize("number", ["0", "x", "1.5", ""])
def test_what_is_no_number_is_2(runner: CliRunner, number: str) -> None:
    result = runner.invoke(main, ["evict", number])

    assert result.exit_code == 2
    assert "'ID'" in result.output


# --- without a daemon


@pytest.mark.parametrize("words", [["subscribers"], ["subscribers", "--closed", "--json"], ["evict", "1"]])
def test_without_a_daemon_it_is_4(runner: CliRunner, state_dir: Path, words: list[str]) -> None:
    result = runner.invoke(main, words)

    assert (result.output, result.exit_code) == (f"error: not running: nobody has {state_dir}\n", 4)
    assert runner.invoke(main, [*words, "--url", "http://127.0.0.1:1"]).exit_code == 4


@pytest.mark.parametrize("words", [["subscribers"], ["evict", "1"]])
def test_a_stranger_is_told_from_a_daemon(runner: CliRunner, words: list[str]) -> None:
    with FakeDaemon(Answer(kind="text/html", pieces=(b"<html>",))) as daemon:
        result = runner.invoke(main, [*words, "--url", daemon.url])

    assert result.output.endswith(" is not a daemon's answer\n")
    assert result.exit_code == 1
