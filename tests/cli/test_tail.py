"""What `tail` asks for, prints, and how it ends."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events.cli.main import main
from opencode_events.cli.tail import finder
from opencode_events.statedir import StateDir
from tests.cli.fakedaemon import Answer, FakeDaemon, problem, sse

CONNECTED = b'retry: 1000\nid: 1-0\ndata: {"payload":{"type":"server.connected","properties":{}}}\n\n'
STREAM = Answer(pieces=(CONNECTED, sse(1) + sse(2), sse(3)), stays_open=True)


def test_lines_for_a_person_have_no_colours_in_a_pipe(runner: CliRunner) -> None:
    with FakeDaemon(STREAM) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count", "2"])

    assert [line.split(" ", 1)[1] for line in result.output.splitlines()] == [
        "-            server.connected {}",
        '-            t {"n":1}',
        '-            t {"n":2}',
    ]
    assert result.exit_code == 0


def test_colours_can_be_asked_for(runner: CliRunner) -> None:
    with FakeDaemon(STREAM) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count", "1", "--color"], color=True)

    assert "\x1b[" in result.output


def test_json_is_the_data_as_it_came_without_control_frames(runner: CliRunner) -> None:
    with FakeDaemon(STREAM) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count", "3", "--json"])

    assert result.output.splitlines() == [
        f'{{"payload":{{"type":"t","properties":{{"n":{number}}}}}}}' for number in (1, 2, 3)
    ]


def test_control_frames_are_printed_when_asked_for_and_do_not_count(runner: CliRunner) -> None:
    with FakeDaemon(STREAM) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count", "1", "--json", "--control"])

    types = [json.loads(line)["payload"]["type"] for line in result.output.splitlines()]
    assert types == ["server.connected", "t"]


def test_filters_are_passed_on(runner: CliRunner) -> None:
    options = [
        "--session=s1", "--session=s2", "--types=message.*,session.idle", "--sync=none", "--workspace=w",
        "--after=earliest", "--on-overflow=catchup", "--end=abort", "--directory=/srv/a b",
    ]  # fmt: skip
    with FakeDaemon(STREAM) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count=1", *options])

    assert result.exit_code == 0, result.output
    assert daemon.asked[0].path == "/event"
    assert sorted(daemon.asked[0].query) == [
        ("after", "earliest"),
        ("directory", "/srv/a b"),
        ("end", "abort"),
        ("on_overflow", "catchup"),
        ("session", "s1"),
        ("session", "s2"),
        ("sync", "none"),
        ("types", "message.*,session.idle"),
        ("workspace", "w"),
    ]


def test_a_refusal_ends_it_with_1(runner: CliRunner) -> None:
    with FakeDaemon(problem(400, detail="`catchup` is not offered", field="on_overflow")) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url])

    assert result.output == "error: on_overflow: `catchup` is not offered\n"
    assert result.exit_code == 1


def test_nobody_there_is_4(runner: CliRunner) -> None:
    result = runner.invoke(main, ["tail", "--url", "http://127.0.0.1:1"])

    assert result.exit_code == 4


def test_a_cut_stream_is_resumed_and_the_person_told(runner: CliRunner) -> None:
    first = Answer(pieces=(b"retry: 50\n" + sse(1),), is_cut=True)
    with FakeDaemon(first, Answer(pieces=(sse(2),), stays_open=True)) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count", "2", "--json"])

    assert [json.loads(line)["payload"]["properties"]["n"] for line in result.stdout.splitlines()] == [1, 2]
    assert "; again in 0.1 s" in result.stderr
    assert daemon.asked[1].headers["Last-Event-ID"] == "1-1"


def expired(reason: str) -> Answer:
    """Return a stream that begins with what a daemon says of a cursor that it cannot serve."""
    properties = {"requested": "1-7", "oldest": "2-5", "newest": "2-9", "reason": reason}
    told = json.dumps({"payload": {"type": "server.stream.expired", "properties": properties}})
    return Answer(pieces=(CONNECTED, f"data: {told}\n\n".encode() + sse(1)), stays_open=True)


@pytest.mark.parametrize(
    ("reason", "follows"),
    [
        ("trimmed", "all that is retained follows"),
        ("epoch", "what is published now follows"),
        ("malformed", "what is published now follows"),
    ],
)
@pytest.mark.parametrize("control", [[], ["--control"]], ids=["", "control"])
def test_json_tells_beside_it_that_events_may_be_missing(
    runner: CliRunner, reason: str, follows: str, control: list[str]
) -> None:
    with FakeDaemon(expired(reason)) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--after=1-7", "--count=1", "--json", *control])

    assert result.stderr == f"1-7 cannot be resumed ({reason}), so events may be missing; {follows}\n"
    assert len(result.stdout.splitlines()) == (3 if control else 1)
    assert result.exit_code == 0


def test_a_person_sees_that_events_may_be_missing_among_the_lines(runner: CliRunner) -> None:
    with FakeDaemon(expired("trimmed")) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--after=1-7", "--count=1"])

    assert 'server.stream.expired {"requested":"1-7","oldest":"2-5","newest":"2-9","reason":"trimmed"}' in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("properties", ["null", "[]", "{}", '{"requested":"\\u001b[2J","reason":"x"}'])
def test_a_strange_server_cannot_steer_the_terminal_with_it(runner: CliRunner, properties: str) -> None:
    told = f'data: {{"payload":{{"type":"server.stream.expired","properties":{properties}}}}}\n\n'
    with FakeDaemon(Answer(pieces=(told.encode() + sse(1),), stays_open=True)) as daemon:
        result = runner.invoke(main, ["tail", "--url", daemon.url, "--count=1", "--json"])

    assert result.stderr.endswith("what is published now follows\n")
    assert result.stderr.count("\n") == 1
    assert result.stderr.removesuffix("\n").isprintable()


@pytest.mark.parametrize("url", ["", "http://", "http://a b"], ids=["empty", "no host", "no name"])
def test_a_url_that_is_none_is_told_in_one_line(runner: CliRunner, url: str) -> None:
    result = runner.invoke(main, ["tail", f"--url={url}"])

    assert result.exit_code == 2
    assert result.output.count("\n") == 1


# --- where it is


def test_the_daemon_of_the_state_directory_is_followed_to_another_port(state_dir: Path) -> None:
    with StateDir(state_dir) as state:
        state.announce("http://127.0.0.1:6", "1")
        where = finder(None, None, None, "/event")
        state.announce("http://127.0.0.1:7", "1")

        assert where() == "http://127.0.0.1:7/event"
    assert where() == "http://127.0.0.1:7/event", "it may come back"


def test_a_url_that_was_given_stays(state_dir: Path) -> None:
    where = finder("http://127.0.0.1:6/", None, None, "/event")
    with StateDir(state_dir) as state:
        state.announce("http://127.0.0.1:7", "1")

        assert where() == "http://127.0.0.1:6/event"


def test_whoever_was_not_found_there_is_not_looked_up_there_later(state_dir: Path) -> None:
    where = finder(None, None, None, "/event")
    with StateDir(state_dir) as state:
        state.announce("http://127.0.0.1:7", "1")

        assert where() == "http://127.0.0.1:4097/event", "another daemon has another log"


def test_a_settings_file_that_is_spoiled_meanwhile_does_not_end_it(tmp_path: Path, state_dir: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("")
    with StateDir(state_dir) as state:
        state.announce("http://127.0.0.1:6", "1")
        where = finder(None, config, None, "/event")
        config.write_text("port = ")

        assert where() == "http://127.0.0.1:6/event"


# --- its end


def test_ctrl_c_ends_it_with_130_and_no_traceback() -> None:
    with FakeDaemon(STREAM) as daemon:
        command = [sys.executable, "-m", "opencode_events", "tail", "--json", "--url", daemon.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            assert b'"n":1' in child.stdout.readline(), "each event is written at once, into a pipe too"
            child.send_signal(signal.SIGINT)

            assert child.wait(20) == 130
            assert child.stderr.read() == b""


def test_a_reader_that_has_had_enough_ends_it_in_peace() -> None:
    flood = Answer(pieces=tuple(sse(number) * 50 for number in range(200)), stays_open=True)
    with FakeDaemon(flood) as daemon:
        command = [sys.executable, "-m", "opencode_events", "tail", "--json", "--url", daemon.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.readline()
            child.stdout.close()

            assert child.wait(20) == 0
            assert child.stderr.read() == b""
