"""`start`, `stop` and `restart`: a daemon in the background, known by its state directory.

The child is an ordinary `run` in a session of its own. Whether it runs is never guessed from a pid: the lock of the
state directory tells (`statedir`). Its log goes to `daemon.log` there; what it prints besides, such as a traceback,
to `daemon.err`.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import click

from opencode_events import configuration, keys, settings, statedir
from opencode_events.cli.client import CONNECT_S
from opencode_events.cli.exits import Exit
from opencode_events.cli.options import Seconds, only, setting_options
from opencode_events.errors import DaemonError

POLL_S = 0.05
NOW_PAUSE_S = 0.2
"""Seconds between the two signals of `stop --now`: signals that meet in one process are delivered as one."""
STOP_MARGIN_S = 5.0
KILL_AFTER_S = 5.0
LAST_LINES = 20
LAST_BYTES = 16_384
ERR_NAME, LOG_NAME = "daemon.err", "daemon.log"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]

start_timeout = click.option(
    "--timeout", default=15.0, show_default=True, type=Seconds(min=0), help="Seconds until it must answer."
)


@click.command()
@setting_options()
@start_timeout
def start(config: Path | None, timeout: float, **flags: object) -> None:
    """Start the daemon in the background; return when it answers, or say why it does not."""
    _start(config, flags, timeout)


@click.command()
@setting_options("state_dir")
@click.option("--now", is_flag=True, help="Send a second signal: the daemon ends without waiting for subscribers.")
@click.option("--drain", type=Seconds(min=0), help="Seconds that subscribers have, instead of the daemon's `drain_s`.")
@click.option("--timeout", type=Seconds(min=0), help="Seconds to wait for its end.  [default: drain + 5]")
def stop(config: Path | None, state_dir: str | None, now: bool, drain: float | None, timeout: float | None) -> None:
    """Stop the daemon: subscribers read what is buffered, then it ends."""
    found = only(("state_dir", "drain_s"), config, {"state_dir": state_dir})
    path = found.server.state_dir
    if not statedir.is_held(path):
        stale = " (a killed daemon's daemon.json was removed)" if statedir.remove_stale(path) else ""
        raise DaemonError(f"not running: nobody has {path}{stale}", exit_code=Exit.NOT_RUNNING)
    wait_s = (found.server.drain_s if drain is None else drain) + STOP_MARGIN_S
    _stop(path, now, wait_s if timeout is None else timeout, drain)


@click.command()
@setting_options()
@start_timeout
def restart(config: Path | None, timeout: float, **flags: object) -> None:
    """Stop the daemon if it runs, then start it with the settings given here."""
    effective = configuration.load(flags, None, config)
    keys.check(effective, os.environ)  # what would keep the new one from starting is told before the old one is stopped
    if statedir.is_held(effective.server.state_dir):
        _stop(effective.server.state_dir, False, effective.server.drain_s + STOP_MARGIN_S)
    _start(config, flags, timeout)


def _start(config: Path | None, flags: Mapping[str, object], timeout_s: float) -> None:
    """Start a child and see it answer. Raises DaemonError, with the child's last words, when it does not."""
    chosen = configuration.gather(flags, None, config)
    effective = configuration.build(chosen)
    path = effective.server.state_dir
    if (running := statedir.read(path)) is not None:
        raise DaemonError(f"already running: pid {running.pid} at {running.url}", exit_code=Exit.ALREADY_RUNNING)
    statedir.make(path)
    log = Path(effective.logging.log_file or path / LOG_NAME)
    arguments = child_arguments(config, flags)
    if not effective.logging.log_file:
        arguments.append(f"--log-file={log}")
    words = _Words(path / ERR_NAME, log)
    child = _spawn(arguments, path / ERR_NAME)
    try:
        info = asyncio.run(_wait_ready(child, path, timeout_s))
    except BaseException:  # Ctrl-C too: a daemon that nobody has seen answer is not left behind
        _end(child)
        raise
    if info is None:
        code = child.poll()
        _end(child)
        why = f"did not answer within {timeout_s:g} s" if code is None else f"ended with exit code {code}"
        raise DaemonError(
            "\n".join([f"the daemon {why}; its last words:", *words.last(), f"(more in {log})"]),
            exit_code=code if code in (Exit.USAGE, Exit.ALREADY_RUNNING) else Exit.FAILED,
        )
    click.echo(f"started: pid {info.pid} at {info.url}, log in {log}")


def child_arguments(config: Path | None, flags: Mapping[str, object]) -> list[str]:
    """Return the options that were given, as the child is to be given them."""
    known = settings.specs()
    arguments = [] if config is None else [f"--config={config}"]
    for name, value in flags.items():
        flag = known[name].flag
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        elif value is not None:
            arguments.append(f"{flag}={value}")
    return arguments


def _spawn(arguments: list[str], err: Path) -> subprocess.Popen[bytes]:
    """Start `run` so that it outlives this process and its terminal.

    `-m` looks for modules in the current directory first, where a stranger's `json.py` may lie: -P forbids that,
    unless the current directory is where this very package is.
    """
    safe_path = [] if Path.cwd() == PACKAGE_ROOT else ["-P"]
    try:
        out = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise statedir.unusable(err.parent, error) from error
    try:
        return subprocess.Popen(
            [sys.executable, *safe_path, "-m", "opencode_events", "run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    finally:
        os.close(out)


async def _wait_ready(child: subprocess.Popen[bytes], path: Path, timeout_s: float) -> statedir.DaemonInfo | None:
    """Return the child's `daemon.json` once it answers; None when it has ended, or time is up."""
    try:
        async with asyncio.timeout(timeout_s), _prober() as session:
            while child.poll() is None:
                info = statedir.read(path)
                if info is not None and info.pid == child.pid:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(f"{info.url}/-/healthy") as response:
                            if response.status == 200:
                                return info
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        pass
    return None


def _prober() -> aiohttp.ClientSession:
    """Return what asks our own child whether it answers.

    It shows nobody a password, so it takes any certificate: whichever a setting names, and for whatever name.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=False), timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that failed to start: asked first, then not asked."""
    child.terminate()
    try:
        child.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _stop(path: Path, now: bool, timeout_s: float, drain_s: float | None = None) -> None:
    """Signal the daemon that holds `path` and wait for the lock. Raises DaemonError if time is up before."""
    deadline = time.monotonic() + timeout_s

    def is_over() -> bool:
        return not statedir.is_held(path)

    _wait_until(lambda: statedir.holder_pid(path) is not None or is_over(), deadline)
    pid = statedir.holder_pid(path)
    if pid is not None:
        if drain_s is not None:
            statedir.ask_drain(path, pid, drain_s)
        _signal(pid)
        if now and not _wait_until(is_over, time.monotonic() + NOW_PAUSE_S):
            _signal(pid)
    if not _wait_until(is_over, deadline):
        raise DaemonError(f"pid {pid} has not ended within {timeout_s:g} s; `stop --now` does not wait for subscribers")
    click.echo(f"stopped: pid {pid}")


def _signal(pid: int) -> None:
    """Send SIGTERM; a process that is gone meanwhile needs none."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise DaemonError(f"pid {pid} is another user's: it cannot be signalled") from error


def _wait_until(condition: Callable[[], bool], deadline: float) -> bool:
    """Return True as soon as `condition` holds, False when `deadline` (monotonic seconds) passes before."""
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


class _Words:
    """The ends of the files that a child writes to, from where they ended before it."""

    def __init__(self, *paths: Path) -> None:
        self._begins = {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def last(self) -> list[str]:
        """Return the last lines of the first file that has any."""
        for path, begin in self._begins.items():
            with contextlib.suppress(OSError), path.open("rb") as file:
                file.seek(max(begin, path.stat().st_size - LAST_BYTES))
                if lines := file.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:]:
                    return [f"  {line}" for line in lines]
        return ["  (none)"]
