"""opencode's JavaScript SDK, driven from a test, and what its event streams have yielded."""

from pathlib import Path
from typing import Any

from tests.clients import until
from tests.real.node import PATIENCE_S, Node


class Listening:
    """One stream of the SDK's, called `name`. It comes back by itself after a cut."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self.name = name

    @property
    def _told(self) -> list[dict[str, Any]]:
        return [each for each in self._node.told if each["stream"] == self.name]

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """What it has yielded so far, without envelopes."""
        return [each["value"].get("payload", each["value"]) for each in self._told if "value" in each]

    @property
    def envelopes(self) -> list[dict[str, Any]]:
        """What it has yielded so far, as it came."""
        return [each["value"] for each in self._told if "value" in each]

    @property
    def cursors(self) -> list[str | None]:
        """The id that it would come back with, after each of them."""
        return [each.get("cursor") for each in self._told if "value" in each]

    @property
    def troubles(self) -> list[str]:
        return [each["trouble"] for each in self._told if "trouble" in each]

    @property
    def has_ended(self) -> bool:
        return any("ended" in each for each in self._told)

    def of(self, kind: str, **properties: Any) -> list[dict[str, Any]]:
        """Return the payloads of a type that have these properties."""
        return [
            each
            for each in self.payloads
            if each["type"] == kind and properties.items() <= each.get("properties", {}).items()
        ]

    def until(self, kind: str, count: int = 1, **properties: Any) -> dict[str, Any]:
        """Wait for the `count`th payload of a type that has these properties, and return it."""
        return until(lambda: self.of(kind, **properties)[count - 1 : count], timeout_s=PATIENCE_S)[0]


class Sdk:
    """A client of the SDK at `url`. `surface` is which of its two interfaces: "v1" or "v2"."""

    def __init__(
        self, url: str, directory: Path, errors: Path, *, surface: str = "v1", authorization: str = ""
    ) -> None:
        self._node = Node("sdk.mjs", surface, url, str(directory), authorization, errors=errors)
        self.directory = directory

    def close(self) -> None:
        self._node.close()

    def answer(self, path: str, *arguments: Any) -> dict[str, Any]:
        """Call a method. Returns {data} or {error, status}."""
        found: dict[str, Any] = self._node.ask("call", path=path, args=arguments)
        return found

    def call(self, path: str, *arguments: Any) -> Any:
        """Call a method and return its data."""
        answer = self.answer(path, *arguments)
        assert "error" not in answer, answer
        return answer["data"]

    def listen(self, path: str, *arguments: Any) -> Listening:
        """Open a stream, and wait until it is there."""
        stream = Listening(self._node, f"{path} {len(self._node.told)}")
        self._node.ask("listen", name=stream.name, path=path, args=arguments)
        stream.until("server.connected")
        return stream

    # --- the first interface

    def create(self, title: str) -> str:
        """Create a session and return its id."""
        return str(self.call("session.create", {"body": {"title": title}})["id"])

    def prompt(self, session: str, *steps: str) -> dict[str, Any]:
        """Have the agent take these steps, and return its last message when it is through."""
        body = {"parts": [{"type": "text", "text": "\n".join(steps)}]}
        found: dict[str, Any] = self.call("session.prompt", {"path": {"id": session}, "body": body})
        return found

    def begin(self, session: str, *steps: str) -> None:
        """The same without waiting."""
        body = {"parts": [{"type": "text", "text": "\n".join(steps)}]}
        self.call("session.promptAsync", {"path": {"id": session}, "body": body})

    def permit(self, session: str, permission: str, response: str = "once") -> None:
        """Answer what the agent has asked for."""
        path = {"id": session, "permissionID": permission}
        self.call("postSessionIdPermissionsPermissionId", {"path": path, "body": {"response": response}})
