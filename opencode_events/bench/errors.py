"""What ends a measurement before it has a result."""

from opencode_events.errors import OpencodeEventsError


class BenchError(OpencodeEventsError):
    """The measurement cannot be made: the daemon is not there, refuses, or does not come to rest in time."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
