"""Ten minutes at the default limits: who lives is kept, and who is dead or stalled is ended when it is said to be.

`make soak` runs it; it is no part of the tests. Each kind of daemon has a day of its own, as in `test_ends`, and slow
readers of a fast stream beside it, who are behind all the time: a limit below 130 s without progress would cut them.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.clients import DEADLINE_S, Frame
from tests.network.day import Day, spend
from tests.network.deaths import DEATHS
from tests.network.hosts import peer_of
from tests.network.stage import LIMITS, Stage, stage_of
from tests.network.survivors import reads_its_receipt_after_its_goodbye, resumes_a_second_before_its_limit
from tests.network.ways import BACKLOG, LOST

KINDS = ("uvloop, taken over", "asyncio, plain", "uvloop, tls")
FLOOD = "/flood"
FLOOD_EVENTS, FLOOD_EVENT_BYTES, FLOOD_PAUSE_S = 20, 2_000, 0.2
PACE = 1_000  # bytes a second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long slow readers must live (10)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind of daemon; may be repeated")
    wanted = parser.parse_args()
    kinds = wanted.kind or list(KINDS)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(kinds)) as pool:
        days = {
            kind: pool.submit(soak, kind, Path(folder) / str(number), 60 * wanted.minutes)
            for number, kind in enumerate(kinds)
        }
        failures = sum(tell(kind, day.result()) for kind, day in days.items())
    print(f"{failures} not as it should be" if failures else "all as it should be")
    return 1 if failures else 0


def soak(kind: str, folder: Path, for_s: float) -> Day:
    """Have a day of at least `for_s` seconds."""
    with stage_of(kind, folder, ("near", *LOST), limits=LIMITS, backlog_events=BACKLOG) as stage:
        flood = Flood(stage)
        stage.callback(flood.stop)
        lives: dict[str, Callable[[Stage, str], object]] = {
            "reads 1 KB/s, usual buffer": partial(read_slowly, for_s=for_s, receive_buffer=0),
            "reads 1 KB/s, usual buffer, too": partial(read_slowly, for_s=for_s, receive_buffer=0),
            "reads 1 KB/s, small buffer": partial(read_slowly, for_s=for_s, receive_buffer=4096),
            "reads 1 KB/s, small buffer, too": partial(read_slowly, for_s=for_s, receive_buffer=4096),
            "reads all there is": partial(read_all, flood=flood, for_s=for_s),
            resumes_a_second_before_its_limit.__name__: resumes_a_second_before_its_limit,
            reads_its_receipt_after_its_goodbye.__name__: reads_its_receipt_after_its_goodbye,
        }
        return spend(stage, kind, lives)


class Flood:
    """Publishes 200 KB/s to a directory, until it is stopped."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flood")
        self.published: list[str] = []
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(FLOOD_PAUSE_S):
            self.published += self._stage.feed(FLOOD, FLOOD_EVENTS, FLOOD_EVENT_BYTES)


def read_slowly(stage: Stage, room: str, *, for_s: float, receive_buffer: int) -> str:
    """Read at 1 KB/s what comes two hundred times as fast."""
    stream = stage.client().subscribe(f"/event?directory={FLOOD}&on_overflow=catchup", receive_buffer=receive_buffer)
    stage.look_again()
    began, frames, longest = time.monotonic(), [], 0.0
    while (passed := time.monotonic() - began) < for_s:
        frames += stream.poll(PACE)
        handle = stage.handle(peer_of(stream.sock))
        assert handle is not None, f"ended after {passed:.0f} s"
        longest = max(longest, handle["last_progress_s"])
        time.sleep(max(0.0, 1.0 - (time.monotonic() - began - passed)))
    stream.sock.settimeout(DEADLINE_S)
    check_order(frames)
    return f"kept; {len(frames)} frames, at most {longest:.0f} s without progress"


def read_all(stage: Stage, room: str, *, flood: Flood, for_s: float) -> str:
    """Read all that is published meanwhile."""
    stream = stage.client().subscribe(f"/event?directory={FLOOD}")
    began, frames = time.monotonic(), []
    while time.monotonic() - began < for_s:
        frames.append(stream.frame())
    check_order(frames)
    seen = [frame.event for frame in frames if not frame.is_control]
    start = flood.published.index(seen[0])
    assert seen == flood.published[start : start + len(seen)]
    return f"kept; {len(seen)} events, in order"


def check_order(frames: list[Frame]) -> None:
    """No event is missing: they are all that is published to their directory, but not the log's only ones."""
    places = [int(frame.id.split("-")[1]) for frame in frames if frame.id is not None and not frame.is_control]
    assert places == sorted(set(places))
    assert not [frame.type for frame in frames if frame.type in ("server.stream.expired", "server.stream.closing")]


def tell(kind: str, day: Day) -> int:
    """Print a day; return how much of it was not as it should be."""
    expected = {
        death.name: " or ".join(
            " ".join([*filter(None, end.told), f"after {LIMITS[end.limit]:g} s" if end.limit else "at once"])
            for end in death.ends_on(*kind.split(", "))
        )
        for death in DEATHS
    }
    failures = 0
    print(f"\n{kind}\n{'who':58} {'should be':46} was")
    for name, outcome in day.outcomes.items():
        error = outcome.exception()
        failures += error is not None
        seen = outcome.result() if error is None else f"FAILED: {type(error).__name__}: {str(error)[:200]}"
        print(f"{name.replace('_', ' '):58} {expected.get(name, 'kept'):46} {seen}")
    try:
        day.check()
    except AssertionError as error:
        failures += 1
        print(f"FAILED: something is left of the day: {error}")
    print(
        f"descriptors {day.descriptors_before} -> {day.descriptors_after}, "
        f"{day.status['watchdog']}, peak of held bytes {day.status['broker']['held_bytes_peak']:,}"
    )
    return failures


if __name__ == "__main__":
    sys.exit(main())
