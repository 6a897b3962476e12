"""What the log has missed of upstream, from upstream's own history: durable events, both twins of each.

The answer names the events behind the sequence numbers that it is given, and all of those aggregates that it is not
given; so the first time of all it is only learnt from, or a new shield would begin with years of the past. It is read
to its end before anything of it is appended: until then its events may still be on their way over the stream.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from opencode_events.broker.broker import Broker
from opencode_events.errors import RequestError, UpstreamAway, UpstreamSlow
from opencode_events.eventlog.base import Aggregate
from opencode_events.events import Event
from opencode_events.relay import past
from opencode_events.relay.past import Row
from opencode_events.relay.patience import patiently
from opencode_events.relay.spool import Spool, SpoolFull, SpoolUnreadable
from opencode_events.relay.upstream import Upstream

log = structlog.get_logger()

TRIES = 3
RETRY_S = 1.0
# Seconds for one answer, which may be years of a busy server's: half a gigabyte at 1 MB/s.
HISTORY_S = 600.0
# Rows that are appended as one: two events each.
GROUP_ROWS = 200
GROUP_BYTES = 256 * 1024


class Refill:
    """Asks `upstream`, holds in `spool`, and appends with `append`, which returns how many events were new.

    `is_over` tells that the connection is over for which all this is done: then nothing is tried again.
    """

    def __init__(
        self,
        broker: Broker,
        upstream: Upstream,
        spool: Spool,
        append: Callable[[Sequence[Event]], Awaitable[int]],
        is_over: Callable[[], bool],
        *,
        max_event_bytes: int,
    ) -> None:
        self._broker = broker
        self._upstream = upstream
        self._spool = spool
        self._append = append
        self._is_over = is_over
        self._max_event_bytes = max_event_bytes
        self.unreadable = 0

    async def learn(self, firsts: Mapping[str, int]) -> dict[str, int] | None:
        """Note where every sequence stands, and return it; one of `firsts`, which came over the stream, before that.

        None, with nothing noted, if upstream does not tell: a log that has learned of some only would take all that the
        others have for missed.
        """
        places: dict[str, Aggregate] = {}

        async def note(texts: Sequence[bytes]) -> None:
            for row in self._rows(texts):
                known = places.get(row.aggregate_id)
                place = past.place_in(row) or known or Aggregate(row.seq)
                places[row.aggregate_id] = place._replace(last=row.seq if known is None else max(known.last, row.seq))

        if not await self._read({}, note, lambda: None):
            return None
        for aggregate, seq in firsts.items():
            places[aggregate] = places.get(aggregate, Aggregate(0))._replace(last=seq - 1)
        await patiently(lambda: self._broker.learn(places))
        return {aggregate: place.last for aggregate, place in places.items()}

    async def fetch(self, firsts: Mapping[str, int]) -> int | None:
        """Append what was missed, but for what comes over the stream from `firsts` on; return how many were new.

        None if upstream does not tell.
        """
        places = await patiently(self._broker.aggregates) or {}
        known = {aggregate: place.last for aggregate, place in places.items() if place.last >= 0}
        spool, new = self._spool, 0

        async def append(texts: Sequence[bytes]) -> None:
            nonlocal new
            missed = [
                row
                for row in self._rows(texts)
                if known.get(row.aggregate_id, -1) < row.seq < firsts.get(row.aggregate_id, math.inf)
            ]
            new += await self._append(await self._events(missed, places))

        async def append_held() -> None:
            while texts := spool.take(GROUP_ROWS, GROUP_BYTES):
                await append(texts)

        async def hold(texts: Sequence[bytes]) -> None:
            for text in texts:
                try:
                    spool.append(text)
                except SpoolFull:  # better some too early, beside what the stream brings, than none ever
                    await append_held()
                    await append([text])

        try:
            if not await self._read(known, hold, spool.close):
                return None
            await append_held()
            return new
        except SpoolUnreadable as error:
            log.error("relay.held_lost", frames=len(spool), reason=str(error))
            return None
        finally:
            spool.close()

    async def _read(
        self, known: Mapping[str, int], take: Callable[[Sequence[bytes]], Awaitable[None]], again: Callable[[], None]
    ) -> bool:
        """Give the text of every row to `take`; tell whether that were all. `again`: they come from the beginning."""
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(RETRY_S)
                again()
            try:
                async with asyncio.timeout(HISTORY_S), contextlib.aclosing(self._upstream.history(known)) as pages:
                    async for texts in pages:
                        await take(texts)
                return True
            except TimeoutError:
                reason = f"the answer had not ended after {HISTORY_S:g} s"
            except (UpstreamAway, UpstreamSlow) as error:
                reason = str(error)
            if self._is_over():
                break
        log.warning("relay.history_unavailable", reason=reason)
        return False

    def _rows(self, texts: Sequence[bytes]) -> list[Row]:
        """Return the rows that some texts hold."""
        found: list[Row] = []
        for text in texts:
            try:
                found.append(past.read_row(text))
            except ValueError as error:
                self._note_unreadable(str(error))
        return found

    async def _events(self, rows: Sequence[Row], places: dict[str, Aggregate]) -> list[Event]:
        """Return both twins of each row, under the envelope of its aggregate."""
        found: list[Event] = []
        for row in rows:
            place, told = places.get(row.aggregate_id), past.place_in(row)
            if told is not None and (place is None or place.directory != told.directory):  # it is new, or has moved
                place = places[row.aggregate_id] = told
            if place is None or place.directory is None:
                place = places[row.aggregate_id] = await self._ask_place(row)
            try:
                found += past.both_twins(row, place, self._max_event_bytes)
            except RequestError as error:
                self._note_unreadable(str(error))
        return found

    async def _ask_place(self, row: Row) -> Aggregate:
        """Return the home of a session as upstream knows it now; nowhere, if it knows it no more."""
        try:
            session = await self._upstream.find_session(row.aggregate_id)
        except (UpstreamAway, UpstreamSlow):
            session = {}
        known = (session.get(name) for name in ("directory", "projectID", "workspaceID"))
        return past.place_of(row.seq, *known) or Aggregate(row.seq, directory="")

    def _note_unreadable(self, reason: str) -> None:
        self.unreadable += 1
        log.warning("relay.history_unreadable", reason=reason)
