"""What unfinished bodies may hold together: each is bounded by itself, and many that never end would add up. Pure."""

from opencode_events.errors import Busy


class Bodies:
    """A count of the bytes of all bodies that are being received, against `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def hold(self, size: int) -> None:
        """Count `size` bytes more. Raises Busy, and counts nothing, when they do not fit."""
        if self.held + size > self._limit:
            detail = f"unfinished bodies hold max_unfinished_bytes ({self._limit}) together"
            raise Busy(detail, retry_after_s=1, limit=self._limit)
        self.held += size

    def release(self, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size
