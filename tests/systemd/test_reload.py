"""SIGHUP: a daemon that runs takes what it can of its new settings, names the rest, and survives bad ones."""

import os
import pty
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opencode_events import service, statedir
from opencode_events.reloaders import Reloaders
from opencode_events.settings import Settings
from tests.clients import envelope, until
from tests.servers import Daemon

ROOT = Path(__file__).parents[2]
CERTIFICATE = ROOT / "tests/data/localhost.pem"
StartDaemon = Callable[..., Daemon]


class Configured:
    """A daemon with a file of settings."""

    def __init__(self, start_daemon: StartDaemon, file: Path, text: str = "", **changes: object) -> None:
        self.file = file
        file.write_text(text)
        self.daemon = start_daemon(config=file, **changes)

    def reload(self, text: str) -> dict[str, Any]:
        """Change the file, send SIGHUP, and return what was logged of it."""
        self.file.write_text(text)
        before = len(self.told())
        self.daemon.signal(signal.SIGHUP)
        until(lambda: len(self.told()) > before)
        return self.told()[-1]

    def told(self) -> list[dict[str, Any]]:
        return [line for line in self.daemon.lines() if str(line["event"]).startswith("daemon.reload")]


@pytest.fixture
def configured(start_daemon: StartDaemon, tmp_path: Path) -> Callable[..., Configured]:
    def start(text: str = "", **changes: object) -> Configured:
        return Configured(start_daemon, tmp_path / "config.toml", text, **changes)

    return start


def test_limits_change_for_those_who_come_and_nobody_is_lost(configured: Callable[..., Configured]) -> None:
    run = configured("max_subscribers = 2\n")
    client = run.daemon.client
    first, second = client.subscribe(), client.subscribe()
    assert client.get("/global/event").status == 503

    line = run.reload("max_subscribers = 3\n")

    assert (line["level"], line["changed"], line["needs_restart"]) == ("info", ["max_subscribers"], [])
    third = client.subscribe()
    client.publish(envelope(1))
    assert [stream.frame().event for stream in (first, second, third)] == ["evt_1"] * 3
    run.reload("max_subscribers = 1\n")
    assert client.get("/global/event").status == 503
    client.publish(envelope(2))
    assert first.frame().event == "evt_2", "who is there already stays"


def test_the_log_says_more_from_then_on(configured: Callable[..., Configured]) -> None:
    run = configured("log_level = 'error'\n")
    run.daemon.client.subscribe()
    assert run.daemon.lines() == []

    line = run.reload("log_level = 'info'\n")
    run.daemon.client.subscribe()

    assert line["changed"] == ["log_level"]
    until(lambda: [each for each in run.daemon.lines() if each["event"] == "subscriber.opened"])


def test_what_needs_a_restart_is_named(configured: Callable[..., Configured]) -> None:
    run = configured()

    line = run.reload("durability = 'full'\nheartbeat_s = 2\nuvloop = false\n")

    assert line["event"] == "daemon.reloaded"
    assert line["level"] == "warning"
    assert (line["changed"], line["needs_restart"]) == (["heartbeat_s"], ["uvloop", "durability"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("log_level = 'loud'\n", "log_level ({file}): must be one of debug, info, warning, error, not 'loud'"),
        ("colour = 1\n", "colour ({file}): is not a setting"),
        ("max_subscribers = \n", "config ({file}): cannot be read: "),
    ],
    ids=["a value", "a name", "no toml"],
)
def test_a_bad_file_changes_nothing_and_is_told(configured: Callable[..., Configured], text: str, reason: str) -> None:
    run = configured("max_subscribers = 1\n")
    run.daemon.client.subscribe()

    line = run.reload(text + "max_subscribers = 9\n" * ("subscribers" not in text))

    assert (line["event"], line["level"]) == ("daemon.reload_failed", "error")
    assert line["reason"].startswith(reason.format(file=run.file))
    assert run.daemon.client.get("/global/event").status == 503
    assert run.reload("max_subscribers = 9\n")["changed"] == ["max_subscribers"]


def test_a_new_certificate_serves_the_next_connection_and_old_ones_go_on(
    configured: Callable[..., Configured], tmp_path: Path
) -> None:
    chain = tmp_path / "chain.pem"
    shutil.copy(CERTIFICATE, chain)
    run = configured(f"tls_cert = '{chain}'\n", is_awaited=False)
    info = until(lambda: statedir.read(run.daemon.state_dir))
    port = int(info.url.rpartition(":")[2])
    before = ssl.get_server_certificate(("127.0.0.1", port))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
         "/CN=localhost", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip

    chain.write_text("no certificate")
    refused = run.reload(run.file.read_text())
    assert refused["event"] == "daemon.reload_failed"
    assert f"{chain} cannot be used" in refused["reason"]
    assert ssl.get_server_certificate(("127.0.0.1", port)) == before

    chain.write_bytes((tmp_path / "key").read_bytes() + (tmp_path / "cert").read_bytes())
    run.reload(run.file.read_text())
    after = ssl.get_server_certificate(("127.0.0.1", port))
    assert after.split() == (tmp_path / "cert").read_text().split()
    assert after != before


def test_what_can_be_reloaded_is_told() -> None:
    """The table of the docs is what the parts claim; the tokens' part is added where the tokens are."""
    nothing: Any = None
    known = Reloaders(Settings(), Settings)
    service.claim(known, broker=nothing, patrol=nothing, eventlog=nothing, tls=nothing)

    section = (ROOT / "docs/operations.md").read_text("utf-8").partition("\n### Reload\n")[2].partition("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`([a-z_]+)`", "".join(rows))) == {*known.names, "tokens_file"}


def test_the_hang_up_of_its_terminal_ends_it(tmp_path: Path) -> None:
    """Else it would stay behind, unseen, when a window is closed."""
    ours, theirs = pty.openpty()
    state = tmp_path / "state"
    command = [sys.executable, "-m", "opencode_events", "run", "--port=0", f"--state-dir={state}"]
    with (tmp_path / "log").open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=output, stderr=output)
    os.close(theirs)
    try:
        until(lambda: statedir.read(state))
        process.send_signal(signal.SIGHUP)
        until(lambda: "daemon.reloaded" in (tmp_path / "log").read_text())
        assert process.poll() is None

        os.close(ours)
        process.send_signal(signal.SIGHUP)  # as the kernel does to whom the terminal controls

        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
