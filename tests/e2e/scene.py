"""A daemon, publishers that go on, and subscribers that come back, for tests that do something to the daemon's log.

And what a daemon says of its log to whoever asks.
"""

import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.clients import Answer, Client, dumps, envelope, until
from tests.e2e.audience import Audience, Kind, Listener
from tests.e2e.ledger import Ledger, anything, of_instance, plain, read_log
from tests.e2e.publishers import DIRECTORIES, Publisher, four, publishing
from tests.servers import Daemon, free_port

StartDaemon = Callable[..., Daemon]

KINDS = [
    Kind(name="global", wants=anything),
    Kind(name="plain", target="/global/event?sync=none&on_overflow=catchup", wants=plain),
    Kind(
        name="instance",
        target=f"/event?directory={DIRECTORIES[0]}",
        wants=of_instance(DIRECTORIES[0]),
    ),
    Kind(name="cut", cuts=50, wants=anything),
]


class Scene:
    """A daemon, publishers that go on, and an audience that comes back, in a `with` block."""

    def __init__(self, start_daemon: StartDaemon) -> None:
        self._start_daemon = start_daemon
        self._settings = {"port": free_port(), "heartbeat_s": 0.2}
        self.daemon = start_daemon(**self._settings)
        self.ledger = Ledger()
        chance = random.Random(1)
        self.audience = Audience(self.daemon.url, [Listener(kind) for kind in KINDS], chance)
        self.publishers: list[Publisher] = four(self.daemon.url, self.ledger, chance, pause_s=0.02)
        self._block = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as block:
            block.enter_context(self.audience)
            block.enter_context(publishing(self.publishers))
            self._block = block.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._block.close()

    @property
    def client(self) -> Client:
        return self.daemon.client

    @property
    def log(self) -> Path:
        return self.daemon.log_path

    def go_on(self, events: int = 300) -> None:
        """Wait until so many more events are acknowledged."""
        before = len(self.ledger)
        until(lambda: len(self.ledger) >= before + events)

    def said(self, event: str) -> int:
        """Return how often the daemon has logged something."""
        return sum(line["event"] == event for line in self.daemon.lines())

    def end(self) -> None:
        """Kill the daemon with -9, start it again, and compare: acknowledgements, log and streams."""
        self.daemon.kill()
        self.daemon = self._start_daemon(**self._settings)
        self.go_on(50)
        for publisher in self.publishers:
            publisher.stop()
        rows = read_log(self.log)
        self.ledger.check(rows)
        self.audience.check(rows)


def publish(client: Client, name: str, size: int = 0) -> Answer:
    """Publish one event."""
    return client.post("/global/event", dumps(envelope(name, pad="x" * size)))


def is_unavailable(answer: Answer, reason: str) -> bool:
    """Whether an answer says that the log cannot take events; if so, it must say it well."""
    if answer.status == 200:
        return False
    assert answer.status == 503
    assert answer.head["Content-Type"] == "application/problem+json"
    assert answer.head["Retry-After"] == "1"
    assert answer.json["status"] == 503
    assert reason in answer.json["detail"]
    return True


def is_ready(client: Client) -> bool:
    return client.get("/-/ready").status == 200


def wait_unready(client: Client, reason: str) -> None:
    """Wait until it is not ready; it must say why, and be alive all the same."""
    answer = until(lambda: found if (found := client.get("/-/ready")).status != 200 else None)
    assert answer.status == 503
    assert answer.json["ready"] is False
    assert reason in answer.json["reasons"][0]
    assert client.get("/-/healthy").status == 200
