"""`log` beside a daemon that runs: it sees what the daemon does, and neither holds the other up."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events.cli.exits import Exit
from opencode_events.cli.main import main
from tests.cli import logs
from tests.clients import Client, envelope, lines
from tests.samples import make, recorded
from tests.servers import Daemon

StartDaemon = Callable[..., Daemon]


@pytest.fixture
def here(daemon: Daemon) -> list[str]:
    """The options that name the daemon's state directory."""
    return ["--state-dir", str(daemon.state_dir)]


def run(*arguments: str) -> str:
    """Run a command of `log` that must succeed, and return what it printed."""
    result = CliRunner().invoke(main, ["log", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def cursors(text: str) -> list[str]:
    return [json.loads(line)["cursor"] for line in text.splitlines()]


class Publisher:
    """Publishes single events, one after the other, until it is told to end; none may be refused."""

    def __init__(self, client: Client) -> None:
        self.ids: list[str] = []
        self._client = client
        self._is_over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Publisher":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._is_over.is_set():
                number = f"live_{len(self.ids)}"
                self._client.publish(envelope(number))
                self.ids.append(f"evt_{number}")
        except BaseException as error:  # noqa: BLE001  # raised where the test sees it
            self._error = error


def test_a_log_is_looked_into_while_its_daemon_has_it_open(daemon: Daemon, here: list[str]) -> None:
    receipt = daemon.client.publish(*(envelope(number) for number in range(1000)))
    told = json.loads(run("stat", "--json", *here))

    assert told["events"] == 1000
    assert (told["oldest"]["cursor"], told["newest"]["cursor"]) == (receipt["first"], receipt["last"])
    assert told["wal_bytes"] > 0
    assert run("verify", *here) == "1000 events looked at, nothing found\n"


def test_an_export_is_what_the_stream_replays(daemon: Daemon, here: list[str]) -> None:
    daemon.client.publish(*(envelope(number) for number in range(50)))
    stream = daemon.client.subscribe("/global/event?after=earliest", "Accept: application/x-ndjson")

    assert run("export", *here).splitlines() == [frame.data.decode() for frame in stream.events(50)]


def test_an_export_beside_a_publisher_misses_nothing_and_has_nothing_twice(daemon: Daemon, here: list[str]) -> None:
    daemon.client.publish(*(envelope(number) for number in range(3000)))
    parts: list[str] = []
    with Publisher(daemon.client):
        after = "earliest"
        while len(parts) < 5:
            parts += [run("export", "--after", after, *here)]
            after = (cursors(parts[-1]) or [after])[-1]
    parts.append(run("export", "--after", after, *here))

    found = cursors("".join(parts))
    epoch = daemon.client.status()["log"]["epoch"]
    assert found == [f"{epoch}-{position + 1}" for position in range(len(found))]
    assert len(found) == daemon.client.status()["log"]["head"]


def test_a_trim_refuses_no_publisher_and_the_daemon_sees_what_is_gone(daemon: Daemon, here: list[str]) -> None:
    daemon.client.publish(*(envelope(number) for number in range(6000)))
    middle = cursors(run("export", *here))[2999]
    with Publisher(daemon.client) as publisher:
        assert run("trim", "--before", middle, *here) == "2999 events deleted\n"
        assert run("trim", "--keep-events", "10", *here).endswith(" events deleted\n")

    assert publisher.ids
    ids = [json.loads(line)["payload"]["id"] for line in run("export", *here).splitlines()]
    assert ids[-len(publisher.ids) :] == publisher.ids[-len(ids) :]
    expired = daemon.client.subscribe(f"/global/event?after={middle}")
    assert expired.until("server.stream.expired")
    assert run("verify", *here).endswith("nothing found\n")


def test_an_import_is_posted_to_the_daemon_and_its_subscribers_get_it(
    daemon: Daemon, here: list[str], tmp_path: Path
) -> None:
    daemon.client.publish(envelope(1))
    stream = daemon.client.subscribe()
    file = tmp_path / "events.ndjson"
    file.write_bytes(lines([envelope(1), envelope(2), envelope(3)]))
    told = run("import", str(file), *here)

    assert [frame.event for frame in stream.events(2)] == ["evt_2", "evt_3"]
    assert told.startswith("2 accepted, 1 duplicates, 0 skipped: ")


def test_a_line_that_the_daemon_refuses_is_named_as_the_file_s(runner: CliRunner, here: list[str]) -> None:
    result = runner.invoke(main, ["log", "import", "-", *here], input=lines([envelope(1)]) + b"\nnonsense\n")

    assert result.output.startswith("error: line 3: ")
    assert result.output.endswith("(before that: 1 accepted, 0 duplicates, 0 skipped)\n")
    assert result.exit_code == 1


def test_an_import_for_another_log_than_the_daemon_s_is_refused(
    runner: CliRunner, daemon: Daemon, here: list[str], tmp_path: Path
) -> None:
    refused = runner.invoke(
        main, ["log", "import", "-", *here, "--log-path", str(tmp_path / "copy.sqlite3")], input=lines([envelope(1)])
    )
    its_own = runner.invoke(
        main, ["log", "import", "-", *here, "--log-path", str(daemon.log_path)], input=lines([envelope(1)])
    )

    assert refused.output == (
        f"error: the daemon at {daemon.url} has its log in {daemon.log_path}: it would take these events there\n"
    )
    assert refused.exit_code == 1
    assert its_own.output.startswith("1 accepted")


def test_a_daemon_without_a_file_takes_an_import_all_the_same(start_daemon: StartDaemon, runner: CliRunner) -> None:
    daemon = start_daemon(log_path=":memory:")
    result = runner.invoke(
        main,
        ["log", "import", "-", "--state-dir", str(daemon.state_dir), "--log-path", ":memory:"],
        input=lines([envelope(1)]),
    )

    assert result.output.startswith("1 accepted")


def test_a_log_is_not_written_anew_while_its_daemon_runs(runner: CliRunner, daemon: Daemon, here: list[str]) -> None:
    daemon.client.publish(*(envelope(number) for number in range(2000)))
    run("trim", "--keep-events", "1", *here)
    refused = runner.invoke(main, ["log", "vacuum", *here])
    daemon.stop()

    assert refused.exit_code == Exit.ALREADY_RUNNING
    assert "its publishers would be refused" in refused.output
    assert run("vacuum", *here).endswith(" after\n")
    assert run("verify", *here) == "1 events looked at, nothing found\n"


def test_published_exported_and_imported_again_it_is_the_same_but_for_the_cursors(
    daemon: Daemon, here: list[str], tmp_path: Path
) -> None:
    recording = logs.acceptable(recorded())
    daemon.client.post("/global/event", b"\n".join(recording), "application/x-ndjson")
    file, again = tmp_path / "export.ndjson", ["--state-dir", str(tmp_path / "again")]
    run("export", str(file), *here)
    run("import", str(file), *again)
    first, second = file.read_bytes().splitlines(), run("export", *again).encode().splitlines()

    assert [make(line).envelope for line in first] == recording
    assert [make(line).envelope for line in second] == recording
    assert set(cursors(file.read_text())).isdisjoint(cursors(run("export", *again)))
