"""The alert rules and the board: Prometheus understands them, and each alert comes when it shall, and only then."""

import json
import re
from pathlib import Path
from typing import Any

from opencode_events.web.measures import PREFIX
from tests.web.prometheus import ALERTS, BOARD, DOCS, NAME, alert_expressions, alerts, board_expressions, promtool

NOW = '{instance="here:1",job="opencode-events"'


def buckets(name: str, **below: int) -> dict[str, str]:
    """Return a histogram that grows by so much each minute: `below` has how many of that are in which bucket."""
    bounds = {bound.removeprefix("le_").replace("_", "."): count for bound, count in below.items()}
    return {f'{PREFIX}{name}_bucket{NOW},le="{bound}"}}': f"0+{count}x20" for bound, count in bounds.items()} | {
        f'{PREFIX}{name}_bucket{NOW},le="+Inf"}}': "0+100x20"
    }


# What each alert is for, and what is nearly so.
SERIES = {
    "OpencodeEventsDown": {f"up{NOW}}}": "0x20"},
    "OpencodeEventsRestarting": {f"process_start_time_seconds{NOW}}}": "1 2 3 4x17"},
    "OpencodeEventsNotReady": {f"opencode_events_ready{NOW}}}": "0x20"},
    "OpencodeEventsUpstreamAway": {f"opencode_events_upstream_live{NOW}}}": "0x20"},
    "OpencodeEventsLoopLags": buckets("loop_lag_seconds", le_0_5=90, le_1_0=100, le_2_5=100),
    "OpencodeEventsLoopHeld": {
        f'opencode_events_loop_lag_seconds_bucket{NOW},le="0.5"}}': "0+240x10 2639+240x10",
        f'opencode_events_loop_lag_seconds_bucket{NOW},le="2.5"}}': "0+240x10 2639+240x10",
        f'opencode_events_loop_lag_seconds_bucket{NOW},le="+Inf"}}': "0+240x10 2640+240x10",
    },
    "OpencodeEventsPublishSlow": buckets("publish_duration_seconds", le_1_0=90, le_2_5=100),
    "OpencodeEventsCommitSlow": buckets("log_commit_duration_seconds", le_0_5=90, le_1_0=100),
    "OpencodeEventsMemoryHigh": {
        f"opencode_events_held_bytes{NOW}}}": "91x20", f"opencode_events_held_limit_bytes{NOW}}}": "100x20",
    },
    "OpencodeEventsMemoryShort": {f"opencode_events_memory_short{NOW}}}": "1x20"},
    "OpencodeEventsSubscribersOverflow": {
        f'opencode_events_subscribers_closed_total{NOW},reason="overflow_bytes"}}': "0+1x20",
        f'opencode_events_subscribers_closed_total{NOW},reason="operator"}}': "0+9x20",
    },
    "OpencodeEventsSubscribersFull": {
        f'opencode_events_subscribers{NOW},stream="global",state="live"}}': "86x20",
        f'opencode_events_subscribers{NOW},stream="instance",state="live"}}': "5x20",
        f"opencode_events_subscribers_limit{NOW}}}": "100x20",
    },
    "OpencodeEventsAtLimit": {f'opencode_events_http_refusals_total{NOW},status="503"}}': "0+3x20"},
    "OpencodeEventsStrangers": {f'opencode_events_http_refusals_total{NOW},status="401"}}': "0+8x20"},
    "OpencodeEventsFaults": {f'opencode_events_http_refusals_total{NOW},status="500"}}': "0x10 1x9"},
    "OpencodeEventsRetentionTooShort": {
        f'opencode_events_resumes_total{NOW},result="expired"}}': "0+1x6 6x13",
        f"opencode_events_subscribers_overtaken_total{NOW}}}": "0+1x6 6x13",
    },
    "OpencodeEventsCloseWait": {f"opencode_events_connections_close_wait{NOW}}}": "21x20"},
    "OpencodeEventsDescriptorsHigh": {
        f"process_open_fds{NOW}}}": "910x20", f"process_max_fds{NOW}}}": "1000x20",
    },
}  # fmt: skip
QUIET = {
    f"up{NOW}}}": "1x20",
    f"process_start_time_seconds{NOW}}}": "1 2 3x18",
    f"opencode_events_ready{NOW}}}": "1x19 0",
    f"opencode_events_upstream_live{NOW}}}": "1x18 0x1",
    **buckets("loop_lag_seconds", le_0_5=99, le_1_0=100, le_2_5=100),
    **buckets("publish_duration_seconds", le_1_0=99, le_2_5=100),
    **buckets("log_commit_duration_seconds", le_0_5=99, le_1_0=100),
    f"opencode_events_held_bytes{NOW}}}": "90x20",
    f"opencode_events_held_limit_bytes{NOW}}}": "100x20",
    f"opencode_events_memory_short{NOW}}}": "0x20",
    f'opencode_events_subscribers_closed_total{NOW},reason="overflow_bytes"}}': "5x10 9x10",
    f'opencode_events_subscribers{NOW},stream="global",state="live"}}': "90x20",
    f"opencode_events_subscribers_limit{NOW}}}": "100x20",
    f'opencode_events_http_refusals_total{NOW},status="400"}}': "0+100x20",
    f'opencode_events_http_refusals_total{NOW},status="401"}}': "0+6x20",
    f'opencode_events_http_refusals_total{NOW},status="403"}}': "0+6x20",
    f'opencode_events_http_refusals_total{NOW},status="429"}}': "0+2x20",
    f'opencode_events_http_refusals_total{NOW},status="503"}}': "0+2x20",
    f'opencode_events_http_refusals_total{NOW},status="500"}}': "7x20",
    f'opencode_events_resumes_total{NOW},result="expired"}}': "20x10 29x10",
    f'opencode_events_resumes_total{NOW},result="fresh"}}': "0+100x20",
    f"opencode_events_subscribers_overtaken_total{NOW}}}": "0x20",
    f"opencode_events_connections_close_wait{NOW}}}": "20x20",
    f"process_open_fds{NOW}}}": "900x20",
    f"process_max_fds{NOW}}}": "1000x20",
}


def test_each_alert_comes_when_it_shall_and_only_for_the_daemon_that_it_is_about(tmp_path: Path) -> None:
    beside = {name.replace("here:1", "beside:1"): values for name, values in QUIET.items()}

    def example(series: dict[str, str], expected: set[str]) -> dict[str, Any]:
        given = [{"series": name, "values": values} for name, values in (series | beside).items()]
        asked = [
            # How many there are, wherever; and how many with the labels by which a message finds its readers.
            {"expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"{labels}}}) or vector(0)',
             "eval_time": "20m", "exp_samples": [{"labels": "{}", "value": int(name in expected)}]}
            for name in SERIES for labels in ("", ',instance="here:1",job="opencode-events"')
        ]  # fmt: skip
        return {"interval": "1m", "input_series": given, "promql_expr_test": asked}

    tests = [example(series, {name}) for name, series in SERIES.items()] + [example({}, set())]
    path = tmp_path / "tests.yml"
    path.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))

    assert set(SERIES) == set(alerts())
    assert "SUCCESS" in promtool("test", "rules", path)


def test_what_is_nearly_so_has_every_metric_that_an_alert_asks_for() -> None:
    asked = {name for expression in alert_expressions() for name in NAME.findall(expression)}

    assert asked <= {name.partition("{")[0] for name in QUIET}


# --- that they are understood


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
