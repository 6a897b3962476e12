"""The shield's one connection to upstream's events: held for as long as it lasts, taken up again when it breaks.

Each connection first brings the log up to date. Frames that come meanwhile are held; what was missed is fetched from
upstream's history, a mark is logged, then come the held frames, then everything live. The very first connection only
learns where upstream's sequences stand. Whoever was listening is told to look anew, in the way that its client knows.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import aiohttp
import structlog

from opencode_events import events, sse, wire
from opencode_events.broker.announcement import Announcement
from opencode_events.broker.broker import Broker
from opencode_events.errors import LogUnavailable, RequestError, UpstreamAway, UpstreamLocked, UpstreamSlow
from opencode_events.events import DISPOSED, NO_INSTANCE, Event
from opencode_events.relay.directories import Directories
from opencode_events.relay.intake import UNREADABLE, Intake
from opencode_events.relay.patience import patiently
from opencode_events.relay.refill import Refill
from opencode_events.relay.spool import SpoolFull
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import RelaySettings

log = structlog.get_logger()

# Instances that clients are told to load anew; each is a frame to everybody.
DIRECTORIES = 200
# Seconds after a gap in which those who come without a cursor are told of it: clients come back within half of that.
LATE_S = 60.0
# Seconds between two reads of a stream in flood: what comes meanwhile shares a commit, and a write to each subscriber.
PACE_S = 0.005


class Relay:
    """Feeds `broker` with the events of `upstream`. `trouble` tells why it does not, None while it does.

    `directory` is where held events may be kept; None keeps them in memory alone.
    """

    def __init__(
        self,
        settings: RelaySettings,
        broker: Broker,
        upstream: Upstream,
        *,
        max_event_bytes: int,
        directory: Path | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._broker = broker
        self._upstream = upstream
        self._max_event_bytes = max_event_bytes
        self._clock = clock
        self._intake = Intake(
            settings, broker, self._fetch_missed, max_event_bytes=max_event_bytes, directory=directory, clock=clock
        )
        self._refill = Refill(
            settings,
            broker,
            upstream,
            self._append_past,
            lambda: self._reader is None or self._reader.done(),
            max_event_bytes=max_event_bytes,
            directory=directory,
        )
        self._reader: asyncio.Task[None] | None = None
        self.directories = Directories(upstream)
        self.trouble: str | None = "upstream has not been reached yet"
        self.is_locked_out = False
        self._known_until_ms = broker.newest_ms  # until when nothing is missing; None: not known
        self._away_since: float | None = time.monotonic()
        self._is_told = False  # that upstream is away
        self._is_live = False
        self._was_live = False
        self._directories: dict[str, None] = {}  # the instances that were heard of, the latest last
        self._connections = 0
        self._gaps = 0
        self._gap_at: float | None = None
        self._refilled = 0

    async def run(self) -> None:
        """Keep one connection, until cancelled."""
        tries = 0
        try:
            while True:
                try:
                    await self._hold()
                except RequestError as error:
                    self._lost(error)
                tries = 0 if self._was_live else tries + 1
                settings = self._settings
                await asyncio.sleep(pause_s(tries, settings.upstream_retry_min_s, settings.upstream_retry_max_s))
        finally:
            self._intake.close()

    async def _hold(self) -> None:
        """Connect, catch up, and relay until the connection is over; then raise why."""
        self._was_live = False
        await self._remember_directories()
        async with self._upstream.events() as response:
            self._connections += 1
            self.is_locked_out = False
            self._intake.begin()
            heard = asyncio.Event()
            reader = self._reader = asyncio.create_task(self._read(response, heard), name="relay-read")
            reader.add_done_callback(lambda _: self._intake.wake())
            reader.add_done_callback(lambda _: heard.set())
            try:
                await heard.wait()
                if not reader.done() and await self._catch_up(reader):
                    await self._go_live(reader, response.content)
                await reader
            finally:
                self._is_live = False
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                self._intake.firsts = None
        raise UpstreamAway("it ended the stream")

    async def _read(self, response: aiohttp.ClientResponse, heard: asyncio.Event) -> None:
        """Put every frame into the intake. Waits for nothing but upstream; raises when that is over, and lets it go.

        What it said may be appended long after that: meanwhile it must not keep anything for us.
        """
        parser, silence_s = sse.Parser(max_bytes=self._max_event_bytes), self._settings.upstream_silence_s
        now = asyncio.get_running_loop().time
        read_at = now()
        try:
            async with asyncio.timeout(silence_s) as limit:
                while piece := await response.content.readany():
                    found = parser.feed(piece)
                    for frame in found:
                        self._intake.put(UNREADABLE if frame.is_cut else frame.data)
                    if found:
                        limit.reschedule(now() + silence_s)
                        heard.set()
                        if self._is_live:
                            self._known_until_ms = int(self._clock() * 1000)
                    await _pace(response, read_at + PACE_S - now())
                    read_at = now()
        except TimeoutError as error:
            raise UpstreamSlow(f"it sent no frame for {silence_s:g} s") from error
        except SpoolFull as error:
            raise UpstreamAway(f"more is held of it than may be: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamAway(f"the stream broke off: {error!s:.200}") from error
        finally:
            response.close()

    async def _catch_up(self, reader: "asyncio.Task[None]") -> bool:
        """Bring the log up to where the held frames begin; False if upstream went before that could be done."""
        intake = self._intake
        firsts = intake.firsts if intake.firsts is not None else {}
        is_first = await patiently(self._broker.aggregates) is None
        refilled = await (self._learn(firsts) if is_first else self._refill.fetch(firsts))
        if refilled is None and reader.done():
            return False
        intake.firsts = None
        if not is_first or self._known_until_ms is not None:
            await self._mark(refilled or 0)
        else:  # for whoever was here before upstream
            self._broker.announce_resync()
        return True

    async def _learn(self, firsts: Mapping[str, int]) -> int | None:
        """Learn where upstream's sequences stand, and log nothing of them: 0, or None if upstream does not tell."""
        learned = await self._refill.learn(firsts)
        self._intake.learned = learned or {}
        return None if learned is None else 0

    async def _append_past(self, batch: Sequence[Event]) -> int:
        self._note_directories(event.directory for event in batch)
        return await self._intake.append(batch, is_past=True)

    async def _go_live(self, reader: "asyncio.Task[None]", stream: aiohttp.StreamReader) -> None:
        """Append what is held, have clients look anew, and append what comes until the connection is over."""
        intake = self._intake
        await intake.pump(lambda: True, self._taken)
        self.directories.forget()
        boots = asyncio.create_task(self.directories.boot(self._broker.directories()), name="relay-boot")
        is_over = reader.done() or stream.is_eof() or stream.exception() is not None
        self._is_live = self._was_live = not is_over
        self._known_until_ms = int(self._clock() * 1000)
        if self._is_live:
            self._recovered()
        try:
            await intake.pump(reader.done, self._taken)
        finally:
            boots.cancel()
            await asyncio.gather(boots, return_exceptions=True)

    async def _remember_directories(self) -> None:
        """Note which instances clients may know of from before this daemon's start."""
        if not self._directories:
            with contextlib.suppress(LogUnavailable):
                places = await self._broker.aggregates() or {}
                self._note_directories(place.directory for place in places.values())

    def _note_directories(self, directories: Iterable[str | None]) -> None:
        for directory in directories:
            if directory and directory != NO_INSTANCE and directory not in self._directories:
                if len(self._directories) >= DIRECTORIES:
                    del self._directories[next(iter(self._directories))]
                self._directories[directory] = None

    def resync(self) -> list[Announcement]:
        """Return what has clients look anew: the web page does at `server.connected`, the TUI at a disposal."""
        disposals = [Announcement(DISPOSED, {"directory": name}, name) for name in self._directories]
        return [Announcement(wire.CONNECTED), *disposals]

    def announcements(self) -> list[Announcement]:
        """Return what a fresh stream has to be told: what was said behind a gap a moment ago, while it was not here.

        `server.connected` it has been told anyway.
        """
        is_late = self._gap_at is not None and time.monotonic() - self._gap_at < LATE_S
        return self.resync()[1:] if is_late else []

    def _taken(self, appended: Sequence[Event]) -> None:
        self._note_directories(event.directory for event in appended)
        for event in appended:
            if event.type == DISPOSED:
                self.directories.forget(event.directory)

    async def _fetch_missed(self) -> None:
        """Fetch what an event shows to be missing, although the connection has held."""
        self._known_until_ms = int(self._clock() * 1000)
        is_first = await patiently(self._broker.aggregates) is None
        await self._mark(await (self._learn({}) if is_first else self._refill.fetch({})) or 0)

    async def _mark(self, refilled: int) -> None:
        """Log that upstream was not heard for a while, for whoever comes across it."""
        self._gaps += 1
        self._gap_at = time.monotonic()
        self._refilled += refilled
        now_ms = int(self._clock() * 1000)
        await self._intake.append([events.gap(self._known_until_ms, now_ms, refilled)])
        log.info("relay.gap_logged", from_ms=self._known_until_ms, to_ms=now_ms, refilled=refilled)

    def _lost(self, error: RequestError) -> None:
        """Note why there is no connection, and say so once per episode."""
        self.is_locked_out = isinstance(error, UpstreamLocked)
        self.trouble = f"upstream is away: {error}"
        if self._away_since is None:
            self._away_since = time.monotonic()
        if not self._is_told:
            self._is_told = True
            log.warning("relay.lost", upstream=self._settings.upstream, reason=str(error))

    def _recovered(self) -> None:
        away_s = 0.0 if self._away_since is None else time.monotonic() - self._away_since
        log.info("relay.live", upstream=self._settings.upstream, away_s=round(away_s, 3))
        self.trouble, self._away_since, self._is_told = None, None, False

    def statistics(self) -> dict[str, object]:
        """Return what can be counted: for `/-/status`."""
        intake = self._intake
        return {
            "url": self._settings.upstream,
            "live": self._is_live,
            "trouble": self.trouble,
            "connections": self._connections,
            "frames": intake.frames,
            "relayed_events": intake.events,
            "unreadable_events": intake.unreadable + self._refill.unreadable,
            "broken_sequences": intake.out_of_sequence,
            "gaps": self._gaps,
            "refilled_events": self._refilled,
            "held_bytes": intake.held_bytes,
        }


def pause_s(tries: int, least_s: float, most_s: float) -> float:
    """Return how long to wait: twice as long each time, up to a limit, and never in step with other shields."""
    longest_s = min(1.5 * least_s * 2.0 ** min(tries, 30), most_s)
    return random.uniform(max(longest_s / 1.5, min(least_s, most_s)), longest_s)


async def _pace(response: aiohttp.ClientResponse, pause_s: float) -> None:
    """Let the kernel gather what comes within `pause_s`: in a flood each wake-up costs more than what it brings.

    What comes after a quiet moment is not held up: then there is nothing to pause.
    """
    transport = response.connection.transport if response.connection is not None else None
    if pause_s <= 0 or not isinstance(transport, asyncio.Transport):
        return
    transport.pause_reading()
    try:
        await asyncio.sleep(pause_s)
    finally:
        if not transport.is_closing():
            transport.resume_reading()
