"""The whole tool against a daemon that is known to be right, or wrong in one way."""

import json

import pytest
from click.testing import CliRunner, Result

from opencode_events.bench.errors import BenchError
from opencode_events.cli.bench import bench
from tests.bench.conftest import Start
from tests.cli.fakedaemon import FakeDaemon as Asked
from tests.cli.fakedaemon import json_answer


def measure(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(bench, ["--url", url, "--quick", "--subscribers", "4", *arguments])


def test_every_scenario_measures_a_daemon_that_is_right(start: Start) -> None:
    result = measure(start("none"), "--json", "--processes", "2")

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["ok"] is True
    rows = {row["scenario"]: row for row in told["rows"]}
    assert list(rows) == [
        *("idle", "fanout-1000", "batch-1000", "fanout-100", "ndjson-100", "latency-1000"),
        *("stalled", "stalled-latency", "publish-1", "publish-64", "publish-ndjson-10", "publish-ndjson-100"),
        *("replay", "resume-200", "resume-10", "storm", "scaling"),
    ]
    for row in told["rows"][1:6]:
        assert row["subscribers"] == 4
        assert row["deliveries"] == row["events"] * 4 > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["rss_mib"] > 1

    assert rows["publish-64"]["publishers"] == 64
    for name in ("publish-1", "publish-64"):
        assert 0 < rows[name]["ack_p50_ms"] <= rows[name]["ack_p99_ms"] <= rows[name]["ack_max_ms"]
    for name in ("publish-1", "publish-64", "publish-ndjson-10", "publish-ndjson-100"):
        assert rows[name]["events_per_s"] > 0
        assert 0 < rows[name]["tool_cores"] < 3
    assert rows["replay"]["deliveries"] == rows["replay"]["rounds"] * 4 * 200 > 0
    assert rows["resume-10"]["tries"] == 20
    assert 0 < rows["resume-10"]["first_p50_ms"] <= rows["resume-10"]["first_p99_ms"]
    assert rows["storm"]["returning"] == 40
    assert rows["storm"]["deliveries"] == rows["storm"]["rounds"] * 40 * 100 > 0
    assert rows["storm"]["p99_ratio"] == pytest.approx(rows["storm"]["beside_p99_ms"] / rows["storm"]["alone_p99_ms"])


@pytest.mark.parametrize(
    ("fault", "kind", "count"),
    [("lose", "lost", 4), ("duplicate", "duplicated", 4), ("swap", "disordered", 4), ("end", "ended", 4)],
)
def test_what_a_daemon_does_wrong_is_found_at_each_subscriber(start: Start, fault: str, kind: str, count: int) -> None:
    result = measure(start(fault), "--json", "batch-1000")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["rows"][0]["faults"][kind] == count


@pytest.mark.parametrize(
    ("fault", "kind", "count"),
    [("lose", "lost", 4), ("duplicate", "duplicated", 4), ("swap", "disordered", 4)],
)
def test_what_a_daemon_replays_wrong_is_found_at_each_subscriber(
    start: Start, fault: str, kind: str, count: int
) -> None:
    result = measure(start(fault), "--json", "replay")

    faults = json.loads(result.stdout)["rows"][0]["faults"]
    assert result.exit_code == 1
    assert faults[kind] > 0
    assert faults[kind] % count == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [("refuse", "503 X: .*too many subscribers"), ("reject", "answered 400: .*not today")],
)
def test_a_refusal_ends_the_run_with_the_daemons_own_words(start: Start, fault: str, words: str) -> None:
    result = measure(start(fault), "fanout-100")

    assert isinstance(result.exception, BenchError)
    with pytest.raises(BenchError, match=words):
        raise result.exception


def test_a_cursor_that_cannot_be_resumed_from_is_told_as_that(start: Start) -> None:
    result = measure(start("expire"), "replay")

    assert isinstance(result.exception, BenchError)
    assert str(result.exception) == "the daemon could not resume after the cursor (server.stream.expired)"


def test_figures_that_need_the_process_are_missing_if_it_cannot_be_seen(start: Start) -> None:
    result = measure(start("none"), "--pid", "4194999", "fanout-100", "scaling")

    assert result.exit_code == 0
    assert " - " in result.stdout


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], "Bearer a-token"), (["--header", "authorization: Basic eA=="], "Basic eA==")],
    ids=["the environment's", "one of its own"],
)
def test_a_daemon_is_shown_what_other_commands_show_it(
    monkeypatch: pytest.MonkeyPatch, options: list[str], shown: str
) -> None:
    monkeypatch.setenv("OPENCODE_EVENTS_TOKEN", "a-token")
    with Asked(json_answer({"pid": 1})) as daemon:
        result = measure(daemon.url, "idle", *options)

    assert result.exit_code != 0, "it has no further answer"
    assert [request.headers["Authorization"] for request in daemon.asked[:1]] == [shown]
