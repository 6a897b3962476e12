"""A headless Chromium that is told what to do by its own protocol (Chrome DevTools), over one websocket."""

import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.clients import DEADLINE_S, until

PORT_FILE = "DevToolsActivePort"


class Browser:
    """One browser with one page. What goes wrong in the page, by its console, is in `complaints`."""

    def __init__(self, profile: Path) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._profile = profile
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-default-apps",
            "--disable-extensions", "--disable-sync", "--no-proxy-server", "--remote-debugging-port=0",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        with profile.with_suffix(".err").open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
            )
        self._owned = contextlib.AsyncExitStack()
        self._socket: aiohttp.ClientWebSocketResponse

    async def __aenter__(self) -> Self:
        file = self._profile / PORT_FILE
        until(lambda: file.exists() and file.read_text().strip())
        port = file.read_text().split()[0]
        session = await self._owned.enter_async_context(aiohttp.ClientSession())
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            pages = [target for target in await answer.json(content_type=None) if target["type"] == "page"]
        self._socket = await self._owned.enter_async_context(
            session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        )
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.tell(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._owned.aclose()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # its session is its own
            self._process.wait()

    async def tell(self, method: str, **parameters: object) -> Any:
        """Do something, and return what came of it."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=DEADLINE_S)
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]

    def _note(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        match message.get("method"):
            case "Log.entryAdded":
                self.complaints.append(said["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(said["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])

    async def open(self, url: str) -> None:
        await self.tell("Page.navigate", url=url)
        await self.becomes("document.readyState === 'complete'")

    async def ask(self, expression: str) -> Any:
        """Return what JavaScript's `expression` is, a promise's result included."""
        result = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def becomes(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not await self.ask(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"{expression} is not so: {await self.ask('document.body.innerText')}"

    async def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        await self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )

    async def picture(self) -> bytes:
        """Return what is seen as a PNG."""
        return base64.b64decode((await self.tell("Page.captureScreenshot", format="png"))["data"])
