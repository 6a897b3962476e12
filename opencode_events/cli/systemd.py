"""`systemd install|uninstall|show`: the unit files, with the paths of this installation.

The files themselves are in `units/`, and run as they stand there where the command is in the path that systemd gives to
services. Nothing here talks to systemd: what to tell it is printed.
"""

import os
import re
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import click

from opencode_events.errors import DaemonError

COMMAND = "/usr/bin/env opencode-events"
"""What the unit files start; it gives way to the path of the command that writes them."""
MARK = "# Written by `opencode-events systemd install`, which writes it anew: changes belong into a drop-in.\n"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""What a service of the system does not see: ProtectHome=, PrivateTmp=."""
CONFIG = """\
# The settings of opencode-events, name = value: `opencode-events check-config` names them all.
# `systemctl {user}reload opencode-events` applies what can be applied to a daemon that runs, and logs what cannot.
"""

for_user = click.option("--user", is_flag=True, help="Units of your own, for `systemctl --user`.")
directory = click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where unit files go.  [default: /etc/systemd/system; ~/.config/systemd/user with --user]",
)
config_directory = click.option(
    "--config-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the settings' file goes, unless there is one.  [default: /etc/opencode-events; ~/.config/... "
    "with --user]",
)


@click.group()
def systemd() -> None:
    """Run the daemon as a service of systemd: write the unit files, remove or show them."""


@systemd.command()
@for_user
@directory
@config_directory
@click.option("--force", is_flag=True, help="Replace files that this command has not written.")
def install(user: bool, directory: Path | None, config_directory: Path | None, force: bool) -> None:
    """Write the unit files, with the path of this command, and an empty file of settings where there is none."""
    command = find_command(is_user=user)
    target = directory or unit_directory(is_user=user)
    wanted = {target / name: MARK + text for name, text in render(command, is_user=user)}
    strangers = [path for path in wanted if is_strange(path)]
    if strangers and not force:
        raise DaemonError(f"{strangers[0]} was not written by this command: look at it, then use --force")
    config = (config_directory or settings_directory(is_user=user)) / "config.toml"
    if not config.exists():
        wanted[config] = CONFIG.format(user="--user " if user else "")
    for path, text in wanted.items():
        try:
            write(path, text, is_for_all=not user)
        except OSError as error:
            raise DaemonError(f"{path} cannot be written: {error.strerror}") from error
        click.echo(f"wrote {path}")
    systemctl = "systemctl --user" if user else "systemctl"
    click.echo(f"\nSettings go into {config}. Then:\n  {systemctl} daemon-reload")
    click.echo(f"  {systemctl} enable --now opencode-events.socket opencode-events.service")
    if user:
        click.echo("  loginctl enable-linger  # for it to run while you are not logged in")


@systemd.command()
@for_user
@directory
def uninstall(user: bool, directory: Path | None) -> None:
    """Remove the unit files that `install` has written. Settings and the state directory stay."""
    target = directory or unit_directory(is_user=user)
    found = [target / name for name, _ in unit_files(is_user=user) if (target / name).exists()]
    ours = [path for path in found if not is_strange(path)]
    for path in ours:
        try:
            path.unlink()
        except OSError as error:
            raise DaemonError(f"{path} cannot be removed: {error.strerror}") from error
        click.echo(f"removed {path}")
    for path in found:
        if path not in ours:
            click.echo(f"left {path}, which this command has not written", err=True)
    if not found:
        raise DaemonError(f"there is nothing of ours in {target}")
    systemctl = "systemctl --user" if user else "systemctl"
    click.echo("\nWhat runs goes on, and what was enabled is still linked. To end both, instances alike:")
    click.echo(f"  {systemctl} disable --now opencode-events.socket opencode-events.service")
    click.echo(f"  {systemctl} daemon-reload")


@systemd.command()
@for_user
def show(user: bool) -> None:
    """Print what `install` would write."""
    for number, (name, text) in enumerate(render(find_command(is_user=user), is_user=user)):
        click.echo(f"{'' if number == 0 else chr(10)}# --- {unit_directory(is_user=user) / name}\n{text}", nl=False)


def write(path: Path, text: str, *, is_for_all: bool) -> None:
    """Write a file, and make the directories that lead to it. Raises OSError.

    A service of the system has an account of its own: it must be able to read its settings, whatever the umask of who
    installs it. Directories that are there keep their modes.
    """
    missing = [each for each in path.parents if not each.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    if is_for_all:
        path.chmod(0o644)
        for each in missing:
            each.chmod(0o755)


def render(command: str, *, is_user: bool) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each unit file. `command` is what they start."""
    for name, text in unit_files(is_user=is_user):
        yield name, text.replace(COMMAND, command)


def unit_files(*, is_user: bool) -> list[tuple[str, str]]:
    """Return the name and the text of each unit file, as it was packaged."""
    folder = resources.files("opencode_events") / "units"
    if is_user:
        folder = folder / "user"
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    return sorted((entry.name, entry.read_text("utf-8")) for entry in files)


def is_strange(path: Path) -> bool:
    """Ask whether there is a file that `install` has not written."""
    try:
        return not path.read_text("utf-8", "replace").startswith(MARK)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DaemonError(f"{path} cannot be read: {error.strerror}") from error


def find_command(*, is_user: bool) -> str:
    """Return what starts this program, as a unit file writes it.

    Raises DaemonError for a place that a service of the system cannot see.
    """
    python = Path(sys.executable)
    script = python.parent / "opencode-events"
    words = [str(script)] if script.exists() else [str(python), "-P", "-m", "opencode_events"]
    needed = (python.parent, Path(sys.base_prefix), Path(__file__).resolve())
    hidden = [str(path) for path in needed if any(path.is_relative_to(place) for place in HIDDEN)]
    if hidden and not is_user:
        raise DaemonError(
            f"a service of the system cannot see {hidden[0]}: install the program into /opt, for example, and use its "
            "command; or use --user"
        )
    return " ".join(quoted(word) for word in words)


def quoted(word: str) -> str:
    """Return a word of a command line as systemd.service(5) and systemd.unit(5), "SPECIFIERS", want it.

    A dollar sign stands for itself: in the program's path, the only word that may have one, nothing is substituted.
    """
    text = word.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./$-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unit_directory(*, is_user: bool) -> Path:
    """Return where an administrator's unit files are, or a user's."""
    return _user_settings() / "systemd/user" if is_user else Path("/etc/systemd/system")


def settings_directory(*, is_user: bool) -> Path:
    """Return where the unit files look for settings: `%E/opencode-events`."""
    return (_user_settings() if is_user else Path("/etc")) / "opencode-events"


def _user_settings() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
