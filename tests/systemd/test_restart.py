"""A restart whose port is held by somebody else: nobody is refused, nothing is lost."""

import contextlib
import random
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import envelope, until
from tests.e2e.audience import Audience, Kind, Listener
from tests.e2e.ledger import Ledger, anything, of_instance, read_log
from tests.e2e.publishers import DIRECTORIES, four, publishing
from tests.systemd.activation import Activated

SUBSCRIBERS = 500
KINDS = (
    Kind(name="all", wants=anything),
    Kind(name="instance", wants=of_instance(DIRECTORIES[1]), target=f"/event?directory={DIRECTORIES[1]}"),
)


class Knocker:
    """Connects all the time; `refused` is how often nobody was there."""

    def __init__(self, port: int) -> None:
        self.refused = self.connected = 0
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Knocker":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.002):
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=30).close()
                self.connected += 1
            except OSError:
                self.refused += 1


@pytest.fixture
def opened() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.limit_s(180)
@pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])
def test_five_hundred_resume_under_load_and_nothing_is_lost(
    opened: contextlib.ExitStack, tmp_path: Path, uvloop: bool
) -> None:
    daemons = Activated(tmp_path, uvloop=uvloop, drain_s=30)  # all of them are read by one thread
    opened.callback(daemons.kill)
    until(lambda: daemons.client.get("/-/ready").status == 200)
    ledger, chance = Ledger(), random.Random(6)
    listeners = [Listener(KINDS[number % 5 == 0]) for number in range(SUBSCRIBERS)]
    audience = opened.enter_context(Audience(daemons.url, listeners, chance))
    publishers = four(daemons.url, ledger, chance, pause_s=0.2)
    opened.enter_context(publishing(publishers))
    knocker = opened.enter_context(Knocker(daemons.port))
    until(lambda: len(ledger) > 100)

    daemons.restart()

    before, knocked = len(ledger), knocker.connected
    until(lambda: len(ledger) > before + 100, timeout_s=30)
    for publisher in publishers:
        publisher.stop()
    until(lambda: all(one.connections == 2 for one in listeners), timeout_s=30)
    assert knocker.connected > knocked
    assert knocker.refused == 0
    assert audience.refused == 0
    rows = read_log(daemons.state_dir / "events.sqlite3")
    ledger.check(rows)
    audience.check(rows, timeout_s=60)
    for one in listeners:
        (goodbye,) = one.told_of("server.stream.closing")
        assert goodbye.properties["reason"] == "shutdown"
        assert goodbye.retry is not None
        assert one.told_of("server.connected")[1].properties["resumed"] is True


def test_who_comes_while_nobody_is_there_is_served_by_the_next(opened: contextlib.ExitStack, tmp_path: Path) -> None:
    daemons = Activated(tmp_path)
    opened.callback(daemons.kill)
    client = daemons.client
    stream = client.subscribe()
    first = client.publish(envelope(1))["last"]
    assert stream.frame().event == "evt_1"

    before = daemons.pid()
    after = daemons.restart()

    assert stream.rest()[-1].type == "server.stream.closing"
    assert stream.ended == "clean"
    resumed = client.subscribe("/global/event", f"Last-Event-ID: {first}")
    assert resumed.connected is not None
    assert resumed.connected.properties["resumed"] is True
    assert before != after
    assert daemons.end() == 0
    assert re.findall(r'"inherited": (\d)', daemons.said()) == ["1", "1"]


def test_where_it_listens_is_what_was_inherited_whatever_the_settings_say(
    opened: contextlib.ExitStack, tmp_path: Path
) -> None:
    daemons = Activated(tmp_path, lives=1, port=1)
    opened.callback(daemons.kill)

    assert daemons.client.get("/-/healthy").status == 200
    until(lambda: f'"url": "{daemons.url}"' in daemons.said())
