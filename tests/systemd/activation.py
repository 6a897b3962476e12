"""A daemon whose port somebody else holds, through one life of it and the next, as systemd does.

`systemd-socket-activate` opens the port and becomes a shell at the first connection; the shell starts daemons one
after the other, and keeps the socket meanwhile.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from opencode_events import statedir
from opencode_events.declared import ENV_PREFIX
from tests.clients import DEADLINE_S, Client, until
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
# LISTEN_PID says whom the sockets are meant for: each daemon, not the shell.
SHELL = 'for life in $1; do (shift; export LISTEN_PID=$BASHPID; exec "$@") || exit; done'


class Activated:
    """Daemons on one state directory and one port, as many as `lives`. Use in a `with` block."""

    def __init__(self, path: Path, lives: int = 2, **changes: object) -> None:
        self.state_dir = path / "state"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url)
        self._output = path / "output"
        activate, shell = shutil.which("systemd-socket-activate"), shutil.which("bash")
        assert activate is not None
        assert shell is not None
        flags = [
            f"--{'' if value is not False else 'no-'}{name.replace('_', '-')}"
            + ("" if isinstance(value, bool) else f"={value}")
            for name, value in changes.items()
        ]
        command = [
            activate, f"--listen=127.0.0.1:{self.port}", f"--setenv=PYTHONPATH={ROOT}", shell, "-c", SHELL, "lives",
            " ".join(map(str, range(lives))),
            sys.executable, "-m", "opencode_events", "run", f"--state-dir={self.state_dir}", *flags,
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            until(lambda: "Listening on" in self.said())
        except BaseException:
            self.kill()
            raise

    def said(self) -> str:
        """Return all output."""
        return self._output.read_text("utf-8")

    def pid(self) -> int:
        """Return the daemon's process, once there is one that answers."""
        info = until(lambda: statedir.read(self.state_dir))
        return info.pid

    def restart(self) -> int:
        """End the daemon as systemd does, and return the process of the next one."""
        before = self.pid()
        os.kill(before, signal.SIGTERM)
        until(lambda: (info := statedir.read(self.state_dir)) is not None and info.pid != before, timeout_s=30)
        return self.pid()

    def end(self) -> int:
        """End the last life; return how that was."""
        os.kill(self.pid(), signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """End whatever is left."""
        self.client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
