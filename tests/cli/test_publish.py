"""What is posted, how, and what is printed of the answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events.cli.main import main
from tests.cli.fakedaemon import Answer, FakeDaemon, json_answer, problem

TAKEN = json_answer({"accepted": 2, "duplicates": 1, "skipped": 3, "first": "a-1", "last": "a-2"})


def test_a_file_is_posted_as_ndjson(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_bytes(b'{"payload":{"type":"a"}}\n{"payload":{"type":"b"}}\n')
    with FakeDaemon(TAKEN) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url, str(file)])

    asked = daemon.asked[0]
    assert (asked.method, asked.path, asked.query) == ("POST", "/global/event", [])
    assert asked.headers["Content-Type"] == "application/x-ndjson"
    assert asked.headers["Transfer-Encoding"] == "chunked"
    assert asked.body == file.read_bytes()
    assert result.output == "2 accepted, 1 duplicates, 3 skipped: a-1 to a-2\n"
    assert result.exit_code == 0


@pytest.mark.parametrize("arguments", [[], ["-"]], ids=["no FILE", "-"])
def test_standard_input_is_posted(runner: CliRunner, arguments: list[str]) -> None:
    with FakeDaemon(TAKEN) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url, *arguments], input="data: {}\n\ndata: {}\n")

    assert daemon.asked[0].body == b"{}\n{}\n"
    assert result.exit_code == 0, result.output


def test_a_directory_chooses_the_instance_stream(runner: CliRunner) -> None:
    with FakeDaemon(TAKEN) as daemon:
        runner.invoke(main, ["publish", "--url", daemon.url, "--directory", "/srv/a b&c"], input="{}\n")

    assert daemon.asked[0].path == "/event"
    assert daemon.asked[0].query == [("directory", "/srv/a b&c")]


def test_the_answer_can_be_had_as_json(runner: CliRunner) -> None:
    with FakeDaemon(TAKEN) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url, "--json"], input="{}\n")

    assert json.loads(result.output)["last"] == "a-2"
    assert " " not in result.output, "as the daemon writes it"


@pytest.mark.parametrize(
    ("directory", "path", "body"),
    [
        ([], "/global/event", {"payload": {"type": "t", "properties": {"a": "\ud800"}}}),
        (["--directory", "/d"], "/event", {"type": "t", "properties": {"a": "\ud800"}}),
    ],
    ids=["global", "instance"],
)
def test_one_event_is_posted_as_an_object(
    runner: CliRunner, directory: list[str], path: str, body: dict[str, object]
) -> None:
    answer = {"accepted": 1, "duplicates": 0, "skipped": 0, "first": "a-1", "last": "a-1", "ids": ["evt_1"]}
    with FakeDaemon(json_answer(answer)) as daemon:
        result = runner.invoke(
            main, ["publish", "--url", daemon.url, "--type", "t", "--properties", '{"a":"\\ud800"}', *directory]
        )

    asked = daemon.asked[0]
    assert (asked.path, json.loads(asked.body), asked.headers["Content-Type"]) == (path, body, "application/json")
    assert result.output == "evt_1 a-1\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--type", "t", "--properties", "{"], "--properties is not JSON"),
        (["--type", "t", "--properties", "[]"], "must be a JSON object"),
        (["--properties", "{}"], "belongs to --type"),
        (["--type", "t", "-"], "exclude each other"),
        (["/does/not/exist"], "No such file"),
    ],
    ids=["no JSON", "no object", "no type", "a file too", "no file"],
)
def test_arguments_that_cannot_be_are_refused_with_2(runner: CliRunner, arguments: list[str], says: str) -> None:
    result = runner.invoke(main, ["publish", "--url", "http://127.0.0.1:1", *arguments])

    assert says in result.output
    assert result.exit_code == 2


def test_a_refused_line_is_named_by_its_number_in_the_file(runner: CliRunner) -> None:
    refused = problem(400, detail="Expected `str`", field="payload.type", line=2, accepted=1, duplicates=0, skipped=0)
    with FakeDaemon(refused) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url], input="id: 1\ndata: {}\n\nid: 2\ndata: {}\n\n")

    assert result.output == (
        "error: line 5: payload.type: Expected `str` (before that: 1 accepted, 0 duplicates, 0 skipped)\n"
    )
    assert result.exit_code == 1


def test_a_recording_cut_in_its_last_event_is_published_without_it(runner: CliRunner) -> None:
    with FakeDaemon(TAKEN) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url], input='data: {}\n\ndata: {"pay')

    assert daemon.asked[0].body == b"{}\n"
    assert "cut short" in result.stderr
    assert result.exit_code == 0


def test_nobody_there_is_4(runner: CliRunner) -> None:
    result = runner.invoke(main, ["publish", "--url", "http://127.0.0.1:1"], input="{}\n")

    assert result.output.startswith("error: http://127.0.0.1:1 cannot be reached: ")
    assert result.exit_code == 4


def test_a_redirection_is_told_and_not_followed(runner: CliRunner) -> None:
    """A client that is sent elsewhere asks there with GET, for most codes, and would wait for a stream to end."""
    moved = Answer(status=301, kind="text/html", headers=(("Location", "/elsewhere"),))
    with FakeDaemon(moved, Answer(stays_open=True)) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url, "--type", "t"])

    assert (result.exit_code, result.output) == (1, "error: HTTP 301 Moved Permanently: it is at /elsewhere\n")


@pytest.mark.parametrize(
    "answer",
    [Answer(kind="text/html", pieces=(b"<html>",)), json_answer([]), Answer(is_cut=True, kind="application/json")],
    ids=["a page", "a list", "cut"],
)
def test_an_answer_that_is_none_is_1(runner: CliRunner, answer: Answer) -> None:
    with FakeDaemon(answer) as daemon:
        result = runner.invoke(main, ["publish", "--url", daemon.url], input="{}\n")

    assert result.output.startswith("error: ")
    assert result.exit_code == 1


def test_a_pipe_is_published_as_it_comes_and_an_early_refusal_is_not_held_up_by_it(tmp_path: Path) -> None:
    refused = Answer(status=400, kind="application/problem+json", pieces=(b'{"detail":"no","line":1}',), reads_lines=1)
    with FakeDaemon(refused) as daemon:
        command = [sys.executable, "-m", "opencode_events", "publish", "--url", daemon.url]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdin is not None
            assert child.stderr is not None
            child.stdin.write(b"nonsense\n")
            child.stdin.flush()

            assert child.wait(20) == 1, "the pipe is still open"
            assert child.stderr.read() == b"error: line 1: no\n"


def test_a_device_that_epoll_refuses_is_read_all_the_same() -> None:
    with FakeDaemon(TAKEN) as daemon:
        command = [sys.executable, "-m", "opencode_events", "publish", "--url", daemon.url, os.devnull]

        assert subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=False).returncode == 0
    assert daemon.asked[0].body == b""
