"""What an operator may ask: what is below `/-/`, and opencode's own `/global/health`."""

import os
import time
from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from opencode_events.broker.broker import Broker

Statistics = Callable[[], Mapping[str, object]]


def answer(document: object) -> web.Response:
    """Return a JSON answer that nobody stores."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return web.Response(body=msgspec.json.encode(document), headers=headers)


class Operate:
    """The handlers. `parts` are the statistics of each part of the daemon, by name."""

    def __init__(self, version: str, broker: Broker, parts: Mapping[str, Statistics]) -> None:
        self._version = version
        self._broker = broker
        self._parts = parts
        self._started_at = time.monotonic()

    async def healthy(self, request: web.Request) -> web.Response:
        """Answer as long as the loop turns."""
        return answer({"healthy": True})

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when events can be published and subscribed to, else 503 with the reasons."""
        trouble = self._broker.trouble
        response = answer({"ready": trouble is None, "reasons": [] if trouble is None else [trouble]})
        if trouble is not None:
            response.set_status(503)
            response.headers["Retry-After"] = "1"
        return response

    async def health(self, request: web.Request) -> web.Response:
        """Answer as opencode's `/global/health` does."""
        return answer({"healthy": True, "version": self._version})

    async def status(self, request: web.Request) -> web.Response:
        """Answer with the statistics of every part."""
        uptime_s = round(time.monotonic() - self._started_at, 3)
        about = {"version": self._version, "pid": os.getpid(), "uptime_s": uptime_s}
        return answer(about | {name: statistics() for name, statistics in self._parts.items()})

    async def subscribers(self, request: web.Request) -> web.Response:
        """Answer with one object for each handle, in order of arrival."""
        return answer({"subscribers": self._broker.reports()})
