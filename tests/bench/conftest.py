"""What the tests of the load tool share: daemons that are known to be right, or wrong in one way."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opencode_events.bench.measure import Lab, Options
from opencode_events.bench.procfs import Process
from opencode_events.bench.target import Target

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


@pytest.fixture
def lab(start: Start) -> Lab:
    """A lab before a daemon that is right."""
    return lab_before(start("none"))


def lab_before(url: str) -> Lab:
    """Return a lab before the daemon at `url`, for short measurements."""
    target = Target.parse(url)
    options = Options(seconds=0.2, warm_up_s=0.1, history=60, quick=True)
    return Lab(target=target, process=Process(target.ask_pid()), options=options)
