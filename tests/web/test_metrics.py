"""`/-/metrics`: what it says is so, Prometheus's own tool finds nothing wrong with it, and the docs know every name.

`promtool` is in Debian's package `prometheus`.
"""

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from opencode_events import __version__
from opencode_events.broker.broker import Broker
from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.selection import Selection
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.settings import BrokerSettings, EventLogSettings
from opencode_events.web.measures import MEASURES, PREFIX
from opencode_events.web.metrics import Metrics
from tests.broker.fakes import FakeConnection, segment, terms
from tests.clients import Client, envelope, until
from tests.servers import Daemon, Server, free_port

DOCS = Path(__file__).parent.parent.parent / "docs"
ALERTS, BOARD = DOCS / "alerts.yml", DOCS / "grafana.json"
NAME = re.compile(r"\b(?:opencode_events|process)_[a-z_]+\b")

# What of the statistics is no metric: words, and what is one under another name.
NO_METRICS = {
    "broker": {"head", "subscribers", "subscribers_by_state"},
    "log": {"path", "epoch", "durability"},
    "upstream": {"url", "trouble"},
}


def scrape(client: Client) -> str:
    answer = client.get("/-/metrics")
    assert (answer.status, answer.head["Cache-Control"]) == (200, "no-store")
    assert answer.head["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return answer.body.decode()


def samples(text: str) -> dict[str, float]:
    """Return the samples by name and labels, as they are written."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name.removeprefix(PREFIX): float(value) for name, _, value in lines}


def promtool(*arguments: object, given: str = "") -> str:
    """Run it; return what it says."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def shielding(start_daemon: Callable[..., Daemon]) -> Client:
    """A daemon in front of a server that is away."""
    return start_daemon(upstream=f"http://127.0.0.1:{free_port()}").client


# --- what it says


def test_it_counts_what_comes_and_goes(client: Client) -> None:
    first = client.publish(envelope(1))["first"]
    fresh = client.subscribe()
    client.subscribe("/event?directory=/d", f"Last-Event-ID: {first}").until("server.stream.live")
    client.subscribe("/global/event?after=earliest")
    client.subscribe("/global/event?after=0123456789-7")
    client.publish(envelope(2), envelope(3), envelope(3))
    fresh.frames(2)
    fresh.close()
    until(lambda: samples(scrape(client))['subscribers_closed_total{reason="client_closed"}'])

    found = samples(scrape(client))
    assert found["published_events_total"] == 3
    assert found["published_bytes_total"] == 3 * len('{"directory":"/d","payload":{"id":"evt_1","type":"test.tick",'
                                                      '"properties":{}}}')  # fmt: skip
    assert found["duplicate_events_total"] == 1
    assert found["sent_events_total"] == 2 + 2 + 3 + 2
    assert found["sent_bytes_total"] > found["published_bytes_total"]
    assert found["subscribers_opened_total"] == 4
    results = {name: found[f'resumes_total{{result="{name}"}}'] for name in ("fresh", "hit", "expired")}
    assert results == {"fresh": 1, "hit": 2, "expired": 1}
    assert found['subscribers{state="live",stream="global"}'] == 2
    assert found['subscribers{state="live",stream="instance"}'] == 1
    assert found['subscribers{state="closing",stream="global"}'] == 0
    assert found["publish_duration_seconds_count"] == found["log_commit_duration_seconds_count"] == 2
    assert found["log_commit_events_sum"] == 4
    assert found['log_commit_events_bucket{le="1.0"}'] == 1
    assert (found["log_head_position"], found["log_events"], found["ready"]) == (3, 3, 1)
    assert found[f'build_info{{version="{__version__}"}}'] == 1
    assert found["process_open_fds"] > 0


def test_what_waits_for_a_stalled_subscriber_is_seen(serve: Callable[..., Server]) -> None:
    server = serve(send_buffer=4096)
    client = server.client
    client.subscribe()
    client.subscribe()
    for number in range(200):
        client.publish(envelope(number, text="x" * 60_000))
    server.run(server.patrol.sweep)

    found = samples(scrape(client))
    assert found['backlog_events_bucket{le="0.0"}'] == 0
    assert found["backlog_events_gcount"] == found["backlog_age_seconds_gcount"] == 2
    handles = client.subscribers()
    assert found["backlog_events_gsum"] == sum(handle["queued_events"] for handle in handles) > 0
    assert found["backlog_bytes_gsum"] == sum(handle["queued_bytes"] for handle in handles)
    assert 0 < found["backlog_age_seconds_gsum"] <= sum(handle["queued_s"] for handle in handles) + 0.002
    assert found["held_bytes"] > 0
    assert found["kernel_unsent_bytes"] > 0


def test_a_commit_on_the_logs_own_thread_is_measured_too(serve: Callable[..., Server]) -> None:
    client = serve(durability="full").client
    client.publish(envelope(1), envelope(2))

    found = samples(scrape(client))
    assert (found["log_commit_duration_seconds_count"], found["log_commit_events_sum"]) == (1, 2)


def test_a_counter_of_what_was_sent_stays_when_a_subscriber_goes(server: Server) -> None:
    client = server.client
    streams = [client.subscribe() for _ in range(3)]
    client.publish(envelope(1), envelope(2))
    seen = [0.0]
    for stream in streams:
        stream.frames(2)
        seen.append(samples(scrape(client))["sent_bytes_total"])
        before = server.subscribed
        stream.close()
        until(lambda: server.subscribed < before)  # noqa: B023  # it is called before the next one begins
        seen.append(samples(scrape(client))["sent_bytes_total"])

    assert seen == sorted(seen)
    assert samples(scrape(client))["sent_events_total"] == 6


def test_the_loops_lag_is_measured(client: Client) -> None:
    until(lambda: samples(scrape(client))["loop_lag_seconds_count"])


def test_it_says_that_it_is_not_ready(server: Server) -> None:
    server.run(lambda: server.broker.drain(0))

    assert samples(scrape(server.client))["ready"] == 0


def test_a_label_whose_values_are_known_is_there_from_the_beginning(client: Client) -> None:
    found = samples(scrape(client))

    assert {reason.value for reason in Reason} == {
        name.split('"')[1] for name in found if name.startswith("subscribers_closed_total")
    }
    assert found['evictions_total{reason="head_timeout"}'] == 0


def test_of_a_server_behind_there_is_nothing_where_there_is_none(client: Client) -> None:
    assert [name for name in samples(scrape(client)) if name.startswith(("upstream", "passed"))] == []


def test_a_shield_tells_of_the_server_behind(shielding: Client) -> None:
    assert shielding.get("/session").status == 502
    found = samples(scrape(shielding))

    assert (found["upstream_live"], found["ready"], found["passed_away_total"]) == (0, 0, 1)


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=x", "text/plain;version=1.0.0", "\u00ff"])
def test_whatever_is_accepted_the_answer_is_the_same_format(client: Client, accept: str) -> None:
    answer = client.send("GET", "/-/metrics", Accept=accept)

    assert (answer.status, answer.head["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")


# --- that nothing is left out


def test_every_number_of_the_statistics_is_a_metric(shielding: Client) -> None:
    status = shielding.status()
    parts = {name: set(part) for name, part in status.items() if isinstance(part, dict)}
    measured: dict[str, set[str]] = {}
    for measure in MEASURES:
        measured.setdefault(measure.part, set()).add(measure.member)

    assert {name: members - NO_METRICS.get(name, set()) for name, members in parts.items()} == measured


def names(text: str) -> set[str]:
    """Return the names that a scrape has, without what belongs to a histogram's or an info's."""
    return {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in text_string_to_metric_families(text)
    }


def test_every_metric_is_told_and_every_one_that_is_told_is_there(shielding: Client) -> None:
    there = {name for name in names(scrape(shielding)) if name.startswith(PREFIX)}
    there = {name for name in there if not name.endswith(("_gcount", "_gsum"))}
    page = (DOCS / "metrics.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    told = {name for row in rows for name in re.findall(r"`(opencode_events_\w+)`", row)}

    assert told == there


# --- what is made of it


def alerts() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text("utf-8"), re.MULTILINE)


def alert_expressions() -> list[str]:
    return re.findall(r"^ +expr: ((?:.|\n)+?)\n +(?:for|labels): ", ALERTS.read_text("utf-8"), re.MULTILINE)


def board_expressions() -> Iterator[str]:
    for panel in json.loads(BOARD.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def test_promtool_finds_nothing_wrong(shielding: Client) -> None:
    shielding.subscribe()

    assert promtool("check", "metrics", given=scrape(shielding)) == ""


def test_the_alerts_are_valid_rules_and_each_is_told() -> None:
    said = promtool("check", "rules", ALERTS)

    assert f"{len(alerts())} rules found" in said
    page = (DOCS / "metrics.md").read_text("utf-8")
    assert set(alerts()) == set(re.findall(r"`(Opencode\w+)`", page))


def test_the_board_asks_what_prometheus_understands(tmp_path: Path) -> None:
    expressions = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in board_expressions()]
    recorded = [{"record": f"board:{number}", "expr": text} for number, text in enumerate(expressions)]
    path = tmp_path / "board.yml"
    path.write_text(json.dumps({"groups": [{"name": "board", "rules": recorded}]}))

    assert f"{len(expressions)} rules found" in promtool("check", "rules", path)


def test_the_board_has_each_panel_once_and_none_above_another() -> None:
    panels = json.loads(BOARD.read_text("utf-8"))["panels"]
    cells = [
        (at["x"] + x, at["y"] + y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["w"])
        for y in range(at["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_alerts_and_board_ask_for_what_there_is(shielding: Client) -> None:
    text = scrape(shielding)
    there = {name.partition("{")[0] for name in re.findall(r"^(\S+) ", text, re.MULTILINE)}
    assert len(alert_expressions()) == len(alerts())
    asked = {name for expression in alert_expressions() for name in NAME.findall(expression)}
    asked |= {name for expression in board_expressions() for name in NAME.findall(expression)}

    assert asked - there == set()
    shown = {name for expression in board_expressions() for name in NAME.findall(expression)}
    assert {"opencode_events_loop_lag_seconds_bucket", "opencode_events_upstream_live"} <= shown


NOW = '{instance="here:1",job="opencode-events"'
SERIES = {
    "OpencodeEventsDown": {f"up{NOW}}}": "0x20"},
    "OpencodeEventsRestarting": {f"process_start_time_seconds{NOW}}}": "1 2 3 4 5 6 7 8 9x12"},
    "OpencodeEventsNotReady": {f"opencode_events_ready{NOW}}}": "0x20"},
    "OpencodeEventsUpstreamAway": {f"opencode_events_upstream_live{NOW}}}": "0x20"},
    "OpencodeEventsLoopLags": {
        f'opencode_events_loop_lag_seconds_bucket{NOW},le="0.5"}}': "0+90x20",
        f'opencode_events_loop_lag_seconds_bucket{NOW},le="1.0"}}': "0+100x20",
        f'opencode_events_loop_lag_seconds_bucket{NOW},le="+Inf"}}': "0+100x20",
    },
    "OpencodeEventsPublishSlow": {
        f'opencode_events_publish_duration_seconds_bucket{NOW},le="1.0"}}': "0+90x20",
        f'opencode_events_publish_duration_seconds_bucket{NOW},le="2.5"}}': "0+100x20",
        f'opencode_events_publish_duration_seconds_bucket{NOW},le="+Inf"}}': "0+100x20",
    },
    "OpencodeEventsCommitSlow": {
        f'opencode_events_log_commit_duration_seconds_bucket{NOW},le="0.5"}}': "0+90x20",
        f'opencode_events_log_commit_duration_seconds_bucket{NOW},le="1.0"}}': "0+100x20",
        f'opencode_events_log_commit_duration_seconds_bucket{NOW},le="+Inf"}}': "0+100x20",
    },
    "OpencodeEventsMemoryHigh": {
        f"opencode_events_held_bytes{NOW}}}": "95x20", f"opencode_events_held_limit_bytes{NOW}}}": "100x20",
    },
    "OpencodeEventsSubscribersOverflow": {
        f'opencode_events_subscribers_closed_total{NOW},reason="overflow_bytes"}}': "0+1x20",
        f'opencode_events_subscribers_closed_total{NOW},reason="operator"}}': "0+9x20",
    },
    "OpencodeEventsSubscribersFull": {
        f'opencode_events_subscribers{NOW},stream="global",state="live"}}': "90x20",
        f'opencode_events_subscribers{NOW},stream="instance",state="live"}}': "5x20",
        f"opencode_events_subscribers_limit{NOW}}}": "100x20",
    },
    "OpencodeEventsRetentionTooShort": {
        f'opencode_events_resumes_total{NOW},result="expired"}}': "0+1x20",
        f"opencode_events_subscribers_overtaken_total{NOW}}}": "0x20",
    },
    "OpencodeEventsCloseWait": {f"opencode_events_connections_close_wait{NOW}}}": "21x20"},
    "OpencodeEventsDescriptorsHigh": {
        f"process_open_fds{NOW}}}": "950x20", f"process_max_fds{NOW}}}": "1000x20",
    },
}  # fmt: skip
QUIET = {
    f"up{NOW}}}": "1x20",
    f"process_start_time_seconds{NOW}}}": "1x20",
    f"opencode_events_ready{NOW}}}": "1x20",
    f"opencode_events_upstream_live{NOW}}}": "1x20",
    f'opencode_events_loop_lag_seconds_bucket{NOW},le="0.5"}}': "0+100x20",
    f'opencode_events_loop_lag_seconds_bucket{NOW},le="+Inf"}}': "0+100x20",
    f"opencode_events_held_bytes{NOW}}}": "0x20",
    f"opencode_events_held_limit_bytes{NOW}}}": "100x20",
    f'opencode_events_subscribers_closed_total{NOW},reason="overflow_bytes"}}': "5x20",
    f'opencode_events_resumes_total{NOW},result="expired"}}': "20x20",
    f"opencode_events_connections_close_wait{NOW}}}": "20x20",
}


def test_each_alert_comes_when_it_shall_and_none_when_all_is_well(tmp_path: Path) -> None:
    def example(series: dict[str, str], expected: set[str]) -> dict[str, Any]:
        given = [{"series": name, "values": values} for name, values in series.items()]
        asked = [
            # How many there are: whatever its other labels, at the twentieth minute it is firing, or is not.
            {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)', "eval_time": "20m",
             "exp_samples": [{"labels": "{}", "value": int(name in expected)}]}
            for name in SERIES
        ]  # fmt: skip
        return {"interval": "1m", "input_series": given, "promql_expr_test": asked}

    tests = [example(series, {name}) for name, series in SERIES.items()] + [example(QUIET, set())]
    path = tmp_path / "tests.yml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))

    assert set(SERIES) == set(alerts())
    assert "SUCCESS" in promtool("test", "rules", path)


# --- what it costs


async def test_a_scrape_counts_ten_thousand_subscribers() -> None:
    """A tenth of them have something waiting. That the loop turns meanwhile is the census's."""
    loop = asyncio.get_running_loop()
    eventlog = SqliteLog(None, EventLogSettings())
    broker = Broker(BrokerSettings(), eventlog, loop)
    for number in range(10_000):
        handle = broker.subscribe(Selection(stream="global"), terms(), None)
        handle.attach(FakeConnection())
        if number % 10 == 0:
            handle.pause()
            handle.deliver(segment(1))
    metrics = Metrics("1.2.3", broker, {"broker": broker.statistics, "log": eventlog.statistics}, lambda: True)

    answer = await metrics(None)  # type: ignore[arg-type]  # it looks at nothing of the request
    eventlog.close()

    assert answer.body is not None
    assert b'opencode_events_subscribers{state="live",stream="global"} 10000.0\n' in bytes(answer.body)  # type: ignore[arg-type]
    assert b'opencode_events_backlog_events_bucket{le="0.0"} 9000.0\n' in bytes(answer.body)  # type: ignore[arg-type]
