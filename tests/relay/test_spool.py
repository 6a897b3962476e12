"""What waits comes out in its order, within both limits, whatever the disk does."""

import contextlib
import errno
import tracemalloc
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from opencode_events.relay.spool import (
    ITEM_BYTES,
    LENGTH,
    READ_BYTES,
    SEGMENTS,
    WRITE_BYTES,
    Room,
    Spool,
    SpoolFull,
    SpoolUnreadable,
)

KIB = 1024
MIB = 1024 * KIB
PLENTY = 1 << 40


class FakeFile:
    """A file on a FakeDisk: it takes and gives in small parts, as files may."""

    def __init__(self, disk: "FakeDisk") -> None:
        self._disk = disk
        self._at = 0
        self.content = bytearray()

    def seek(self, offset: int, /) -> int:
        self._at = offset
        return offset

    def read(self, size: int, /) -> bytes:
        if self._disk.refuses_reads:
            raise OSError(errno.EIO, "Input/output error")
        part = bytes(self.content[self._at : self._at + min(size, self._disk.part_bytes)])
        self._at += len(part)
        return part

    def write(self, data: bytes | memoryview, /) -> int:
        room = self._disk.bytes - self._disk.used + len(self.content) - self._at
        part = bytes(data[: min(room, self._disk.part_bytes)])
        if not part:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.content[self._at : self._at + len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        self._disk.files.remove(self)
        if self._disk.refuses_closing:
            raise OSError(errno.EIO, "Input/output error")


class FakeDisk:
    """A disk that may be full or broken."""

    def __init__(self, size: int = PLENTY, part_bytes: int = PLENTY) -> None:
        self.bytes = size
        self.part_bytes = part_bytes
        self.files: list[FakeFile] = []
        self.refuses_reads = self.refuses_closing = self.refuses_opening = False

    @property
    def used(self) -> int:
        return sum(len(file.content) for file in self.files)

    def open(self, directory: Path | None) -> FakeFile:
        if self.refuses_opening:
            raise OSError(errno.EMFILE, "Too many open files")
        self.files.append(FakeFile(self))
        return self.files[-1]

    def spool(self, memory_bytes: int = 0, disk_bytes: int = PLENTY) -> Spool:
        return Spool(Room(memory_bytes, disk_bytes), None, open_file=self.open)


def item(number: int, size: int = KIB) -> bytes:
    return number.to_bytes(8, "big") * (size // 8)


def fill(spool: Spool) -> int:
    """Append numbered items until one is refused; return how many were taken."""
    number = 0
    try:
        while True:
            spool.append(item(number))
            number += 1
    except SpoolFull:
        return number


def drain(spool: Spool) -> list[bytes]:
    found = []
    while taken := spool.take(100, MIB):
        found += taken
    return found


def test_what_fits_into_memory_needs_no_file() -> None:
    spool = Spool(Room(KIB, PLENTY), Path("/nowhere"))
    for text in (b"a", b"", b"line\nbreaks\r\n\0"):
        spool.append(text)

    assert (len(spool), spool.held_bytes, spool.disk_bytes) == (3, 15, 0)
    assert spool.take(10, 1000) == [b"a", b"", b"line\nbreaks\r\n\0"]
    assert (len(spool), spool.held_bytes) == (0, 0)
    assert spool.take(10, 1000) == []


def test_memory_is_used_up_to_the_limit_and_not_one_byte_more() -> None:
    spool = Spool(Room(2 * ITEM_BYTES + 10, 0), None)
    spool.append(b"12345")

    with pytest.raises(SpoolFull, match="1 items of 5 bytes wait"):
        spool.append(b"678901")
    spool.append(b"67890")
    with pytest.raises(SpoolFull):
        spool.append(b"")
    assert drain(spool) == [b"12345", b"67890"]


def test_memory_that_has_been_given_back_is_used_again() -> None:
    spool = Spool(Room(ITEM_BYTES + 5, 0), None)
    for _ in range(3):
        spool.append(b"12345")
        assert spool.take(1, 1) == [b"12345"]


def test_the_files_are_filled_up_to_the_limit_and_not_one_byte_more() -> None:
    disk = FakeDisk()
    spool = disk.spool(disk_bytes=2 * LENGTH.size + WRITE_BYTES + 10)
    spool.append(b"x" * WRITE_BYTES)

    with pytest.raises(SpoolFull):
        spool.append(b"12345678901")
    spool.append(b"1234567890")
    with pytest.raises(SpoolFull):
        spool.append(b"")
    assert disk.used == spool.disk_bytes == LENGTH.size + WRITE_BYTES
    assert drain(spool) == [b"x" * WRITE_BYTES, b"1234567890"]


def test_without_room_on_disk_an_item_that_memory_cannot_hold_is_refused() -> None:
    spool = Spool(Room(100, 0), None)

    with pytest.raises(SpoolFull, match="0 items of 0 bytes wait"):
        spool.append(b"x" * 100)


def test_what_has_come_back_from_disk_counts_as_memory() -> None:
    spool = FakeDisk().spool(memory_bytes=10 * (KIB + ITEM_BYTES), disk_bytes=50 * (KIB + LENGTH.size))

    assert fill(spool) == 60
    assert len(spool.take(11, PLENTY)) == 11
    assert fill(spool) == 50


@pytest.mark.parametrize(
    ("max_items", "max_bytes", "sizes"),
    [
        (2, 1000, [100, 100]),
        (10, 200, [100, 100]),
        (10, 199, [100]),
        (10, 1, [100]),
        (10, 1000, [100, 100, 100]),
    ],
    ids=["items", "bytes", "one byte too few", "one is given whatever its size", "all"],
)
@pytest.mark.parametrize("memory_bytes", [0, 10_000], ids=["from a file", "from memory"])
def test_no_more_is_taken_than_was_asked_for(
    max_items: int, max_bytes: int, sizes: list[int], memory_bytes: int
) -> None:
    spool = FakeDisk().spool(memory_bytes)
    for _ in range(3):
        spool.append(b"x" * 100)

    assert [len(taken) for taken in spool.take(max_items, max_bytes)] == sizes
    assert len(drain(spool)) == 3 - len(sizes)


def test_order_is_kept_from_memory_to_disk_and_back() -> None:
    disk = FakeDisk()
    spool = disk.spool(memory_bytes=10 * KIB)
    for number in range(1000):
        spool.append(item(number))
    found = spool.take(500, PLENTY)
    for number in range(1000, 1100):
        spool.append(item(number))  # though memory has room: there are earlier ones on disk
    found += drain(spool)

    assert found == [item(number) for number in range(1100)]
    assert disk.files == []
    spool.append(b"x")
    assert (spool.take(1, 1), disk.files) == ([b"x"], [])


@pytest.mark.parametrize("size", [READ_BYTES - 8, READ_BYTES, READ_BYTES + 8, 5 * READ_BYTES])
@pytest.mark.parametrize("part_bytes", [1000, PLENTY])
def test_an_item_may_be_larger_than_what_is_read_at_a_time(size: int, part_bytes: int) -> None:
    disk = FakeDisk(part_bytes=part_bytes)
    spool = disk.spool()
    expected = [b"", item(1, size), b"x", item(2, size), item(3, size), item(4)]
    for text in expected:
        spool.append(text)

    assert drain(spool) == expected


def test_a_spool_that_never_empties_does_not_grow_its_files() -> None:
    disk = FakeDisk()
    spool = disk.spool(disk_bytes=16 * MIB)
    for number in range(1000):
        spool.append(item(number))
    for number in range(1000, 50_000):
        spool.append(item(number))
        assert spool.take(1, 1) == [item(number - 1000)]
        assert disk.used <= spool.held_bytes + 16 * MIB // SEGMENTS + 3 * WRITE_BYTES
    assert len(disk.files) <= 3


def test_a_full_disk_that_is_read_a_little_has_room_again() -> None:
    spool = FakeDisk().spool(disk_bytes=16 * MIB)
    count = fill(spool)

    taken = spool.take(MIB // KIB + 100, PLENTY)
    spool.append(item(count))
    assert taken + drain(spool) == [item(number) for number in range(count + 1)]


def test_there_are_never_many_files() -> None:
    disk = FakeDisk()
    fill(disk.spool(disk_bytes=16 * MIB))

    assert SEGMENTS - 2 <= len(disk.files) <= SEGMENTS + 1


@pytest.mark.parametrize("part_bytes", [100, PLENTY], ids=["after a part", "at once"])
def test_a_full_disk_refuses_what_comes_and_keeps_what_was_accepted(part_bytes: int) -> None:
    disk = FakeDisk(300 * KIB + 50, part_bytes)
    spool = disk.spool(memory_bytes=10 * KIB)
    count = fill(spool)

    assert (len(spool), spool.held_bytes) == (count, count * KIB)
    with pytest.raises(SpoolFull, match="No space left"):
        spool.append(b"")
    assert drain(spool) == [item(number) for number in range(count)]
    assert count > 300


def test_a_disk_that_has_room_again_is_written_on_where_it_was() -> None:
    disk = FakeDisk(300 * KIB + 50, 100)
    spool = disk.spool()
    count = fill(spool)

    disk.bytes = PLENTY
    for number in range(count, count + 500):
        spool.append(item(number))
    assert drain(spool) == [item(number) for number in range(count + 500)]


def test_a_full_disk_from_which_is_read_takes_more_once_a_file_is_given_back() -> None:
    disk = FakeDisk(2 * MIB + 50)
    spool = disk.spool(disk_bytes=16 * MIB)
    count = fill(spool)

    found = spool.take(1500, PLENTY)
    for number in range(count, count + 500):
        spool.append(item(number))
    assert found + drain(spool) == [item(number) for number in range(count + 500)]


def test_a_file_that_cannot_be_made_is_a_full_disk() -> None:
    disk = FakeDisk()
    disk.refuses_opening = True
    spool = disk.spool()
    count = fill(spool)

    with pytest.raises(SpoolFull, match="Too many open files"):
        spool.append(b"")
    assert drain(spool) == [item(number) for number in range(count)]


def test_a_file_that_cannot_be_written_at_all_is_closed() -> None:
    disk = FakeDisk(50, 10)
    fill(disk.spool())

    assert disk.files == []


def test_a_folder_that_is_not_there_is_a_full_disk(tmp_path: Path) -> None:
    spool = Spool(Room(0, PLENTY), tmp_path / "nowhere")

    count = fill(spool)

    assert drain(spool) == [item(number) for number in range(count)]


def test_what_cannot_be_read_is_not_lost() -> None:
    disk = FakeDisk()
    spool = disk.spool(memory_bytes=2 * KIB)
    for number in range(1000):
        spool.append(item(number))

    disk.refuses_reads = True
    found = spool.take(1000, PLENTY)  # as far as memory goes
    with pytest.raises(SpoolUnreadable, match=r"999 items of 1022976 bytes wait: .*Input/output error"):
        spool.take(1000, PLENTY)
    disk.refuses_reads = False
    assert found + drain(spool) == [item(number) for number in range(1000)]


def test_a_file_that_has_become_shorter_is_unreadable() -> None:
    disk = FakeDisk()
    spool = disk.spool()
    for number in range(100):
        spool.append(item(number))
    del disk.files[0].content[2000:]

    with pytest.raises(SpoolUnreadable, match="shorter than what was written"):
        spool.take(1, 1)


def test_a_file_that_does_not_close_well_was_read_all_the_same() -> None:
    disk = FakeDisk()
    disk.refuses_closing = True
    spool = disk.spool()
    for number in range(1000):
        spool.append(item(number))

    assert drain(spool) == [item(number) for number in range(1000)]


def test_closing_gives_the_files_back_and_may_be_done_again() -> None:
    disk = FakeDisk()
    spool = disk.spool(memory_bytes=10 * KIB)
    for number in range(1000):
        spool.append(item(number))
    spool.close()
    spool.close()

    assert disk.files == []
    assert (len(spool), spool.held_bytes, spool.disk_bytes, spool.take(1, 1)) == (0, 0, 0, [])


def test_a_real_file_has_no_name_and_goes_with_the_spool(tmp_path: Path) -> None:
    spool = Spool(Room(10 * KIB, PLENTY), tmp_path)
    for number in range(1000):
        spool.append(item(number))

    assert spool.disk_bytes > 0
    assert list(tmp_path.iterdir()) == []
    assert open_files(tmp_path) == 1
    assert drain(spool) == [item(number) for number in range(1000)]
    assert open_files(tmp_path) == 0


def open_files(folder: Path) -> int:
    """Return how many files without a name this process has open in a folder."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own is gone already
            target = str(link.readlink())
            found += target.startswith(str(folder)) and target.endswith("(deleted)")
    return found


def test_what_waits_on_disk_takes_no_memory(tmp_path: Path) -> None:
    spool = Spool(Room(MIB, PLENTY), tmp_path)
    tracemalloc.start()
    try:
        for number in range(20_000):
            spool.append(item(number))
        for number in range(20_000):
            assert spool.take(1, 1) == [item(number)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < MIB + WRITE_BYTES + 2 * READ_BYTES + 256 * KIB  # 20 MiB came


# --- two in one room


def two(room: Room, disk: FakeDisk | None = None, *, share: float = 1.0) -> tuple[Spool, Spool]:
    open_file = (disk or FakeDisk()).open
    return Spool(room, None, open_file=open_file), Spool(room, None, share=share, open_file=open_file)


def test_what_one_takes_of_the_memory_the_other_may_not() -> None:
    weight = 10 + ITEM_BYTES
    first, second = two(Room(3 * weight, 0))
    first.append(bytes(10))
    first.append(bytes(10))
    second.append(bytes(10))

    for spool in (first, second):
        with pytest.raises(SpoolFull):
            spool.append(b"")
    first.take(1, 10)
    second.append(bytes(10))

    assert (first.memory_taken, second.memory_taken) == (weight, 2 * weight)


def test_what_one_takes_of_the_disk_the_other_may_not() -> None:
    room = Room(0, MIB)
    first, second = two(room)

    count = fill(second)
    with pytest.raises(SpoolFull):
        first.append(item(0))

    assert count == MIB // (KIB + LENGTH.size)
    assert room.held_bytes == count * KIB
    second.close()
    assert fill(first) == count


def test_who_has_a_share_takes_no_more_of_it_though_there_is_room() -> None:
    room = Room(10 * KIB, MIB)
    first, second = two(room, share=0.5)

    fill(second)

    assert 5 * KIB - KIB - ITEM_BYTES < second.memory_taken <= 5 * KIB
    assert MIB // 2 - KIB - LENGTH.size < second.disk_taken <= MIB // 2
    fill(first)
    assert first.disk_taken + second.disk_taken <= MIB
    assert first.memory_taken + second.memory_taken <= 10 * KIB
    assert first.memory_taken > 4 * KIB


def test_a_share_does_not_keep_room_free_that_another_has_taken() -> None:
    first, second = two(Room(0, MIB), share=0.5)
    fill(first)

    with pytest.raises(SpoolFull):
        second.append(item(0))


# --- anything


class AgainstADeque(RuleBasedStateMachine):
    """A spool on a disk that fails at times, and a deque that holds what was accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = FakeDisk(part_bytes=20_000)
        self.spool = Spool(Room(10 * KIB, 4 * MIB), None, open_file=self.disk.open)
        self.model: deque[bytes] = deque()
        self.number = 0

    @rule(size=st.sampled_from([0, 8, 400, 8 * KIB, WRITE_BYTES, READ_BYTES, MIB]), times=st.integers(1, 40))
    def append(self, size: int, times: int) -> None:
        for _ in range(times):
            self.number += 1
            try:
                self.spool.append(item(self.number, size))
            except SpoolFull:
                continue
            self.model.append(item(self.number, size))

    @rule(max_items=st.integers(1, 60), max_bytes=st.sampled_from([1, 10 * KIB, MIB, PLENTY]))
    def take(self, max_items: int, max_bytes: int) -> None:
        try:
            found = self.spool.take(max_items, max_bytes)
        except SpoolUnreadable:
            assert self.disk.refuses_reads
            return
        assert found == [self.model.popleft() for _ in found]
        assert bool(found) or not self.model
        assert len(found) <= max_items
        assert len(found) == 1 or sum(map(len, found)) <= max_bytes

    @rule(size=st.sampled_from([0, 100 * KIB, MIB, PLENTY]), is_bad=st.booleans())
    def change_the_disk(self, size: int, is_bad: bool) -> None:
        self.disk.bytes = size
        self.disk.refuses_reads = is_bad

    @precondition(lambda self: not self.disk.refuses_reads)
    @rule()
    def drain(self) -> None:
        assert drain(self.spool) == list(self.model)
        self.model.clear()
        assert self.disk.files == []

    @rule()
    def close(self) -> None:
        self.spool.close()
        self.model.clear()
        assert self.disk.files == []

    @invariant()
    def counts_are_exact_and_below_the_limits(self) -> None:
        assert len(self.spool) == len(self.model)
        assert self.spool.held_bytes == sum(map(len, self.model))
        assert self.spool.disk_bytes <= 4 * MIB


AgainstADeque.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestAgainstADeque = AgainstADeque.TestCase


@given(st.lists(st.binary(max_size=40) | st.none(), max_size=60), st.integers(0, 200), st.integers(0, 200))
def test_small_ones_are_held_to_both_limits(steps: list[bytes | None], memory_bytes: int, disk_bytes: int) -> None:
    """None takes one. What is on disk stays in the buffer here, so its limit is exact."""
    disk = FakeDisk()
    spool = disk.spool(memory_bytes, disk_bytes)
    model: deque[bytes] = deque()
    for step in steps:
        if step is None:
            assert spool.take(1, 1) == ([model.popleft()] if model else [])
            continue
        try:
            spool.append(step)
        except SpoolFull:
            assert len(step) + ITEM_BYTES > memory_bytes or model
            assert len(step) + LENGTH.size > disk_bytes or model
        else:
            model.append(step)
    assert drain(spool) == list(model)
