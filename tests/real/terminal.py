"""opencode's terminal interface, attached to a server, on a screen of tmux's."""

import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.real.node import PATIENCE_S
from tests.real.opencode import BINARY, environment

PAUSE_S = 0.1  # each look starts a process


class Terminal:
    """`opencode attach URL`, with more arguments, in `project`. It has a home and a tmux of its own in `folder`."""

    def __init__(self, url: str, project: Path, folder: Path, *arguments: str) -> None:
        home = folder / "terminal"
        home.mkdir()
        self._socket = folder / "tmux"
        command = shlex.join([str(BINARY), "attach", url, "--dir", str(project), *arguments])
        variables = environment(home) | {"TERM": "xterm-256color"}
        self._tmux("new-session", "-d", "-x", "120", "-y", "40", f"{command}; sleep 60", variables=variables)

    def _tmux(self, *arguments: str, variables: dict[str, str] | None = None) -> str:
        command = ["tmux", "-f", "/dev/null", "-S", str(self._socket), *arguments]
        return subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout

    def screen(self) -> str:
        """Return what is on the screen."""
        return self._tmux("capture-pane", "-p")

    def see(self, text: str) -> None:
        """Wait until that text is on the screen."""
        self._look(lambda screen: text in screen, f"no {text!r}")

    def see_no(self, text: str) -> None:
        """Wait until it is not."""
        self._look(lambda screen: text not in screen, f"still {text!r}")

    def _look(self, is_fine: Callable[[str], bool], complaint: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_fine(screen := self.screen()):
            assert time.monotonic() < deadline, f"{complaint} on the screen:\n{screen}"
            time.sleep(PAUSE_S)

    def close(self) -> None:
        self._tmux("kill-server")
