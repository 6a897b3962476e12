"""A queue of byte strings that wait: first in memory, then in temporary files that nobody else sees. Both are bounded.

Owns the order and the limits. Nothing that was accepted is lost when the disk fails: what could not be written stays
in memory, and what comes next is refused. Nothing waits for long: an append writes some items that have gathered, or
nothing at all.

The files are segments: written at the last one's end, read from the first, and closed, which gives their space back,
once read. So a queue that never quite empties does not grow.
"""

import contextlib
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

LENGTH = struct.Struct(">Q")  # before each item in a file
ITEM_BYTES = 48
"""What an item in memory weighs beside its bytes: the head of the object, and its place in the queue."""
WRITE_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
SEGMENTS = 16
"""Files at most, about: each has this share of the space, or one item."""


class File(Protocol):
    """The few methods of an unbuffered file that are needed. `write` may take less than it is given."""

    def seek(self, offset: int, /) -> object: ...
    def read(self, size: int, /) -> bytes | None: ...
    def write(self, data: bytes | memoryview, /) -> int | None: ...
    def close(self) -> None: ...


def open_unlinked(directory: Path | None) -> File:
    """Return a new file without a name in `directory`, None being the system's own for such files."""
    return tempfile.TemporaryFile(buffering=0, dir=directory)


class SpoolFull(Exception):
    """An item was refused: there is no room for it, or the disk does not take it. What was accepted before is kept."""


class SpoolUnreadable(Exception):
    """The disk does not give back what it took. Nothing is lost by asking again; `close` drops it."""


class Room:
    """What some spools may take together.

    `memory_bytes` bounds what waits in memory, ITEM_BYTES an item included; what is on its way to a file, or has just
    come from it, takes up to WRITE_BYTES, READ_BYTES and two items more, of each spool. `disk_bytes` bounds the files,
    lengths and what has been read of the first included; 0 is no file.
    """

    def __init__(self, memory_bytes: int, disk_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.spools: list[Spool] = []

    @property
    def held_bytes(self) -> int:
        """Bytes of all items that wait."""
        return sum(spool.held_bytes for spool in self.spools)

    def has_memory(self, size: int) -> bool:
        """Whether so much more may be in memory."""
        return sum(spool.memory_taken for spool in self.spools) + size <= self.memory_bytes

    def has_disk(self, size: int) -> bool:
        """Whether so much more may be in files."""
        return sum(spool.disk_taken for spool in self.spools) + size <= self.disk_bytes


class Spool:
    """Byte strings, first in, first out, with a place in `room`; `share` is how much of that it may take for itself."""

    def __init__(
        self,
        room: Room,
        directory: Path | None,
        *,
        share: float = 1.0,
        open_file: Callable[[Path | None], File] = open_unlinked,
    ) -> None:
        room.spools.append(self)
        self._room = room
        self._most_memory = int(room.memory_bytes * share)
        self._most_disk = int(room.disk_bytes * share)
        self._directory = directory
        self._open_file = open_file
        # Where items are, the first to the last. One that is appended goes behind all that wait.
        self._first: deque[bytes] = deque()
        self._segments: deque[_Segment] = deque()
        self._last: list[bytes] = []  # to be written together
        self.memory_taken = 0
        self._last_weight = 0  # in a file
        self._items = 0
        self.held_bytes = 0
        """Bytes of the items that wait, wherever."""

    def __len__(self) -> int:
        return self._items

    @property
    def disk_bytes(self) -> int:
        """Bytes that the files take."""
        return sum(segment.size for segment in self._segments)

    @property
    def disk_taken(self) -> int:
        """The same, with what is on its way there."""
        return self.disk_bytes + self._last_weight

    def append(self, item: bytes) -> None:
        """Take one more. Raises SpoolFull, with nothing changed."""
        weight = len(item) + ITEM_BYTES
        if not self._segments and not self._last and self._fits_into_memory(weight):
            self._first.append(item)
            self.memory_taken += weight
        else:
            self._append_to_disk(item)
        self._items += 1
        self.held_bytes += len(item)

    def _fits_into_memory(self, weight: int) -> bool:
        return self.memory_taken + weight <= self._most_memory and self._room.has_memory(weight)

    def _append_to_disk(self, item: bytes) -> None:
        weight = LENGTH.size + len(item)
        if self.disk_taken + weight > self._most_disk or not self._room.has_disk(weight):
            raise SpoolFull(f"{self._items} items of {self.held_bytes} bytes wait")
        # Before the item is taken, so that who is refused is who comes, not who was accepted.
        if self._last_weight >= WRITE_BYTES:
            try:
                self._write()
            except OSError as error:
                raise SpoolFull(f"the disk takes no more: {error}") from error
        self._last.append(item)
        self._last_weight += weight

    def _write(self) -> None:
        """Move the items of `_last` into a file."""
        segment = self._segments[-1] if self._segments else None
        if segment is None or segment.size >= self._most_disk // SEGMENTS:
            segment = _Segment(self._open_file(self._directory))
            try:
                segment.write(self._last)
            except OSError:
                segment.close()
                raise
            self._segments.append(segment)
        else:
            segment.write(self._last)
        self._last, self._last_weight = [], 0

    def take(self, max_items: int, max_bytes: int) -> list[bytes]:
        """Give up the next items: at least one if there is any, and no more than either limit.

        Raises SpoolUnreadable if the next one cannot be read.
        """
        found: list[bytes] = []
        size = 0
        while len(found) < max_items and self._items:
            try:
                self._fetch()
            except OSError as error:
                if found:
                    break
                raise SpoolUnreadable(f"{self._items} items of {self.held_bytes} bytes wait: {error}") from error
            item = self._first[0]
            size += len(item)
            if found and size > max_bytes:
                break
            found.append(self._first.popleft())
            self.memory_taken -= len(item) + ITEM_BYTES
            self._items -= 1
            self.held_bytes -= len(item)
        return found

    def _fetch(self) -> None:
        """See to it that `_first` has the next item. There must be one."""
        if self._first:
            return
        if self._segments:
            segment = self._segments[0]
            self._first.extend(segment.read())
            if segment.is_read:
                self._segments.popleft().close()
        else:
            self._first.extend(self._last)
            self._last, self._last_weight = [], 0
        self.memory_taken = sum(map(len, self._first)) + ITEM_BYTES * len(self._first)

    def close(self) -> None:
        """Drop what waits and give the files back. The spool is as new."""
        while self._segments:
            self._segments.popleft().close()
        self._first.clear()
        self._last, self._last_weight = [], 0
        self.memory_taken = self._items = self.held_bytes = 0


class _Segment:
    """One file of whole items. `size` is where the next is written; what a failed write left behind it is nothing."""

    def __init__(self, file: File) -> None:
        self.size = 0
        self._at = 0  # of the next item to be read
        self._file = file

    @property
    def is_read(self) -> bool:
        return self._at == self.size

    def write(self, items: Sequence[bytes]) -> None:
        """Append items: all, or none and OSError."""
        data = b"".join(part for item in items for part in (LENGTH.pack(len(item)), item))
        self._file.seek(self.size)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) or 0 :]
        self.size += len(data)

    def read(self) -> list[bytes]:
        """Return the next items, at least one. There must be one. Raises OSError, with nothing changed."""
        data = self._read(min(READ_BYTES, self.size - self._at))
        (length,) = LENGTH.unpack_from(data)
        if LENGTH.size + length > len(data):
            data = self._read(LENGTH.size + length)
        found, at = [], 0
        while at + LENGTH.size <= len(data):
            (length,) = LENGTH.unpack_from(data, at)
            end = at + LENGTH.size + length
            if end > len(data):
                break
            found.append(data[at + LENGTH.size : end])
            at = end
        self._at += at
        return found

    def _read(self, size: int) -> bytes:
        """Return exactly `size` bytes from where the next item stands."""
        self._file.seek(self._at)
        parts = []
        while size:
            part = self._file.read(size)
            if not part:
                raise OSError("a temporary file is shorter than what was written")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a file that nobody will read again
            self._file.close()
