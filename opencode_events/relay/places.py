"""How many of something there may be at a time: taken with `with`, counted, with their peak."""

from types import TracebackType

from opencode_events.errors import Busy

RETRY_AFTER_S = 1


class Places:
    """`most` places for `what`, a plural. Entering when all are taken raises Busy, which names the limit."""

    def __init__(self, most: int, what: str) -> None:
        self._most = most
        self._what = what
        self.taken = 0
        self.peak = 0
        self.refused = 0

    def __enter__(self) -> None:
        if self.taken >= self._most:
            self.refused += 1
            raise Busy(f"there are {self._most} {self._what} already", retry_after_s=RETRY_AFTER_S, limit=self._most)
        self.taken += 1
        self.peak = max(self.peak, self.taken)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taken -= 1
