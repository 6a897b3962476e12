"""Which member of which part's `statistics()` is which metric: names, units and kinds as Prometheus wants them.

"Metric and label naming" and "Writing client libraries" of the Prometheus documentation: base units, `_total` for what
only grows, no reason or state in a name. Every name begins with `opencode_events_`. docs/metrics.md explains the same
names to people, and a test holds the two equal.
"""

from typing import Literal, NamedTuple

from opencode_events.broker.lifecycle import Reason
from opencode_events.broker.tally import STARTS

PREFIX = "opencode_events_"

Kind = Literal["counter", "gauge", "histogram"]


class Measure(NamedTuple):
    """One metric. A counter's `_total` is not part of `name`; `label` is that of a member with many values.

    `values` are those of the label that are known beforehand: each is there from the beginning, as 0, for a series
    that begins with 1 has no increase.
    """

    part: str
    member: str
    kind: Kind
    name: str
    help: str
    label: str = ""
    values: tuple[str, ...] = ()


REASONS = tuple(reason.value for reason in Reason)
REFUSALS = ("400", "401", "403", "404", "405", "409", "413", "415", "429", "431", "500", "502", "503", "504")
EVICTED = ("fin_zombie", "path_dead", "stalled", "head_timeout")

MEASURES = (
    Measure("broker", "published_events", "counter", "published_events", "Events that have come into the log."),
    Measure("broker", "published_bytes", "counter", "published_bytes", "Bytes of their JSON."),
    Measure("broker", "duplicate_events", "counter", "duplicate_events", "Events that the log had already."),
    Measure("broker", "sent_events", "counter", "sent_events", "Events that were sent, once for each subscriber."),
    Measure("broker", "sent_bytes", "counter", "sent_bytes", "Bytes of streams that were sent."),
    Measure("broker", "publish_s", "histogram", "publish_duration_seconds",
            "From a batch's having been read to its being in the log and fanned out."),
    Measure("broker", "commit_s", "histogram", "log_commit_duration_seconds", "What one commit to the log takes."),
    Measure("broker", "commit_events", "histogram", "log_commit_events", "Events of one commit, duplicates included."),
    Measure("broker", "subscribers_opened", "counter", "subscribers_opened", "Subscribers that have come."),
    Measure("broker", "starts", "counter", "resumes",
            "Subscribers that have come, by what became of the place that they asked for.", "result", STARTS),
    Measure("broker", "subscribers_closed", "counter", "subscribers_closed",
            "Subscribers that are over, by reason.", "reason", REASONS),
    Measure("broker", "fell_behind", "counter", "subscribers_fell_behind",
            "Times that one reached its cap and read on from the log."),
    Measure("broker", "caught_up", "counter", "subscribers_caught_up", "Times that one was behind and became live."),
    Measure("broker", "overtaken", "counter", "subscribers_overtaken",
            "Times that retention removed what one had still to read."),
    Measure("broker", "replay_pages", "counter", "replay_pages", "Pages that were made for those who are behind."),
    Measure("broker", "replayed_events", "counter", "replayed_events",
            "Events of those pages, once for each who got them."),
    Measure("broker", "selections", "gauge", "selections", "Different streams and filters in use."),
    Measure("broker", "flushes", "counter", "flushes", "Times that gathered events were written out."),
    Measure("broker", "last_flush_s", "gauge", "last_flush_duration_seconds", "What the last of them took."),
    Measure("broker", "held_bytes", "gauge", "held_bytes", "Bytes that backlogs and paused transports hold."),
    Measure("broker", "held_bytes_peak", "gauge", "held_peak_bytes", "The most that they ever held."),
    Measure("broker", "held_bytes_limit", "gauge", "held_limit_bytes", "The most that they may hold."),
    Measure("log", "head", "gauge", "log_head_position", "Position of the newest event."),
    Measure("log", "oldest", "gauge", "log_oldest_position", "Position of the oldest event that is retained."),
    Measure("log", "events", "gauge", "log_events", "Events that are retained."),
    Measure("log", "used_bytes", "gauge", "log_used_bytes", "Bytes of the log's pages in use."),
    Measure("watchdog", "watched", "gauge", "connections", "Accepted connections, at the last look."),
    Measure("watchdog", "not_at_rest", "gauge", "connections_not_at_rest",
            "Those of which something is unacknowledged, or which may send a request."),
    Measure("watchdog", "close_wait", "gauge", "connections_close_wait",
            "Those whose client has said goodbye and ours is open still."),
    Measure("watchdog", "kernel_unsent_bytes", "gauge", "kernel_unsent_bytes",
            "Bytes that the kernel holds for them, unacknowledged."),
    Measure("watchdog", "last_sweep_s", "gauge", "last_sweep_cpu_seconds", "The processor's time that a look took."),
    Measure("watchdog", "evictions", "counter", "evictions",
            "Connections that the watchdog has ended, by reason.", "reason", EVICTED),
    Measure("http", "connections", "gauge", "http_connections", "Connections that are no streams."),
    Measure("http", "refusals", "counter", "http_refusals",
            "Requests that the daemon itself has refused, by status.", "status", REFUSALS),
    Measure("memory", "limit_bytes", "gauge", "memory_limit_bytes",
            "Bytes of memory beyond which nobody new is served; 0: there is no limit."),
    Measure("memory", "is_short", "gauge", "memory_short", "1 while nobody new is served for want of memory."),
    Measure("loop", "lag_s", "histogram", "loop_lag_seconds", "How late a callback got its turn of the event loop."),
    Measure("upstream", "live", "gauge", "upstream_live", "1 while the opencode server's events come."),
    Measure("upstream", "connections", "counter", "upstream_connections", "Times that the server was reached."),
    Measure("upstream", "frames", "counter", "upstream_frames", "Frames that it sent."),
    Measure("upstream", "relayed_events", "counter", "upstream_relayed_events",
            "Events that are in the log by it, fetched ones included."),
    Measure("upstream", "unreadable_events", "counter", "upstream_unreadable_events",
            "What it sent that is no event, or too large."),
    Measure("upstream", "broken_sequences", "counter", "upstream_broken_sequences",
            "Events whose number was not the next."),
    Measure("upstream", "gaps", "counter", "upstream_gaps", "Times that something may be missing."),
    Measure("upstream", "refilled_events", "counter", "upstream_refilled_events", "Events that were fetched then."),
    Measure("upstream", "held_bytes", "gauge", "upstream_held_bytes", "Bytes of it that wait to be logged."),
    Measure("pass_through", "requests", "gauge", "passed_requests", "Requests that are being passed through."),
    Measure("pass_through", "peak_requests", "gauge", "passed_peak_requests", "The most that ever were."),
    Measure("pass_through", "streams", "gauge", "passed_streams", "Those of them that are streams or websockets."),
    Measure("pass_through", "peak_streams", "gauge", "passed_peak_streams", "The most that ever were."),
    Measure("pass_through", "refused", "counter", "passed_refused", "Requests refused for want of a place."),
    Measure("pass_through", "answered", "counter", "passed_answered", "Requests that got the server's answer."),
    Measure("pass_through", "away", "counter", "passed_away", "Requests that got none."),
    Measure("pass_through", "cut", "counter", "passed_cut", "Answers that the server broke off."),
)  # fmt: skip

# What is counted when it is asked for: of the handles, and of the daemon as a whole.
SUBSCRIBERS = PREFIX + "subscribers"
LAGGING = PREFIX + "subscribers_lagging"
LIMIT = PREFIX + "subscribers_limit"
BACKLOGS = {
    "queued_events": (PREFIX + "backlog_events", "Events that wait for a subscriber, over all of them now."),
    "queued_bytes": (PREFIX + "backlog_bytes", "Bytes that wait for a subscriber, over all of them now."),
    "queued_s": (PREFIX + "backlog_age_seconds", "What the oldest of that has waited, over all of them now."),
}
READY = PREFIX + "ready"
BUILD = PREFIX + "build"
