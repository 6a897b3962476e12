"""The whole tool against a daemon that is known to be right, or wrong in one way."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from opencode_events.bench.errors import BenchError
from opencode_events.bench.scenarios import SCENARIOS
from opencode_events.cli.bench import bench

FAKE = Path(__file__).with_name("fake_daemon.py")
Start = Callable[[str], str]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a fake daemon with a fault, and returns its URL."""
    started = []

    def start(fault: str) -> str:
        fake = subprocess.Popen([sys.executable, FAKE, fault], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(fake)
        assert fake.stdout is not None
        return f"http://127.0.0.1:{int(fake.stdout.readline())}"

    yield start
    for fake in started:
        fake.kill()
        fake.communicate()


def measure(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(bench, ["--url", url, "--quick", "--subscribers", "4", *arguments])


def test_every_scenario_measures_a_daemon_that_is_right(start: Start) -> None:
    result = measure(start("none"), "--json", "--processes", "2")

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["ok"] is True
    assert [row["scenario"] for row in told["rows"]] == [*SCENARIOS, "scaling"]
    for row in told["rows"][1:6]:
        assert row["subscribers"] == 4
        assert row["deliveries"] == row["events"] * 4 > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["rss_mib"] > 1


@pytest.mark.parametrize(
    ("fault", "kind", "count"),
    [("lose", "lost", 4), ("duplicate", "duplicated", 4), ("swap", "disordered", 4), ("end", "ended", 4)],
)
def test_what_a_daemon_does_wrong_is_found_at_each_subscriber(start: Start, fault: str, kind: str, count: int) -> None:
    result = measure(start(fault), "--json", "batch-1000")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["rows"][0]["faults"][kind] == count


@pytest.mark.parametrize(
    ("fault", "words"),
    [("refuse", "503 X: .*too many subscribers"), ("reject", "answered 400: .*not today")],
)
def test_a_refusal_ends_the_run_with_the_daemons_own_words(start: Start, fault: str, words: str) -> None:
    result = measure(start(fault), "fanout-100")

    assert isinstance(result.exception, BenchError)
    with pytest.raises(BenchError, match=words):
        raise result.exception


def test_figures_that_need_the_process_are_missing_if_it_cannot_be_seen(start: Start) -> None:
    result = measure(start("none"), "--pid", "4194999", "fanout-100", "scaling")

    assert result.exit_code == 0
    assert " - " in result.stdout
