"""The daemon's answer, for a person and for a program."""

from pathlib import Path

from click.testing import CliRunner

from opencode_events.cli.main import main
from tests.cli.fakedaemon import Answer, FakeDaemon, json_answer, problem

STATUS = {
    "version": "1",
    "pid": 12345,
    "log": {"head": None, "events": 1234567, "ok": True, "lag_s": 0.25},
    "listen": ["a", "b"],
    "x": [],
}


def test_a_person_gets_a_table(runner: CliRunner) -> None:
    with FakeDaemon(json_answer(STATUS)) as daemon:
        result = runner.invoke(main, ["status", "--url", daemon.url])

    assert daemon.asked[0].path == "/-/status"
    assert result.output.splitlines() == [
        daemon.url,
        "  daemon      version 1  pid 12345  up -",
        "  log         1 234 567 events  -  head ---  durability -  -",
        "",
        "  version     1",
        "  pid         12345",
        "  log.head    none",
        "  log.events  1 234 567",
        "  log.ok      yes",
        "  log.lag_s   0.25",
        "  listen      a, b",
        "  x           none",
    ]


def test_a_program_gets_the_answer_as_it_is(runner: CliRunner) -> None:
    with FakeDaemon(Answer(kind="application/json", pieces=(b'{"b":1,\n"a":2.50}\n',))) as daemon:
        result = runner.invoke(main, ["status", "--json", "--url", daemon.url])

    assert result.output == '{"b":1,\n"a":2.50}\n'


def test_without_a_daemon_it_is_4(runner: CliRunner, state_dir: Path) -> None:
    result = runner.invoke(main, ["status"])

    assert result.output == f"error: not running: nobody has {state_dir}\n"
    assert result.exit_code == 4


def test_nobody_at_the_url_is_4(runner: CliRunner) -> None:
    assert runner.invoke(main, ["status", "--url", "http://127.0.0.1:1"]).exit_code == 4


def test_a_refusal_is_1(runner: CliRunner) -> None:
    with FakeDaemon(problem(401, detail="no token")) as daemon:
        result = runner.invoke(main, ["status", "--url", daemon.url])

    assert result.output == "error: no token\n"
    assert result.exit_code == 1


def test_a_stranger_is_told_from_a_daemon(runner: CliRunner) -> None:
    with FakeDaemon(Answer(kind="text/html", pieces=(b"<html>",))) as daemon:
        result = runner.invoke(main, ["status", "--url", daemon.url])

    assert result.output == f"error: {daemon.url}/-/status is not a daemon's answer\n"
    assert result.exit_code == 1
