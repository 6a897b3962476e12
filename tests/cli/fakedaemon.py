"""A server in a thread, whose answers a test writes down beforehand; it keeps what it was asked."""

import asyncio
import dataclasses
import json
import threading
from collections import deque
from types import TracebackType
from typing import Self

from aiohttp import web


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its pieces are sent one by one; then the connection is ended, cut, or kept open and silent."""

    status: int = 200
    kind: str = "text/event-stream"
    pieces: tuple[bytes, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    is_cut: bool = False
    stays_open: bool = False
    reads_lines: int | None = None  # of the request's body, before it answers; None reads all


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes


class FakeDaemon:
    """Gives `answers` in order; when there are none left, 404."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = deque(answers)
        self.asked: list[Asked] = []
        self.url = ""
        self._ready = threading.Event()
        self._over: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._over is not None
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = site.name if not site.name.endswith(":0") else f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._over.wait()
        await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        answer = self.answers.popleft() if self.answers else Answer(status=404, kind="text/plain")
        body = b""
        if answer.reads_lines is None:
            body = await request.read()
        else:
            for _ in range(answer.reads_lines):
                body += await request.content.readline()
        query = list(request.query.items())
        self.asked.append(Asked(request.method, request.path, query, dict(request.headers), body))
        response = web.StreamResponse(
            status=answer.status, headers={"Content-Type": answer.kind} | dict(answer.headers)
        )
        await response.prepare(request)
        for piece in answer.pieces:
            await response.write(piece)
        if answer.is_cut:
            assert request.transport is not None
            request.transport.close()
        elif answer.stays_open:
            assert self._over is not None
            await self._over.wait()
        return response


def problem(status: int, **members: object) -> Answer:
    """Return the answer with a problem document."""
    return Answer(status=status, kind="application/problem+json", pieces=(json.dumps(members).encode(),))


def json_answer(value: object) -> Answer:
    """Return a good answer with a JSON body."""
    return Answer(kind="application/json", pieces=(json.dumps(value).encode(),))


def sse(number: int, kind: str = "t") -> bytes:
    """Return a frame whose cursor and property are `number`."""
    return b'id: 1-%d\ndata: {"payload":{"type":"%s","properties":{"n":%d}}}\n\n' % (number, kind.encode(), number)
