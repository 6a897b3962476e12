"""How the daemon must end whoever dies or stalls: each way, on each loop and each path, and how that is looked at.

The paths differ where the end is told to aiohttp first (plain), and where the loop is told nothing (TLS).
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.clients import until
from tests.network import ways
from tests.network.stage import Stage

# Beyond a limit: a tick, and what a machine with other work takes; for us to see it, who are many threads, some more.
GRACE_S = 2.0
SEEN_S = 5.0


@dataclass(frozen=True)
class End:
    """How a connection ends.

    `reason` is what `?closed=1` says, None for what is no stream; `evicted` what the watchdog's line says, None where
    the end comes without it; `limit` the setting that says when, "" where it comes at once.
    """

    reason: str | None
    evicted: str | None = None
    limit: str = ""

    @property
    def told(self) -> tuple[str | None, ...]:
        return (self.reason,) if self.evicted is None else (self.reason, self.evicted)

    def after_s(self, stage: Stage) -> float:
        return stage.limits[self.limit] if self.limit else 0.0


CLOSED = End("client_closed")
RESET = End("client_reset")
STALLED = End("stalled", "stalled", "stalled_s")
OPERATOR = End("operator", "stalled", "ending_stalled_s")
OVERFLOW = End("overflow_events", "stalled", "ending_stalled_s")
PATH_DEAD = End("path_dead", "path_dead", "path_dead_s")
FIN_ZOMBIE = End("fin_zombie", "fin_zombie", "fin_zombie_s")
FIN_OLD = End("fin_zombie", "fin_zombie", "fin_max_s")
NO_HEAD = End(None, "head_timeout", "head_timeout_s")
NO_READER = End(None, "fin_zombie", "fin_zombie_s")


@dataclass(frozen=True)
class Death:
    """A way to die, on `paths`. `end` says how it ends, `ends` on which paths otherwise, `or_else` how it also may."""

    die: Callable[[Stage, str], str]
    end: End
    ends: Mapping[str, End] = field(default_factory=dict)
    or_else: End | None = None
    paths: tuple[str, ...] = ("taken over", "plain", "tls")

    @property
    def name(self) -> str:
        return self.die.__name__

    def ends_on(self, loop: str, path: str) -> list[End]:
        """Return the ends that are right, the latest first."""
        end = self.ends.get(f"{loop}, {path}", self.ends.get(path, self.end))
        return [end, *([self.or_else] if self.or_else is not None else [])]


ZOMBIE = {"tls": FIN_ZOMBIE}  # what a loop does not see behind TLS
UNTOLD = {"plain": CLOSED, "tls": CLOSED}  # aiohttp does not tell its handler which it was
DEATHS = [
    Death(ways.closes_having_read_all, CLOSED, or_else=RESET),  # if a heartbeat came meanwhile
    Death(ways.closes_with_something_unread, RESET, UNTOLD, or_else=CLOSED),  # if the FIN comes before the RST
    Death(ways.hangs_up_while_idle, RESET, UNTOLD),
    Death(ways.hangs_up_in_the_middle_of_an_event, RESET, UNTOLD),
    Death(ways.hangs_up_while_stalled, RESET, UNTOLD),
    Death(ways.hangs_up_as_a_zombie, CLOSED, paths=("tls",)),
    Death(ways.says_goodbye_and_reads_on, CLOSED),
    Death(ways.says_goodbye_and_never_reads, CLOSED),
    Death(ways.says_goodbye_while_stalled, CLOSED, ZOMBIE),
    Death(ways.says_goodbye_while_only_the_kernel_holds_something, CLOSED),
    Death(ways.talks_on_and_says_goodbye, CLOSED, {"plain": FIN_OLD, "asyncio, tls": FIN_OLD}),
    Death(ways.talks_on_and_says_goodbye_while_stalled, FIN_ZOMBIE, {"taken over": CLOSED}),
    Death(ways.is_a_killed_curl, CLOSED, or_else=RESET),
    Death(ways.never_reads_the_head, STALLED),
    Death(ways.reads_no_more, STALLED),
    Death(ways.is_a_stopped_curl, STALLED),
    # Its own deadline to read what is buffered may be as long as the watchdog's for it.
    Death(ways.reads_no_more_and_is_ended_by_the_operator, OPERATOR, or_else=replace(OPERATOR, evicted=None)),
    Death(ways.reads_no_more_and_its_backlog_is_full, OVERFLOW, or_else=replace(OVERFLOW, evicted=None)),
    Death(ways.is_unplugged_while_events_come, PATH_DEAD),
    Death(ways.is_unplugged_while_idle, PATH_DEAD),
    Death(
        ways.is_unplugged_while_stalled, STALLED, or_else=PATH_DEAD
    ),  # as it was when the last window was full or not
    Death(ways.is_silenced_while_events_come, PATH_DEAD),
    Death(ways.is_silenced_while_idle, PATH_DEAD),
    Death(ways.says_nothing, NO_HEAD),
    Death(ways.says_nothing_below_tls, End(None), paths=("tls",)),
    Death(ways.says_half_a_head, NO_HEAD),
    Death(ways.says_half_of_its_second_head, NO_HEAD),
    Death(ways.drips_a_head, End(None, "head_timeout")),
    Death(ways.never_reads_a_long_answer, End(None, "stalled", "stalled_s")),
    Death(ways.never_reads_a_long_answer_and_says_goodbye, NO_READER),
    Death(ways.asks_for_a_long_answer_and_says_goodbye_at_once, End(None), or_else=NO_READER),
    Death(ways.publishes_and_never_reads_the_receipt, End(None, "stalled", "stalled_s")),
    Death(ways.publishes_and_says_goodbye_before_the_receipt_is_read, NO_READER),
    Death(ways.publishes_half_a_line_and_vanishes, End(None)),
]


def meet(stage: Stage, kind: str, death: Death) -> str:
    """Go a way to its end, and look how the daemon ends it. Returns what was seen."""
    ends = death.ends_on(*kind.split(", "))
    latest_s = ends[0].after_s(stage)
    peer = death.die(stage, f"/{death.name}")
    began = time.monotonic()
    stage.look_again()
    until(lambda: peer not in stage.tables(), timeout_s=latest_s + 2 * SEEN_S)
    took = time.monotonic() - began
    until(lambda: stage.handle(peer) is None)
    stage.look_again()

    lines, farewell = stage.evictions(peer), stage.farewell(peer)
    found = (None if farewell is None else farewell["reason"], *(line["reason"] for line in lines))
    expected = next((end for end in ends if found == end.told), None)
    assert expected is not None, f"{found}, not {' or '.join(str(end.told) for end in ends)}"
    assert took < expected.after_s(stage) + SEEN_S
    for line in lines:
        check(line, expected.after_s(stage))
    return f"{' '.join(filter(None, found)) or 'gone'} after {took:.1f} s"


def check(line: dict[str, Any], after_s: float) -> None:
    """What decided stands in the line, and it was neither too early nor late."""
    assert line["verdict"] == "evict"
    assert line["level"] == "warning"
    age = {"head_timeout": "head_s", "fin_zombie": "fin_s", "path_dead": "last_ack_s", "stalled": "last_progress_s"}
    assert after_s <= line[age[line["reason"]]] + 0.001
    assert line[age[line["reason"]]] < after_s + GRACE_S or not after_s
    if line["reason"] == "path_dead":
        assert line["unacked_segments"] > 0
        assert line["tcp_state"] == "ESTABLISHED"
    if line["reason"] == "stalled":
        assert line["unacked_bytes"] > 0
        assert line["pending_bytes"] >= line["unacked_bytes"]
    if line["reason"] == "fin_zombie":
        assert line["tcp_state"] == "CLOSE_WAIT"
