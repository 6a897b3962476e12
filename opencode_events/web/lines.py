"""Cuts a body into lines as it arrives. Pure; holds one unfinished line at most, up to a limit."""


class LineTooLong(Exception):
    """An unfinished line is longer than the limit. `complete` are the lines before it in the same chunk."""

    def __init__(self, complete: list[bytes]) -> None:
        super().__init__()
        self.complete = complete


class LineSplitter:
    """Takes chunks that split anywhere and returns whole lines without their break. `limit` is one line's bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def unfinished_bytes(self) -> int:
        """Bytes of the line that is not complete yet."""
        return self._size

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes. Raises LineTooLong when what is left over cannot become one."""
        *complete, rest = chunk.split(b"\n")
        if complete and self._parts:
            complete[0] = b"".join((*self._parts, complete[0]))
            self._parts, self._size = [], 0
        if rest:
            self._parts.append(rest)
            self._size += len(rest)
            if self._size > self._limit:
                raise LineTooLong(complete)
        return complete

    def finish(self) -> list[bytes]:
        """Return the last line, where the body ended without a line break."""
        last = b"".join(self._parts)
        self._parts, self._size = [], 0
        return [last] if last else []
