"""The shield's one connection to upstream's events: held for as long as it lasts, taken up again when it breaks.

Each connection first brings the log up to date. Frames that come meanwhile are held; what was missed is fetched from
upstream's history, a mark is logged, then come the held frames, then everything live. The very first connection only
learns where upstream's sequences stand. Whoever was listening is told to look anew, in the way that its client knows.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from opencode_events.broker.announcement import Announcement
from opencode_events.broker.broker import Broker
from opencode_events.errors import LogUnavailable, RequestError, UpstreamAway, UpstreamLocked
from opencode_events.events import DISPOSED, Event
from opencode_events.relay.directories import Directories
from opencode_events.relay.gaps import Gaps
from opencode_events.relay.intake import UNREADABLE, Intake
from opencode_events.relay.lifecycle import Life, Signal, State
from opencode_events.relay.patience import pause_s
from opencode_events.relay.refill import Refill
from opencode_events.relay.resync import Resync
from opencode_events.relay.spool import Room, Spool, SpoolFull
from opencode_events.relay.stream import EventStream
from opencode_events.relay.upstream import Upstream
from opencode_events.settings import RelaySettings

log = structlog.get_logger()

ENDED = "it ended the stream"
# Of the room for what waits, the part that a history may take, so that there is some for the stream.
HISTORY_SHARE = 0.5


class Relay:
    """Feeds `broker` with the events of `upstream`.

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
        self._reader: asyncio.Task[None] | None = None
        self._resync = Resync()
        self._room = Room(settings.held_memory_bytes, settings.held_disk_bytes)
        self._intake = Intake(
            broker,
            Spool(self._room, directory),
            lambda: self._gaps.close_another(),
            max_event_bytes=max_event_bytes,
            clock=clock,
        )
        self._refill = Refill(
            broker,
            upstream,
            Spool(self._room, directory, share=HISTORY_SHARE),
            self._append_past,
            lambda: self._reader is None or self._reader.done(),
            max_event_bytes=max_event_bytes,
        )
        self._gaps = Gaps(broker, self._intake, self._refill, self._resync, clock)
        self._life = Life(time.monotonic())
        self._connections = 0
        self.directories = Directories(upstream)

    async def run(self) -> None:
        """Keep one connection, until cancelled."""
        least_s, most_s = self._settings.upstream_retry_min_s, self._settings.upstream_retry_max_s
        try:
            while True:
                try:
                    await self._hold()
                except RequestError as error:
                    self._lost(error, Signal.REFUSED if isinstance(error, UpstreamLocked) else Signal.LOST)
                await asyncio.sleep(pause_s(self._life.tries, least_s, most_s))
        finally:
            self._life.advance(Signal.STOP)

    async def _hold(self) -> None:
        """Connect, catch up, and relay until the connection is over; then raise why."""
        await self._remember_instances()
        async with self._upstream.events() as response:
            self._connections += 1
            self._life.advance(Signal.CONNECTED)
            self._intake.begin()
            stream = EventStream(
                response, max_event_bytes=self._max_event_bytes, silence_s=self._settings.upstream_silence_s
            )
            heard = asyncio.Event()
            reader = self._reader = asyncio.create_task(self._read(stream, heard), name="relay-read")
            reader.add_done_callback(lambda _: heard.set())
            reader.add_done_callback(self._ended)
            try:
                await heard.wait()
                if not reader.done():
                    self._life.advance(Signal.HEARD)
                    if await self._gaps.close_first(reader.done):
                        await self._go_live(reader, stream)
                await reader
            finally:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
                self._intake.end()
        raise UpstreamAway(ENDED)

    async def _read(self, stream: EventStream, heard: asyncio.Event) -> None:
        """Put every frame into the intake. Waits for nothing but upstream; raises when that is over, and lets it go.

        What it said may be appended long after that: meanwhile it must not keep anything for us.
        """
        try:
            while frames := await stream.read():
                if self._life.state is State.LIVE and self._intake.is_idle:
                    self._gaps.note_whole()
                for frame in frames:
                    self._intake.put(UNREADABLE if frame.is_cut else frame.data)
                self._gaps.note_heard()
                heard.set()
        except SpoolFull as error:
            raise UpstreamAway(f"more is held of it than may be: {error}") from error
        finally:
            stream.close()

    def _ended(self, reader: "asyncio.Task[None]") -> None:
        """Nothing more comes of this connection. What it brought is appended yet, however long that takes."""
        self._intake.wake()
        if self._life.state is State.LIVE and not reader.cancelled():
            self._lost(reader.exception() or UpstreamAway(ENDED), Signal.ENDED)

    async def _append_past(self, batch: Sequence[Event]) -> int:
        self._resync.note(event.directory for event in batch)
        return await self._intake.append(batch, is_past=True)

    async def _go_live(self, reader: "asyncio.Task[None]", stream: EventStream) -> None:
        """Append what is held, have clients look anew, and append what comes until the connection is over."""
        intake = self._intake
        await intake.pump(lambda: True, self._taken)
        self._gaps.note_whole()
        self.directories.forget()
        boots = asyncio.create_task(self.directories.boot(self._broker.directories()), name="relay-boot")
        if not (reader.done() or stream.is_over):
            away_s = self._life.recover(time.monotonic())
            log.info("relay.live", upstream=self._settings.upstream, away_s=round(away_s, 3))
        try:
            await intake.pump(reader.done, self._taken)
            self._gaps.note_whole()
        finally:
            boots.cancel()
            await asyncio.gather(boots, return_exceptions=True)

    async def _remember_instances(self) -> None:
        """Note which ones clients may know of from before this daemon's start."""
        if not self._resync.knows_any:
            with contextlib.suppress(LogUnavailable):
                places = await self._broker.aggregates() or {}
                self._resync.note(place.directory for place in places.values())

    def _taken(self, appended: Sequence[Event]) -> None:
        self._resync.note(event.directory for event in appended)
        for event in appended:
            if event.type == DISPOSED:
                self.directories.forget(event.directory)

    def _lost(self, error: BaseException, signal: Signal) -> None:
        """Note why there is no connection, and say so once per episode, and again if it is another kind of end."""
        if self._life.lose(str(error), time.monotonic(), signal):
            log.warning("relay.lost", upstream=self._settings.upstream, reason=str(error))

    # --- what others ask

    @property
    def trouble(self) -> str | None:
        """Why events of upstream do not come, None while they do."""
        return self._life.trouble

    @property
    def is_locked_out(self) -> bool:
        """Whether upstream wants a password that is not held."""
        return self._life.state is State.LOCKED_OUT

    def resync(self) -> list[Announcement]:
        """Return what is told to global streams behind a gap."""
        return self._resync.announcements()

    def announcements(self) -> list[Announcement]:
        """Return what is told to a fresh one a moment later."""
        return self._resync.late_announcements()

    def statistics(self) -> dict[str, object]:
        """Return what can be counted: for `/-/status`."""
        intake = self._intake
        return {
            "url": self._settings.upstream,
            "live": self._life.state is State.LIVE,
            "trouble": self.trouble,
            "connections": self._connections,
            "frames": intake.frames,
            "relayed_events": intake.events,
            "unreadable_events": intake.unreadable + self._refill.unreadable,
            "broken_sequences": intake.out_of_sequence,
            "gaps": self._gaps.count,
            "refilled_events": self._gaps.refilled,
            "held_bytes": self._room.held_bytes,
        }
