"""What the log lacks of upstream: fetched as far as that can be done, and marked.

Each connection begins with a gap, for nobody listened before it; a stream that leaves out a number has shown another.
Until the log knows where upstream's sequences stand it only learns that, and nothing is missing.
"""

import time
from collections.abc import Callable, Mapping

import structlog

from opencode_events import events
from opencode_events.broker.broker import Broker
from opencode_events.relay.intake import Intake
from opencode_events.relay.patience import patiently
from opencode_events.relay.refill import Refill
from opencode_events.relay.resync import Resync

log = structlog.get_logger()


class Gaps:
    """Closes them with what `refill` fetches, before what `intake` holds. `count` of them, and events `refilled`."""

    def __init__(
        self,
        broker: Broker,
        intake: Intake,
        refill: Refill,
        resync: Resync,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker = broker
        self._intake = intake
        self._refill = refill
        self._resync = resync
        self._clock = clock
        self._heard_ms: int | None = None  # when upstream last said something
        self._whole_ms = broker.newest_ms  # until when nothing is missing; None: not known
        self.count = 0
        self.refilled = 0

    def note_heard(self) -> None:
        """Upstream has said something just now."""
        self._heard_ms = self._now_ms()

    def note_whole(self) -> None:
        """The log has all that was heard, and nothing is missing before it."""
        self._whole_ms = self._heard_ms

    async def close_first(self, is_over: Callable[[], bool]) -> bool:
        """Bring the log up to where the held frames begin; False if upstream went before that could be done."""
        firsts = self._intake.firsts
        assert firsts is not None  # since `begin`
        is_first = await patiently(self._broker.aggregates) is None
        refilled = await self._fetch(firsts)
        if refilled is None and is_over():
            return False
        self._intake.firsts = None
        if not is_first or self._whole_ms is not None:
            await self._mark(refilled or 0)
        else:  # for whoever was here before upstream
            self._broker.announce_resync()
        return True

    async def close_another(self) -> None:
        """Fetch what an event shows to be missing, although the connection has held."""
        await self._mark(await self._fetch({}) or 0)

    async def _fetch(self, firsts: Mapping[str, int]) -> int | None:
        """Log what upstream's history has beyond the log, up to `firsts`; return how many were new, None for no answer.

        A log that knows nothing of upstream only learns where its sequences stand.
        """
        if await patiently(self._broker.aggregates) is not None:
            return await self._refill.fetch(firsts)
        learned = await self._refill.learn(firsts)
        self._intake.learned = learned or {}
        return None if learned is None else 0

    async def _mark(self, refilled: int) -> None:
        """Log that upstream was not heard for a while, for whoever comes across it."""
        self.count += 1
        self.refilled += refilled
        self._resync.note_gap()
        from_ms, to_ms = self._whole_ms, self._now_ms()
        await self._intake.append([events.gap(from_ms, to_ms, refilled)])
        log.info("relay.gap_logged", from_ms=from_ms, to_ms=to_ms, refilled=refilled)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
