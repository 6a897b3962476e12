"""`/-/metrics`: what it says is so, Prometheus's own tool finds nothing wrong with it, and the docs know every name."""

import asyncio
import re
from collections.abc import Callable
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
from opencode_events.watchdog.classify import Evict
from opencode_events.web.measures import EVICTED, MEASURES, PREFIX, REFUSALS
from opencode_events.web.memory import Memory
from opencode_events.web.metrics import Metrics, of_parts
from tests.broker.fakes import FakeConnection, segment, terms
from tests.clients import Client, dumps, envelope, until
from tests.servers import Daemon, Server, free_port
from tests.web.prometheus import DOCS, NAME, alert_expressions, alerts, board_expressions, promtool

# What of the statistics is no metric: words, and what is one under another name.
NO_METRICS = {
    "broker": {"head", "subscribers", "subscribers_by_state"},
    "log": {"path", "epoch", "durability"},
    "upstream": {"url", "trouble"},
    "memory": {"rss_bytes"},
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

    def look() -> tuple[dict[str, float], list[dict[str, Any]]] | None:
        """Return what both say, when the kernel has taken nothing between the two looks."""
        found, handles = samples(scrape(client)), client.subscribers()
        is_one_moment = found["backlog_events_gsum"] == sum(handle["queued_events"] for handle in handles)
        return (found, handles) if is_one_moment else None

    found, handles = until(look)
    assert found['backlog_events_bucket{le="0.0"}'] == 0
    assert found["backlog_events_gcount"] == found["backlog_age_seconds_gcount"] == 2
    assert found["backlog_events_gsum"] > 0
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


def test_refusals_are_counted_by_status_and_known_ones_are_there_from_the_beginning() -> None:
    parts = {"http": lambda: {"connections": 2, "refusals": {"503": 12, "418": 1}}}
    _, family = of_parts(parts)

    assert (family.name, family.type) == ("opencode_events_http_refusals", "counter")
    assert {sample.name for sample in family.samples} == {"opencode_events_http_refusals_total"}
    found = {sample.labels["status"]: sample.value for sample in family.samples}
    assert (found["503"], found["418"], found["429"]) == (12, 1, 0)
    assert found.keys() == {*REFUSALS, "418"}


def test_who_is_refused_is_counted_and_who_asks_whether_it_is_ready_is_not(server: Server) -> None:
    client = server.client
    client.send("GET", "/-/status", Host="evil.example")
    client.send("POST", "/global/event", b"{}", Content_Type="text/plain")
    client.send("POST", "/global/event", b"{}", Content_Type="text/plain")
    client.get("/nowhere")
    client.send("PUT", "/event")
    server.run(lambda: server.broker.drain(0))
    client.get("/-/ready")
    client.post("/global/event", dumps(envelope(1)))

    found = samples(scrape(client))
    refused = {name[-5:-2]: count for name, count in found.items() if name.startswith("http_refusals_total") and count}
    assert refused == {"403": 1, "415": 2, "404": 1, "405": 1, "503": 1}
    assert client.status()["http"]["refusals"] == refused


def test_a_wrong_password_is_counted(serve: Callable[..., Server], tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.touch(0o600)
    tokens.write_text('[all]\ntoken = "0123456789abcdefghijkl"\nscopes = ["operate"]\n')
    client = serve(tokens_file=str(tokens)).client
    client.get("/-/status")

    answer = client.send("GET", "/-/metrics", Authorization="Bearer 0123456789abcdefghijkl")
    assert samples(answer.body.decode())['http_refusals_total{status="401"}'] == 1


def test_memory_that_is_short_is_a_one() -> None:
    memory = Memory(1_000, read=lambda: 2_000, give_back=lambda: None)
    families = of_parts({"memory": memory.statistics})

    assert {family.name.removeprefix(PREFIX): family.samples[0].value for family in families} == {
        "memory_limit_bytes": 1_000, "memory_short": 1,
    }  # fmt: skip


def test_what_the_watchdog_ends_for_is_known_beforehand() -> None:
    assert {reason.value for reason in Evict} == set(EVICTED)


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


def test_promtool_finds_nothing_wrong(shielding: Client) -> None:
    shielding.subscribe()

    assert promtool("check", "metrics", given=scrape(shielding)) == ""


def test_alerts_and_board_ask_for_what_there_is(shielding: Client) -> None:
    text = scrape(shielding)
    there = {name.partition("{")[0] for name in re.findall(r"^(\S+) ", text, re.MULTILINE)}
    assert len(alert_expressions()) == len(alerts())
    asked = {name for expression in alert_expressions() for name in NAME.findall(expression)}
    asked |= {name for expression in board_expressions() for name in NAME.findall(expression)}

    assert asked - there == set()
    buckets = {
        bucket for expression in alert_expressions() for bucket in re.findall(r"\w+_bucket{le=[^}]+}", expression)
    }
    assert {f"\n{bucket} " in text for bucket in buckets} == {True}
    shown = {name for expression in board_expressions() for name in NAME.findall(expression)}
    assert {"opencode_events_loop_lag_seconds_bucket", "opencode_events_upstream_live"} <= shown


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
