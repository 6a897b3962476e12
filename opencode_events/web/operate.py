"""What an operator may ask: what is below `/-/`, and opencode's own `/global/health`."""

import os
import re
import time
from collections.abc import Callable, Mapping

import msgspec
from aiohttp import web

from opencode_events.broker.broker import Broker
from opencode_events.broker.lifecycle import Reason, State
from opencode_events.broker.report import report
from opencode_events.broker.subscriber import Subscriber
from opencode_events.errors import NoSuchSubscriber
from opencode_events.histogram import Histogram
from opencode_events.web.handles import Look, encoded
from opencode_events.web.memory import Memory
from opencode_events.web.shield import Shield

# A subscriber's number, as it may stand in a path.
ID = re.compile("[0-9]{1,18}")

Statistics = Callable[[], Mapping[str, object]]


def nothing_seen(subscriber: Subscriber) -> Mapping[str, object]:
    """Look for the watchdog where there is none."""
    return {}


def answer(document: object) -> web.Response:
    """Return a JSON answer that nobody stores."""
    return _json(msgspec.json.encode(document, enc_hook=_plain))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers={"Content-Type": "application/json", "Cache-Control": "no-store"})


def _plain(value: object) -> object:
    """Return what msgspec does not know as what it knows."""
    if isinstance(value, Histogram):
        return value.summary()
    raise NotImplementedError(f"{type(value).__name__} is not for JSON")


class Operate:
    """The handlers. `parts` are the statistics of each part of the daemon, by name; `look` is the watchdog's."""

    def __init__(
        self,
        version: str,
        broker: Broker,
        parts: Mapping[str, Statistics],
        look: Look,
        shield: Shield | None,
        memory: Memory,
    ) -> None:
        self._version = version
        self._broker = broker
        self._parts = parts
        self._look = look
        self._shield = shield
        self._memory = memory
        self._started_at = time.monotonic()

    async def healthy(self, request: web.Request) -> web.Response:
        """Answer as long as the loop turns."""
        return answer({"healthy": True})

    def reasons(self) -> list[str]:
        """Return why events do not come, or cannot be subscribed to; nothing when all is well."""
        upstream = None if self._shield is None else self._shield.trouble()
        troubles = (self._broker.trouble, self._memory.trouble, upstream)
        return [trouble for trouble in troubles if trouble is not None]

    async def ready(self, request: web.Request) -> web.Response:
        """Answer 200 when events come and can be subscribed to, else 503 with the reasons."""
        reasons = self.reasons()
        response = answer({"ready": not reasons, "reasons": reasons})
        if reasons:
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
        """Answer with one object for each handle, in order of arrival; `closed=1`: for those that were the last."""
        if request.query.get("closed", "0") not in ("", "0"):
            return answer({"closed": self._broker.closed_reports()})
        return _json(await encoded(self._broker, self._look))

    async def evict(self, request: web.Request) -> web.Response:
        """End one subscriber: politely, or at once if that has begun already. Raises NoSuchSubscriber."""
        text = request.match_info["id"]
        subscriber = self._broker.subscribers.get(int(text) if ID.fullmatch(text) else 0)
        if subscriber is None:
            raise NoSuchSubscriber(f"there is no subscriber {text[:40]}", field="id")
        found = report(subscriber, self._broker)
        if subscriber.state is State.CLOSING:
            subscriber.reset(Reason.OPERATOR)
        else:
            subscriber.close(Reason.OPERATOR)
        return answer({"evicted": found})
