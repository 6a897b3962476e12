"""How many events one caller may publish in the long run: a bucket for each, which fills as time passes."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from opencode_events.broker.admission import address_of
from opencode_events.errors import TooMany
from opencode_events.tokens import Token

# Callers that are remembered. Who is forgotten has a full bucket; a full one need not be remembered.
REMEMBERED = 10_000


class Bucket:
    """What one caller may still publish at once: a second's worth at most, less than nothing after a large batch."""

    __slots__ = ("_at_s", "_level", "_rate")

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._level = self._size
        self._at_s = now_s

    @property
    def _size(self) -> float:
        return max(self._rate, 1.0)

    def take(self, count: int, now_s: float) -> float:
        """Take `count` and return 0, or return the seconds until they may be taken.

        A batch beyond a second's worth is taken from a full bucket, and paid for later: it is one body, which cannot be
        cut, and was received already.
        """
        self._level = min(self._size, self._level + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        missing = min(count, self._size) - self._level
        if missing > 1e-9:  # what rounding leaves
            return missing / self._rate
        self._level -= count
        return 0.0


class Rates:
    """The buckets of all callers: of tokens, and of addresses that show none. A rate of 0 is no limit."""

    def __init__(
        self, token_rate: float = 0.0, peer_rate: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rates = {"token_publish_events_per_s": token_rate, "peer_publish_events_per_s": peer_rate}
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], Bucket] = OrderedDict()

    def take(self, token: Token, peer: str, count: int) -> None:
        """Count `count` events of somebody at `host:port`. Raises TooMany, and counts none, when they are too many."""
        if token.name:
            setting, who = "token_publish_events_per_s", token.name
        else:
            setting, who = "peer_publish_events_per_s", address_of(peer)
        rate, now_s = self._rates[setting], self._clock()
        if not rate or not count:
            return
        bucket = self._buckets.get((setting, who))
        if bucket is None:
            bucket = self._buckets[setting, who] = Bucket(rate, now_s)
            if len(self._buckets) > REMEMBERED:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end((setting, who))
        wait_s = bucket.take(count, now_s)
        if wait_s:
            detail = f"{who} publishes more than {setting} ({rate:g})"
            raise TooMany(detail, retry_after_s=math.ceil(wait_s), limit=int(rate))
