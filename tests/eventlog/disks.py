"""Places where there is no more room, or no right to write."""

import contextlib
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def no_room(size: int) -> Iterator[None]:
    """Have no file of this process grow beyond `size` bytes within the block: writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """A directory on a disk of 8 MiB that can be filled up to the last byte, and freed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """Leave `but` bytes."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        with self._ballast.open("r+b") as file:
            file.truncate(max(self._ballast.stat().st_size - but, 0))

    def free(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    """Mount an 8 MiB tmpfs at `directory`, which root may, or who is root in a namespace: `unshare -Urm`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", directory], check=True)
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@contextlib.contextmanager
def own_directory() -> Iterator[Path]:
    """Make a directory that is left to whoever `unprivileged` is."""
    directory = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    yield directory
    directory.chmod(0o700)
    shutil.rmtree(directory)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Be somebody, within the block, whom a directory's mode can keep out: root may do everything."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def may_write(path: Path, yes: bool) -> None:
    """Give a file or a directory's owner the right to write it, or take it away."""
    path.chmod(path.stat().st_mode & ~0o222 | (0o200 if yes else 0))
