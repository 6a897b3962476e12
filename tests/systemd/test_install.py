"""`systemd install` writes units that start this very command; what it has not written it leaves alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from opencode_events.cli import systemd
from opencode_events.cli.main import main

NAMES = {"opencode-events.service", "opencode-events.socket"}


class Installed:
    """Directories instead of the system's, and the commands on them."""

    def __init__(self, path: Path) -> None:
        self.units, self.settings = path / "units", path / "settings"

    def install(self, *more: str) -> Result:
        places = [f"--directory={self.units}", f"--config-directory={self.settings}"]
        return CliRunner().invoke(main, ["systemd", "install", *places, *more])

    def uninstall(self, *more: str) -> Result:
        return CliRunner().invoke(main, ["systemd", "uninstall", f"--directory={self.units}", *more])

    def names(self) -> set[str]:
        return {path.name for path in self.units.iterdir()}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    monkeypatch.setattr(systemd, "HIDDEN", ())  # wherever the tests run
    return Installed(tmp_path)


def test_the_units_start_the_command_that_wrote_them(installed: Installed) -> None:
    result = installed.install()

    assert result.exit_code == 0, result.output
    assert installed.names() == {*NAMES, "opencode-events@.service"}
    text = (installed.units / "opencode-events.service").read_text()
    assert text.startswith("# Written by `opencode-events systemd install`")
    assert f"ExecStart={Path(sys.executable).parent}/opencode-events run --state-dir %S/opencode-events\n" in text
    assert "/usr/bin/env" not in text
    assert "  systemctl enable --now opencode-events.socket opencode-events.service\n" in result.output
    for name in sorted(installed.names()):
        done = subprocess.run(
            ["systemd-analyze", "verify", str(installed.units / name)], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("more", [(), ("--user",)], ids=["system", "user"])
def test_a_service_of_the_system_may_read_its_settings_whatever_the_umask(
    installed: Installed, more: tuple[str, ...]
) -> None:
    before = os.umask(0o077)
    try:
        installed.install(*more)
    finally:
        os.umask(before)

    modes = {path.stat().st_mode & 0o777 for path in (installed.settings, installed.units)}
    assert modes == ({0o700} if more else {0o755})
    files = {path.stat().st_mode & 0o777 for path in (*installed.settings.iterdir(), *installed.units.iterdir())}
    assert files == ({0o600} if more else {0o644})


def test_a_directory_that_is_there_keeps_its_mode(installed: Installed) -> None:
    installed.settings.mkdir(0o750)

    installed.install()

    assert installed.settings.stat().st_mode & 0o777 == 0o750


def test_systemd_finds_the_program_wherever_it_is(tmp_path: Path) -> None:
    program = tmp_path / "a b %n $HOME ü" / "opencode-events"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name, text in systemd.render(systemd.quoted(str(program)), is_user=False):
        (tmp_path / name).write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "opencode-events.service")], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_users_units_have_no_instances_and_the_usual_state_directory(installed: Installed) -> None:
    result = installed.install("--user")

    assert installed.names() == NAMES
    assert "/opencode-events run\n" in (installed.units / "opencode-events.service").read_text()
    assert "systemctl --user enable --now " in result.output


def test_the_settings_file_is_written_once(installed: Installed) -> None:
    installed.install()
    file = installed.settings / "config.toml"
    assert CliRunner().invoke(main, ["check-config", f"--config={file}"]).exit_code == 0
    file.write_text("port = 5\n")

    installed.install()

    assert file.read_text() == "port = 5\n"


def test_what_install_wrote_it_writes_again_and_uninstall_removes(installed: Installed) -> None:
    installed.install()
    (installed.units / "other.service").write_text("")

    assert installed.install().exit_code == 0
    result = installed.uninstall()

    assert result.exit_code == 0
    assert installed.names() == {"other.service"}
    assert (installed.settings / "config.toml").exists()
    assert installed.uninstall().exit_code == 1


def test_what_somebody_else_wrote_is_kept_unless_forced(installed: Installed) -> None:
    installed.units.mkdir()
    own = installed.units / "opencode-events.service"
    own.write_text("[Service]\n")

    refused = installed.install()
    assert refused.output == f"error: {own} was not written by this command: look at it, then use --force\n"
    assert refused.exit_code == 1
    assert installed.names() == {own.name}
    assert f"left {own}" in installed.uninstall().output

    assert installed.install("--force").exit_code == 0
    assert "ExecStart=" in own.read_text()


def test_a_place_that_cannot_be_written_is_told(installed: Installed) -> None:
    (installed.units / "opencode-events.service").mkdir(parents=True)

    result = installed.install()

    assert result.exit_code == 1
    assert result.output.startswith(f"error: {installed.units}/opencode-events.service cannot be read: ")


def test_what_a_service_of_the_system_cannot_see_is_refused(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "HIDDEN", (str(Path(sys.executable).parent),))

    refused = installed.install()

    assert refused.exit_code == 1
    assert f"a service of the system cannot see {Path(sys.executable).parent}" in refused.output
    assert installed.install("--user").exit_code == 0


def test_show_prints_what_would_be_written(installed: Installed) -> None:
    shown = CliRunner().invoke(main, ["systemd", "show", "--user"]).output

    assert shown.startswith("# --- ")
    for name, text in systemd.render(systemd.find_command(is_user=True), is_user=True):
        assert f"/systemd/user/{name}\n{text}" in shown


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/opt/a/bin/opencode-events", "/opt/a/bin/opencode-events"),
        ("/opt/100%/$HOME", "/opt/100%%/$HOME"),
        ('/opt/a b/"c"\\', '"/opt/a b/\\"c\\"\\\\"'),
    ],
    ids=["plain", "specifiers", "quotes"],
)
def test_a_path_is_written_as_systemd_reads_it(word: str, written: str) -> None:
    assert systemd.quoted(word) == written
