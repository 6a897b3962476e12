"""opencode's web app, as the server serves it, in headless Chromium."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.real.node import PATIENCE_S, Node

# The layout that has a project's sessions in a sidebar, open. That of today lists them on its first page, where
# what happens is not shown before the page is loaded again, with a shield or without.
LAYOUT: dict[str, Any] = {
    "app-version.v1": {"version": "1.18.32"},
    "settings.v3": {"general": {"newLayoutDesigns": False, "layoutTransitionEligible": False, "releaseNotes": False}},
    "opencode.global.dat:layout": {"sidebar": {"opened": True, "width": 344}},
}


class Browser:
    """One page, with `project` opened."""

    def __init__(self, project: Path, folder: Path) -> None:
        name = str(project)
        known = {
            "list": [],
            "projects": {"local": [{"worktree": name, "expanded": True}]},
            "lastProject": {"local": name},
        }
        storage = LAYOUT | {"opencode.global.dat:server": known}
        self._address = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        self._node = Node("browser.mjs", str(folder / "profile"), json.dumps(storage), errors=folder / "browser.err")

    def close(self) -> None:
        self._node.close()

    def open(self, url: str, session: str = "") -> None:
        """Load the app from the server at `url`, at a session or where a new one begins."""
        self._node.ask("goto", url=f"{url}/{self._address}/session/{session}")

    def see(self, text: str) -> None:
        """Wait until that text, which is all that an element has, is to be seen."""
        self._node.ask("wait", text=text, state="visible", timeout_s=PATIENCE_S - 1)

    def see_no(self, text: str) -> None:
        """Wait until it is not."""
        self._node.ask("wait", text=text, state="hidden", timeout_s=PATIENCE_S - 1)

    @property
    def loads(self) -> int:
        """How often a page was loaded."""
        return int(self._node.ask("state")["loads"])

    @property
    def complaints(self) -> list[str]:
        """What the app has not caught."""
        return list(self._node.ask("state")["complaints"])
