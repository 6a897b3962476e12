"""The daemon as a service: the signals that it gets, what they have it do, and what it says to its manager.

SIGTERM and SIGINT end it, the second one without waiting. SIGHUP has it read its settings, and the files they name,
anew; unless it is the hang-up of the terminal that it was started from, which ends it.
"""

import asyncio
import dataclasses
import os
import signal
import ssl

import structlog

from opencode_events import logs, sockets, systemd
from opencode_events.broker.broker import Broker
from opencode_events.errors import OpencodeEventsError
from opencode_events.eventlog.sqlite import SqliteLog
from opencode_events.reloaders import Commit, Reloaders, value
from opencode_events.settings import Settings
from opencode_events.watchdog.patrol import Patrol

log = structlog.get_logger()

STDIN = 0
# Seconds that the end takes at most beside the subscribers' own: resets, open answers, the log.
END_S = 15.0
# What the broker asks anew each time; the other settings of its group are built into its parts.
BROKER = (
    "max_subscribers", "max_subscribers_per_peer", "max_replays", "backlog_events", "backlog_bytes", "on_overflow",
    "on_expired", "heartbeat_s", "close_flush_s", "drain_slice", "drain_pause_s",
)  # fmt: skip
RETENTION = ("log_max_events", "log_max_bytes", "log_max_age_s")
WATCHDOG = (
    "tick_s", "fin_zombie_s", "fin_max_s", "path_dead_s", "stalled_s", "ending_stalled_s", "head_timeout_s",
)  # fmt: skip
LOGGING = ("log_level", "log_burst")


class Service:
    """What signals do. `first` is set when the daemon shall end, `second` when it shall not wait any more."""

    def __init__(self, reloaders: Reloaders, notifier: systemd.Notifier, broker: Broker) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._reloaders = reloaders
        self._notifier = notifier
        self._broker = broker
        self._has_terminal = os.isatty(STDIN)

    def listen(self) -> None:
        """Take signals from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    async def run(self) -> None:
        """Feed the manager's watchdog and tell it how many subscribe, until cancelled."""
        await self._notifier.run(self.status)

    def ready(self) -> None:
        """The daemon answers: say so."""
        self._notifier.ready(self.status())

    def stopping(self, drain_s: float) -> None:
        """The daemon ends: say so, and how long that may take."""
        log.info("daemon.stopping", subscribers=len(self._broker.subscribers), drain_s=drain_s)
        self._notifier.stopping(self.status(), drain_s + END_S)

    def end(self) -> None:
        """Ask the daemon to end; asked twice, at once."""
        (self.second if self.first.is_set() else self.first).set()

    def reload(self) -> None:
        """Read the settings anew, and log what became of that. Whatever is wrong with them, the daemon goes on."""
        self._notifier.reloading()
        try:
            outcome = self._reloaders.reload()
        except (OpencodeEventsError, OSError) as error:  # OSError: a file that was changed between two looks at it
            log.error("daemon.reload_failed", reason=str(error))
        else:
            tell = log.warning if outcome.kept else log.info
            tell("daemon.reloaded", changed=list(outcome.changed), needs_restart=list(outcome.kept))
        self._notifier.ready(self.status())

    def status(self) -> str:
        """Return how many subscribe, and how many of them are behind, or near their limit."""
        lagging = 0
        for subscriber in self._broker.subscribers.values():
            backlog = subscriber.outbox.backlog
            lagging += subscriber.is_behind or (backlog is not None and backlog.is_lagging)
        found = systemd.describe(len(self._broker.subscribers), lagging)
        return f"ending, {found}" if self.first.is_set() else found

    def _hung_up(self) -> None:
        if self._has_terminal and not os.isatty(STDIN):
            self.end()
        elif not self.first.is_set():
            self.reload()


def claim(
    reloaders: Reloaders, *, broker: Broker, patrol: Patrol, eventlog: SqliteLog, tls: ssl.SSLContext | None
) -> None:
    """Say for each part what of it can be changed while it runs."""

    def limits(new: Settings) -> Commit:
        def commit() -> None:
            broker.settings = broker.admission.settings = dataclasses.replace(
                broker.settings, **{name: value(new, name) for name in BROKER}
            )
            sockets.allow_descriptors(new.broker.max_subscribers)

        return commit

    def retention(new: Settings) -> Commit:
        kept = dataclasses.replace(eventlog.settings, **{name: value(new, name) for name in RETENTION})
        return lambda: setattr(eventlog, "settings", kept)

    def certificate(new: Settings) -> Commit | None:
        if tls is None or sockets.tls_context(new.server) is None:  # plain stays plain, and HTTPS stays HTTPS
            return None
        return lambda: tls.load_cert_chain(new.server.tls_cert, new.server.tls_key or None)

    reloaders.add(BROKER, limits)
    reloaders.add(RETENTION, retention)
    reloaders.add(WATCHDOG, lambda new: lambda: setattr(patrol, "settings", new.watchdog))
    reloaders.add(LOGGING, lambda new: lambda: logs.adjust(new.logging))
    reloaders.add(("drain_s",), lambda new: lambda: None)  # asked for when the daemon ends
    reloaders.add(("tls_cert", "tls_key"), certificate)
