"""The audit: whatever is killed when, each subscriber sees every acknowledged event once, in order.

Four publishers note every acknowledgement, and subscribers of eight kinds come back by `Last-Event-ID`, while the
daemon is killed with -9 at random moments, while it starts as well, and started again. At the end, what each has seen
is compared with the log, byte for byte, and the log with the acknowledgements.

Each of the five runs has its own seed, which is in its name, and `SOAK_KILLS` kills: 20, or what that environment
variable says. `SOAK_SEED` is added to the seeds: `SOAK_KILLS=200 SOAK_SEED=1000 pytest tests/e2e/test_kill.py`.
"""

import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from opencode_events.events import DISPOSED
from tests.clients import NDJSON
from tests.e2e.audience import Audience, Kind, Listener
from tests.e2e.ledger import Ledger, Logged, anything, of_instance, plain, read_log
from tests.e2e.publishers import DIRECTORIES, four, publishing
from tests.servers import Daemon, free_port

StartDaemon = Callable[..., Daemon]

KILLS = int(os.environ.get("SOAK_KILLS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "0"))
# Seconds that a daemon lives at most, and in which one that is killed at its start has come to something.
LIFE_S = 0.5
START_S = 0.6

RUNS: dict[int, dict[str, Any]] = {
    1: {},
    2: {"uvloop": False},
    3: {"durability": "full"},
    4: {"uvloop": False, "takeover": False, "recent_events": 1},
    5: {"takeover": False, "replay_events": 50, "segment_events": 5},
}


def is_typed(row: Logged) -> bool:
    """Whether a row passes `types=message.*,session.updated`."""
    return row.type.startswith("message.") or row.type == "session.updated" or row.type == DISPOSED


KINDS = [
    Kind(name="global", wants=anything),
    Kind(name="instance", target=f"/event?directory={DIRECTORIES[0]}", wants=of_instance(DIRECTORIES[0])),
    Kind(name="types", target="/global/event?types=message.*,session.updated", wants=is_typed),
    Kind(name="sync none", target="/global/event?sync=none&end=abort", wants=plain),
    Kind(name="lines", fields=(f"Accept: {NDJSON}",), wants=anything),
    Kind(name="HTTP/1.0", version="1.0", wants=anything),
    Kind(
        name="slow",
        target="/global/event?on_overflow=catchup",
        receive_buffer=8_192,
        pace=100_000,
        wants=anything,
    ),
    Kind(name="cut", target="/global/event?sync=none", cuts=100, wants=plain),
]


@pytest.mark.limit_s(45 + 4 * KILLS)
@pytest.mark.parametrize("seed", RUNS, ids=lambda seed: f"seed {seed + SEED}")
def test_across_kills_every_acknowledged_event_is_seen_once_in_order(start_daemon: StartDaemon, seed: int) -> None:
    chance = random.Random(seed + SEED)
    settings = {"port": free_port(), "backlog_events": 500, "heartbeat_s": 0.2, **RUNS[seed]}
    daemon = start_daemon(**settings)
    ledger = Ledger()
    listeners = [Listener(kind) for kind in KINDS]
    audience = Audience(daemon.url, listeners, random.Random(chance.random()))
    publishers = four(daemon.url, ledger, chance, pause_s=0.015)

    with audience, publishing(publishers):
        for number in range(KILLS):
            time.sleep(chance.uniform(0, LIFE_S if hasattr(daemon, "url") else START_S))
            daemon.kill()
            daemon = start_daemon(is_awaited=number == KILLS - 1 or chance.random() < 0.8, **settings)
        for publisher in publishers:
            publisher.stop()
        rows = read_log(daemon.log_path)
        ledger.check(rows)
        audience.hurry()
        audience.check(rows)

    assert len(ledger) > 10 * KILLS
    assert min(publisher.answered for publisher in publishers) > 0
    assert min(listener.connections for listener in audience.listeners) > 1
    assert [line for line in daemon.lines() if line["level"] == "error"] == []
