"""What a daemon says of itself, in a few lines: the head of `top`, and the first lines of `status`.

Pure. A line has a name and phrases, the more important ones first; what does not fit is left out, phrase by phrase.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from opencode_events.cli.columns import cells, counted, cut, duration, number, rate, size, text
from opencode_events.cli.render import printable

NAME_WIDTH = 11
BETWEEN = "  "

Status = Mapping[str, Any]
NO_RATES: Mapping[str, float] = {}


class Line(NamedTuple):
    """One line. `is_trouble`: a person should look."""

    name: str
    phrases: tuple[str, ...]
    is_trouble: bool = False

    def shown(self, width: int) -> str:
        """Return it in `width` columns."""
        line = f"{self.name:<{NAME_WIDTH}} {self.phrases[0]}"
        for phrase in self.phrases[1:]:
            if cells(line) + len(BETWEEN) + cells(printable(phrase)) > width:
                break
            line += BETWEEN + phrase
        return cut(printable(line), width)


def overview(status: Status, rates: Mapping[str, float] = NO_RATES) -> list[Line]:
    """Return the lines; those of parts that this daemon has not are not there. `rates` are in a second."""
    lines = [_daemon(status)]
    for name, make in (
        ("broker", _subscribers),
        ("broker", _events),
        ("log", _log),
        ("upstream", _upstream),
        ("pass_through", _pass_through),
        ("watchdog", _watchdog),
        ("http", _refused),
    ):
        part = status.get(name)
        if isinstance(part, Mapping) and (line := make(part, rates)).phrases:
            lines.append(line)
    return lines


def _daemon(status: Status) -> Line:
    """Say who it is, and what memory it has; `is_trouble` while there is none for anybody new."""
    memory = status.get("memory")
    phrases = [
        f"version {text(status, 'version')}",
        f"pid {text(status, 'pid')}",
        f"up {duration(status.get('uptime_s'))}",
    ]
    is_short = False
    if isinstance(memory, Mapping):
        is_short, limit = bool(memory.get("is_short")), memory.get("limit_bytes")
        phrases.append(f"memory {size(memory.get('rss_bytes'))}" + (f" of {size(limit)}" if limit else ""))
    if is_short:
        phrases.insert(0, "MEMORY IS SHORT")
    return Line("daemon", tuple(phrases), is_trouble=is_short)


def _subscribers(broker: Status, rates: Mapping[str, float]) -> Line:
    states = _counts(broker.get("subscribers_by_state"))
    closed = _counts(broker.get("subscribers_closed"))
    phrases = [number(broker.get("subscribers"))]
    if states:
        phrases.append(", ".join(f"{number(count)} {name}" for name, count in states.items()))
    phrases.append(counted(broker.get("selections"), "selection"))
    phrases.append(f"fell behind {number(broker.get('fell_behind'))}")
    if closed:
        phrases.append("closed: " + ", ".join(f"{number(count)} {name}" for name, count in closed.items()))
    return Line("subscribers", tuple(phrases))


def _events(broker: Status, rates: Mapping[str, float]) -> Line:
    sent = [f"{rate(rates['sent_events'])}/s sent, {size(rates['sent_bytes'])}/s"] if "sent_events" in rates else []
    holds = f"held {size(broker.get('held_bytes'))} of {size(broker.get('held_bytes_limit'))}"
    return Line(
        "events",
        (
            f"{number(broker.get('published_events'))} published" + _per_s(rates, "published_events"),
            *sent,
            holds,
            f"{number(broker.get('duplicate_events'))} duplicates",
            f"{number(broker.get('replayed_events'))} replayed" + _per_s(rates, "replayed_events"),
        ),
    )


def _log(log: Status, rates: Mapping[str, float]) -> Line:
    return Line(
        "log",
        (
            f"{number(log.get('events'))} events",
            f"{size(log.get('used_bytes'))}",
            f"head {text(log, 'epoch')}-{text(log, 'head')}",
            f"durability {text(log, 'durability')}",
            text(log, "path"),
        ),
    )


def _upstream(upstream: Status, rates: Mapping[str, float]) -> Line:
    """Say how the server behind is heard; `is_trouble` while it is not."""
    is_live, trouble = bool(upstream.get("live")), str(upstream.get("trouble") or "")
    return Line(
        "upstream",
        (
            ("live" if is_live else "away") + (trouble and ": " + trouble.removeprefix("upstream is away: ")),
            text(upstream, "url"),
            f"{number(upstream.get('relayed_events'))} relayed" + _per_s(rates, "relayed_events"),
            counted(upstream.get("gaps"), "gap"),
            f"held {size(upstream.get('held_bytes'))}",
            counted(upstream.get("connections"), "connection"),
        ),
        is_trouble=not is_live or bool(trouble),
    )


def _pass_through(passed: Status, rates: Mapping[str, float]) -> Line:
    return Line(
        "passing",
        (
            f"{counted(passed.get('requests'), 'request')}, {number(passed.get('streams'))} of them streams",
            f"{number(passed.get('answered'))} answered" + _per_s(rates, "answered"),
            f"{number(passed.get('refused'))} refused",
            f"{number(passed.get('away'))} away",
            f"{number(passed.get('cut'))} cut",
        ),
    )


def _watchdog(watchdog: Status, rates: Mapping[str, float]) -> Line:
    evictions = _counts(watchdog.get("evictions"))
    phrases = [
        f"{counted(watchdog.get('watched'), 'connection')}, {number(watchdog.get('not_at_rest'))} not at rest",
        f"{size(watchdog.get('kernel_unsent_bytes'))} unacknowledged",
        f"{number(watchdog.get('close_wait'))} CLOSE_WAIT",
    ]
    if evictions:
        phrases.append("evicted: " + ", ".join(f"{number(count)} {name}" for name, count in evictions.items()))
    return Line("watchdog", tuple(phrases))


def _refused(http: Status, rates: Mapping[str, float]) -> Line:
    """Say how many requests were refused with which status; nothing if none was."""
    return Line(
        "refused", tuple(f"{number(count)} with {code}" for code, count in _counts(http.get("refusals")).items())
    )


def _counts(value: object) -> dict[str, int]:
    """Return what there is of each, the most frequent first."""
    found = {name: count for name, count in value.items() if isinstance(count, int)} if isinstance(value, dict) else {}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _per_s(rates: Mapping[str, float], name: str) -> str:
    return f", {rate(rates[name])}/s" if name in rates else ""
