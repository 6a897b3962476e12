"""The unit files: what systemd makes of them, and that they fit the daemon."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from opencode_events.service import END_S
from opencode_events.settings import Settings

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "opencode_events/units"
SYSTEM = ("opencode-events.service", "opencode-events@.service", "opencode-events.socket")
USER = ("opencode-events.service", "opencode-events.socket")
MOST_EXPOSED = 20  # tenths


def analyze(*arguments: str, run_dir: Path) -> str:
    """Return what `systemd-analyze` says, which must not fail. A user's manager needs a place for its files."""
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        env=os.environ | {"XDG_RUNTIME_DIR": str(run_dir), "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Return the values that each name has in a unit file."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        if not line.startswith(("#", "[")) and line:
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_files_are_where_people_look_for_them() -> None:
    assert {path.name for path in (ROOT / "systemd").iterdir()} == {*SYSTEM, "user"}
    assert {path.name for path in (ROOT / "systemd/user").iterdir()} == set(USER)


@pytest.mark.parametrize("name", SYSTEM)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    assert analyze("verify", str(UNITS / name), run_dir=tmp_path) == ""


@pytest.mark.parametrize("name", USER)
def test_a_users_manager_finds_nothing_wrong_with_a_unit(name: str, tmp_path: Path) -> None:
    assert analyze("verify", "--user", str(UNITS / "user" / name), run_dir=tmp_path) == ""


@pytest.mark.parametrize("name", [name for name in SYSTEM if name.endswith(".service")])
def test_a_service_of_the_system_can_do_little_harm(name: str, tmp_path: Path) -> None:
    said = analyze(
        "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSED}", str(UNITS / name), run_dir=tmp_path
    )

    assert re.search(r"Overall exposure level for \S+: [01]\.[0-9] OK", said)


@pytest.mark.parametrize("unit", [UNITS / name for name in SYSTEM[:2]] + [UNITS / "user" / USER[0]], ids=str)
def test_the_daemon_is_given_the_time_that_it_takes(unit: Path) -> None:
    found = settings_of(unit)
    defaults = Settings()

    assert int(found["TimeoutStopSec"][0]) > defaults.server.drain_s + END_S
    assert int(found["WatchdogSec"][0]) < 30, "a loop that is blocked for 30 s is seen, whenever that began"
    assert found["Type"] == ["notify"]
    assert found["NotifyAccess"] == ["main"], "nobody else feeds the watchdog"
    if "LimitNOFILE" in found:
        assert int(found["LimitNOFILE"][0]) > 2 * defaults.broker.max_subscribers


def test_the_socket_is_the_one_that_the_daemon_would_open() -> None:
    server = Settings().server
    found = settings_of(UNITS / SYSTEM[2])

    assert found["ListenStream"] == [f"{server.host}:{server.port}"]
    assert found["Backlog"] == [str(server.listen_backlog)]
    assert (UNITS / "user" / USER[1]).read_bytes() == (UNITS / SYSTEM[2]).read_bytes()


@pytest.mark.parametrize("unit", [UNITS / name for name in SYSTEM[:2]] + [UNITS / "user" / USER[0]], ids=str)
def test_it_is_tried_again_for_as_long_as_it_fails(unit: Path) -> None:
    """A limit of starts counts those by hand, too, and what ends at it takes the socket unit's port along."""
    found = settings_of(unit)

    assert found["Restart"] == ["on-failure"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert int(found["RestartSec"][0]) >= 1, "a setting that stays bad costs next to nothing"


def test_whoever_enables_the_socket_has_it_whenever_the_service_is_started() -> None:
    assert settings_of(UNITS / SYSTEM[2])["WantedBy"] == ["sockets.target", "opencode-events.service"]


def test_an_instance_differs_from_the_service_in_its_name_only() -> None:
    """Its state, its settings and its secrets are its own; whatever is taken from the one is taken from the other."""
    one, many = (settings_of(UNITS / name) for name in SYSTEM[:2])

    assert one.keys() == many.keys()
    assert {name for name in one if one[name] != many[name]} == {
        "Description", "Environment", "EnvironmentFile", "ExecReload", "ExecStart", "ExecStartPre", "StateDirectory",
    }  # fmt: skip
    assert many["StateDirectory"] == ["opencode-events-%i"]
    assert many["ExecStart"][0].endswith("--state-dir %S/opencode-events-%i")


def test_settings_are_checked_before_a_start_and_before_a_reload() -> None:
    found = settings_of(UNITS / SYSTEM[0])

    assert "check-config --quiet" in found["ExecStartPre"][0]  # a table in the journal at each start helps nobody
    assert "check-config --quiet" in found["ExecReload"][0]
    assert found["ExecReload"][1] == "/bin/kill -HUP $MAINPID"
