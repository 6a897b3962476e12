"""Every setting of the daemon, declared once: its default, its unit and the reason for both.

The environment name (`OPENCODE_EVENTS_<NAME>`), the key of the TOML file, the flag of the command line and the
table in the docs are all made from the field; `configuration` reads them. A part of the daemon receives its own
dataclass, never the whole.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from opencode_events.access_settings import AccessSettings
from opencode_events.declared import Checked, Spec, check_url, setting
from opencode_events.log_settings import LoggingSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerSettings(Checked):
    """Where the daemon listens, where its files are, and what it takes from a request."""

    host: str = setting("127.0.0.1", "Addresses to listen on, comma-separated; `localhost` is both 127.0.0.1 and ::1.")
    port: int = setting(
        4097, "TCP port; 0 picks a free one. One above opencode's own 4096.", at_least=0, at_most=65_535
    )
    state_dir: Path = setting(
        Path("~/.local/state/opencode-events"), "Directory of daemon.json, the lock and the event log."
    )
    listen_backlog: int = setting(
        4096,
        "Connections the kernel may hold before they are accepted: a restart brings all clients at once.",
        at_least=1,
    )
    max_body_bytes: int = setting(
        8 * 1024 * 1024,
        "Bytes of one JSON body (object or array): it is held whole, and committed as one. NDJSON has no such limit.",
        at_least=1,
    )
    max_unfinished_bytes: int = setting(
        64 * 1024 * 1024, "Bytes that all bodies being received may hold together: eight of the largest.", at_least=1
    )
    max_event_bytes: int = setting(
        4 * 1024 * 1024, "Bytes of one event's JSON. The largest of 5 087 recorded ones is 73 526.", at_least=1
    )
    takeover: bool = setting(
        True, "Take a stream's connection over from aiohttp: 3 KiB a subscriber instead of 13. False for debugging."
    )
    tls_cert: str = setting("", "PEM file of the certificate chain to serve HTTPS with; empty serves plain HTTP.")
    tls_key: str = setting("", "PEM file of its private key; empty if it is in the same file.")
    tcp_unsent_bytes: int = setting(
        16 * 1024,
        "Unsent bytes the kernel takes for one connection (TCP_NOTSENT_LOWAT): a stalled one holds 63 KB, not 4 MB.",
        at_least=1,
    )
    tcp_keepalive_s: int = setting(
        30,
        "Seconds of silence before the kernel asks whether a peer is still there; then 3 times every 10 s.",
        at_least=1,
    )
    tcp_user_timeout_s: int = setting(
        600,
        "Seconds after which the kernel itself gives a connection up that takes nothing: if the watchdog cannot.",
        at_least=1,
    )
    uvloop: bool = setting(True, "Run on uvloop where it is installed; False runs on asyncio's own loop.")
    drain_s: float = setting(5.0, "Seconds that subscribers have on shutdown to read what is buffered.", at_least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrokerSettings(Checked):
    """What one subscriber, and all together, may cost; how the fan-out is cut into pieces."""

    max_subscribers: int = setting(
        10_000, "Subscribers at a time; one more gets 503. Each may cost a descriptor and its backlog.", at_least=1
    )
    max_subscribers_per_peer: int = setting(
        10_000,
        "Of them, from one address (IPv6: one /64); one more gets 429. As many as in all, for all programs of a "
        "machine, and all clients of a proxy, have one address. Lower it where clients come by themselves.",
        at_least=1,
    )
    max_replays: int = setting(
        10_000, "Of them, behind and reading from the log; one more gets 503. After a restart all are.", at_least=1
    )
    backlog_events: int = setting(
        10_000,
        "Events that one subscriber may have waiting. 8 s of the fastest flood a server makes (1 300/s).",
        at_least=1,
    )
    backlog_bytes: int = setting(
        32 * 1024 * 1024,
        "Bytes that one subscriber may have waiting. 10 000 recorded events average 10 MiB.",
        at_least=1,
    )
    budget_bytes: int = setting(
        256 * 1024 * 1024,
        "Bytes that all backlogs and transport buffers may hold together, shared pieces counted once.",
        at_least=1,
    )
    max_selections: int = setting(
        1_000, "Different selections (stream and filters) at a time: each costs one match for every event.", at_least=1
    )
    segment_events: int = setting(
        1_000, "Events joined into one write at most: what a client gets to drain between.", at_least=1
    )
    segment_bytes: int = setting(
        256 * 1024,
        "Bytes joined into one write at most, unless one event is larger: a socket buffer's worth.",
        at_least=1,
    )
    flush_slice: int = setting(
        250, "Subscribers written to in one turn of the loop: about 1.5 ms of send(2).", at_least=1
    )
    flush_min_s: float = setting(
        0.002, "Seconds between two flushes under load, at least: what makes segments larger.", at_least=0
    )
    flush_max_s: float = setting(
        0.050, "Seconds between two flushes, at most: the latency that batching may add.", at_least=0
    )
    replay_events: int = setting(
        500, "Events of one page of a replay at most: about 1 ms of the loop, between two turns of it.", at_least=1
    )
    replay_bytes: int = setting(
        64 * 1024,
        "Bytes of one page at most, unless one event is larger: what a subscriber that is being replayed to may hold.",
        at_least=1,
    )
    recent_events: int = setting(
        1_000, "Newest events kept in memory: who comes back soon is served without the log.", at_least=1
    )
    recent_bytes: int = setting(4 * 1024 * 1024, "Bytes of them at most, unless one event is larger.", at_least=1)
    on_overflow: str = setting(
        "auto",
        "What happens at a cap to who did not ask: `end` the stream, or `catchup` from the log; `auto` is catchup with "
        "an upstream, whose clients know no end, and end without.",
        choices=("auto", "end", "catchup"),
    )
    on_expired: str = setting(
        "auto",
        "Where a stream goes on whose place has been trimmed: at the `oldest` event, or at the `head`; `auto` is head "
        "with an upstream, whose clients fetch everything anew, and oldest without.",
        choices=("auto", "oldest", "head"),
    )
    heartbeat_s: float = setting(
        10.0, "Seconds between heartbeats. opencode's own; its clients give up at 45.", at_least=0.01
    )
    close_flush_s: float = setting(
        30.0, "Seconds that a subscriber being ended has to read what is buffered, progress or not.", at_least=0
    )
    drain_slice: int = setting(
        100, "Subscribers that are told of a shutdown at a time, so that they do not come back all at once.", at_least=1
    )
    drain_pause_s: float = setting(
        0.1, "Seconds between two of these times; fewer where that would take more than half of `drain_s`.", at_least=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventLogSettings(Checked):
    """Where events have their place for ever."""

    log_path: str = setting(
        "", "File of the event log; empty is events.sqlite3 in the state directory; `:memory:` keeps none."
    )
    durability: str = setting(
        "normal",
        "`normal` survives a killed process, `full` (one fsync a commit) a power cut.",
        choices=("normal", "full"),
    )
    log_max_events: int = setting(
        1_000_000,
        "Events kept: some ten minutes of the fastest flood of a real server, months of its usual days.",
        at_least=1,
    )
    log_max_bytes: int = setting(
        1024 * 1024 * 1024,
        "Bytes of the log's pages in use, indexes included. 1 000 000 recorded events are about as much.",
        at_least=1024 * 1024,
    )
    log_max_age_s: float = setting(
        7 * 86_400.0, "Seconds that events are kept: whoever was away for a week starts anew.", at_least=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchdogSettings(Checked):
    """When a connection is dead or stalled, and ended."""

    tick_s: float = setting(
        1.0, "Seconds between two looks at all connections; more where that would take 1 % of a core.", at_least=0.01
    )
    fin_zombie_s: float = setting(
        10.0, "Seconds without progress after a client's goodbye (FIN) while something waits for it.", at_least=0
    )
    fin_max_s: float = setting(
        60.0, "Seconds after a client's goodbye, progress or not: half-closed readers are rare.", at_least=0
    )
    path_dead_s: float = setting(
        30.0,
        "Seconds since anything came back while segments are in flight: a closed window answers, a dead path not.",
        at_least=0,
    )
    stalled_s: float = setting(
        180.0, "Seconds without a byte of progress. A live 1 KB/s reader shows none for up to 130 s.", at_least=0
    )
    ending_stalled_s: float = setting(
        30.0, "The same for a connection that is being ended: it will not read the goodbye either.", at_least=0
    )
    head_timeout_s: float = setting(
        10.0, "Seconds for a request's head, from the connection's start or from its first byte.", at_least=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelaySettings(Checked):
    """The opencode server that this daemon stands in front of, if any: the shield."""

    upstream: str = setting("", "URL of the opencode server to stand in front of; empty: there is none.")
    upstream_username: str = setting("opencode", "User that the server behind asks for; opencode's own default.")
    upstream_password_file: str = setting(
        "", "File that holds its password, for nobody else to read; else OPENCODE_SERVER_PASSWORD is taken."
    )
    allow_publish: bool = setting(
        False, "Take events from others too while there is an upstream, whose stream is then not only its own."
    )
    upstream_silence_s: float = setting(
        30.0,
        "Seconds without a frame from upstream before it is taken for hung: three of its heartbeats.",
        at_least=0.1,
    )
    upstream_retry_min_s: float = setting(
        1.0, "Seconds before the second try to reach upstream, at least; then twice as long each time.", at_least=0.01
    )
    upstream_retry_max_s: float = setting(30.0, "Seconds between two tries, at most.", at_least=0.01)
    held_memory_bytes: int = setting(
        16 * 1024 * 1024,
        "Bytes of events kept in memory while what was missed is fetched; the rest goes to a file.",
        at_least=0,
    )
    held_disk_bytes: int = setting(
        1024 * 1024 * 1024,
        "Bytes of that file at most: beyond it upstream is let go, and what it says meanwhile is fetched afterwards.",
        at_least=0,
    )
    upstream_connect_s: float = setting(10.0, "Seconds to connect to upstream: a busy one accepts late.", at_least=0.01)
    upstream_answer_s: float = setting(
        3600.0, "Seconds until an answer's head comes: a prompt is answered when its agent is done.", at_least=0.01
    )
    max_upstream_requests: int = setting(
        1_000, "Requests that are passed through at a time; one more gets 503.", at_least=1
    )
    max_upstream_streams: int = setting(
        100,
        "Of them, streams without an end (`/api/event`, websockets) at a time: each costs upstream a listener.",
        at_least=1,
    )

    def __post_init__(self) -> None:
        """Raise SettingError for a bad value."""
        super().__post_init__()
        if self.upstream:
            check_url("upstream", self.upstream)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """All groups. Made by `load`."""

    server: ServerSettings = dataclasses.field(default_factory=ServerSettings)
    access: AccessSettings = dataclasses.field(default_factory=AccessSettings)
    broker: BrokerSettings = dataclasses.field(default_factory=BrokerSettings)
    eventlog: EventLogSettings = dataclasses.field(default_factory=EventLogSettings)
    watchdog: WatchdogSettings = dataclasses.field(default_factory=WatchdogSettings)
    relay: RelaySettings = dataclasses.field(default_factory=RelaySettings)
    logging: LoggingSettings = dataclasses.field(default_factory=LoggingSettings)


GROUPS: Mapping[str, type[Any]] = get_type_hints(Settings)


def specs() -> dict[str, Spec]:
    """Return every setting by name, in the order of declaration."""
    found: dict[str, Spec] = {}
    for group, cls in GROUPS.items():
        hints = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            found[field.name] = Spec(
                group, field.name, hints[field.name], field.default, field.metadata["reason"], field.metadata["choices"]
            )
    return found
