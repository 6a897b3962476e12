"""Follow a stream across its ends: subscribe, and subscribe again where it was cut.

Owns connecting: which answers end it, which are tried again, and after how long. It remembers the last id, so nothing
is missed and nothing comes twice. Parsing is `sse`'s, what is done with the events the caller's.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import aiohttp

from opencode_events.cli import client
from opencode_events.sse import Parser, ServerSentEvent

RETRY_S = 2.0
"""Seconds until the next try while the server has not named a time."""
MIN_DELAY_S = 0.1
MAX_DELAY_S = 30.0
SILENCE_S = 45.0
"""Seconds without a byte after which a connection is given up; a heartbeat is due every 10. opencode's clients: 45."""
TIMEOUT = aiohttp.ClientTimeout(sock_connect=client.CONNECT_S, sock_read=SILENCE_S)


def delay_s(retry_s: float, failures: int, chance: float) -> float:
    """Return the seconds to wait before the next try, `failures` tries after the stream last gave something.

    It doubles with each failure, to 30 s at most unless the server asked for more, and is up to half as long again as
    `chance` (0 to 1) has it: clients that were cut together do not come back together.
    """
    doubled = max(retry_s, MIN_DELAY_S) * 2.0 ** min(failures, 16)
    return min(doubled, max(retry_s, MAX_DELAY_S)) * (1 + chance / 2)


async def follow(
    session: aiohttp.ClientSession,
    where: Callable[[], str],
    params: Sequence[tuple[str, str]],
    *,
    notify: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> AsyncGenerator[list[ServerSentEvent]]:
    """Yield the events of a stream, as many at a time as have arrived, until the server refuses (204 ends quietly).

    `where` returns the stream's URL, and is asked before each try: a daemon that was started again may be elsewhere.
    `notify` is told, in a sentence, of each interruption. Raises Refused for an answer that no second try would
    change, and DaemonError when nobody answers the first time.
    """
    last_id, retry_s, failures, has_answered = "", RETRY_S, 0, False
    while True:
        url, parser = where(), Parser(last_id)
        asked_s, why = 0.0, "the stream ended"
        try:
            async with session.get(url, params=params, headers=_headers(last_id), timeout=TIMEOUT) as response:
                has_answered = True
                if response.status == 204:
                    return
                if response.status >= 500 or response.status == 429:
                    asked_s, why = _retry_after(response), str(await client.refusal(response))
                elif response.status != 200:
                    raise await client.refusal(response)
                elif response.content_type != "text/event-stream":
                    raise client.Refused(f"{url} answers with {response.content_type}, not with an event stream")
                else:
                    async for piece in response.content.iter_any():
                        if events := parser.feed(piece):
                            failures = 0
                            yield events
        except (aiohttp.ClientError, TimeoutError) as error:
            if not has_answered or isinstance(error, aiohttp.InvalidURL):
                raise client.unreachable(url, error) from error
            why = client.reason(error)
        last_id, retry_s = parser.last_id, retry_s if parser.retry_s is None else parser.retry_s
        pause_s = max(asked_s, delay_s(retry_s, failures, chance()))
        failures += 1
        notify(f"{why}; again in {pause_s:.1f} s")
        await sleep(pause_s)


def _headers(last_id: str) -> dict[str, str]:
    """Return what a reconnecting EventSource sends. The id goes out as the UTF-8 bytes it came as."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    return headers | {"Last-Event-ID": last_id} if last_id else headers


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Return the seconds that an answer asks to wait, 0 if it does not say."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), 3600.0) if value.isascii() and value.isdigit() and len(value) < 9 else 0.0
