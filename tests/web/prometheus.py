"""Prometheus's own tool, which is in Debian's package `prometheus`, and what docs/ has for it and for Grafana."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
ALERTS, BOARD = DOCS / "alerts.yml", DOCS / "grafana.json"
NAME = re.compile(r"\b(?:opencode_events|process)_[a-z_]+\b")


def promtool(*arguments: object, given: str = "") -> str:
    """Run it; return what it says."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerts() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", ALERTS.read_text("utf-8"), re.MULTILINE)


def alert_expressions() -> list[str]:
    return re.findall(r"^ +expr: ((?:.|\n)+?)\n +(?:for|labels): ", ALERTS.read_text("utf-8"), re.MULTILINE)


def board_expressions() -> Iterator[str]:
    for panel in json.loads(BOARD.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
