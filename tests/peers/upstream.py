"""A stand-in for the real server, faster than it is: it says recorded events, and answers small and large requests.

    python -m tests.peers.upstream PORT RATE SECONDS

Run by `shield`, as a process of its own. The flood begins with the first line on standard input; then it writes how
many events it has said. Each round of the recording has ids and sessions of its own, so that nothing is a duplicate.
"""

import asyncio
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from aiohttp import web

RECORDING = Path(__file__).parent.parent / "data" / "opencode-global-events.ndjson"
# A server's own, for its own connections.
LEFT_OUT = (b'"server.connected"', b'"server.heartbeat"', b'"server.instance.disposed"')
CONNECTED = b'data: {"payload":{"id":"evt_1","type":"server.connected","properties":{}}}\n\n'
# One in a hundred is larger, and weighs as much as the others; the mean is then some 1 KB, as in the whole recording.
UNUSUAL_BYTES = 64 * 1024
PLACE = re.compile(rb'"seq":([0-9]+),"aggregateID":"([^"]*)"')
LARGE_PIECE = bytes(1024 * 1024)


def renumbered(lines: Iterable[bytes]) -> list[bytes]:
    """Return events with the durable ones counted anew: the recording is an excerpt, and a gap would be asked for."""
    counts: dict[bytes, int] = {}
    found = []
    for line in lines:
        if place := PLACE.search(line):
            seq = counts[place[2]] = counts.get(place[2], -1) + 1
            line = line[: place.start(1)] + b"%d" % seq + line[place.end(1) :]
        found.append(line)
    return found


class Stand:
    """The server."""

    def __init__(self, rate: float, seconds: float) -> None:
        lines = RECORDING.read_bytes().splitlines()
        usual = [line for line in lines if len(line) < UNUSUAL_BYTES and not any(kind in line for kind in LEFT_OUT)]
        self._lines = renumbered(usual)
        self._rate = rate
        self._seconds = seconds
        self.begins = asyncio.Event()

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Say the recording, `rate` events a second, each in a chunk of its own as the real server does."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(CONNECTED)
        await self.begins.wait()
        said, began, at = 0, time.monotonic(), 0
        while time.monotonic() - began < self._seconds:
            round_, at = divmod(said, len(self._lines))
            tag = b"%04d" % round_
            line = self._lines[at].replace(b'"evt_', b'"evt_' + tag).replace(b'"ses_', b'"ses_' + tag)
            await response.write(b"data: " + line + b"\n\n")
            said += 1
            await asyncio.sleep(max(0.0, said / self._rate - (time.monotonic() - began)))
        print(said, flush=True)
        await asyncio.Event().wait()
        return response

    async def large(self, request: web.Request) -> web.StreamResponse:
        """Answer with so many MiB."""
        count = int(request.match_info["mib"])
        response = web.StreamResponse(headers={"Content-Length": str(count * len(LARGE_PIECE))})
        await response.prepare(request)
        for _ in range(count):
            await response.write(LARGE_PIECE)
        return response

    async def history(self, request: web.Request) -> web.Response:
        """Answer that nothing has been before."""
        return web.json_response([])

    async def small(self, request: web.Request) -> web.Response:
        """Answer as small requests are."""
        return web.json_response({"directory": "/srv/proj-a"})


async def serve(port: int, rate: float, seconds: float) -> None:
    """Serve until standard input ends."""
    stand = Stand(rate, seconds)
    app = web.Application()
    app.router.add_get("/global/event", stand.events)
    app.router.add_post("/sync/history", stand.history)
    app.router.add_get("/path", stand.small)
    app.router.add_get("/large/{mib}", stand.large)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        stand.begins.set()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
