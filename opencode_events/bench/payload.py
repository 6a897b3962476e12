"""What is posted: events of an exact size that carry their own sequence number and the moment of their making.

The numbers start at 0 for each maker, so a subscriber that was connected before the first event knows what it must
see. The moment is CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share.
"""

import re
import secrets
import time

from opencode_events.bench.errors import BenchError

_HEAD = b'{"directory":"%s","payload":{"type":"bench.event","properties":{"run":"%s","seq":'
_SENT = b',"sent":'
_PAD = b',"pad":"'
_END = b'"}}}'
_DIGITS = 40  # of `seq` and `sent` together: both are 64-bit at most


def new_run() -> str:
    """Return a name for one run, so that events of an earlier or a neighbouring one are not taken for ours."""
    return secrets.token_hex(4)


def pattern(run: str) -> re.Pattern[bytes]:
    """Return a pattern that finds the events of `run`; its groups are the sequence number and the moment."""
    return re.compile(rb'"run":"%s","seq":(\d+),"sent":(\d+)' % re.escape(run.encode()))


class EventMaker:
    """Makes the events of one run, in order, for one directory."""

    def __init__(self, run: str, *, directory: str = "/bench", size: int = 200) -> None:
        """`size` is the length of the envelope's JSON in bytes. Raise BenchError if an event does not fit into it."""
        self._head = _HEAD % (directory.encode(), run.encode())
        fixed = len(self._head + _SENT + _PAD + _END)
        if size < fixed + _DIGITS:
            raise BenchError(f"an event of this run needs at least {fixed + _DIGITS} bytes, not {size}")
        self._pad = b"x" * (size - fixed)
        self.size = size
        self.made = 0

    def make(self) -> bytes:
        """Return the next event, stamped with the present moment."""
        numbers = b"%d%s%d" % (self.made, _SENT, time.monotonic_ns())
        self.made += 1
        return b"".join((self._head, numbers, _PAD, self._pad[: len(self._pad) - len(numbers) + len(_SENT)], _END))

    def make_array(self, count: int) -> bytes:
        """Return the next `count` events as a JSON array."""
        return b"[" + b",".join([self.make() for _ in range(count)]) + b"]"
