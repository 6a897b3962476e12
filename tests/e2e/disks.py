"""Small disks for tests: a tmpfs of some MiB, which only root can mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(path: Path, *, mib: int = 8, options: str = "") -> Iterator[Path]:
    """Mount an empty tmpfs at `path`, over whatever is there. `options` are those of mount(8), such as `ro`."""
    path.mkdir(parents=True, exist_ok=True)
    told = f"size={mib}m,mode=700{',' if options else ''}{options}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", told, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> None:
    """Write a file until the disk that it is on is full."""
    with path.open("wb", buffering=0) as ballast:
        for size in (65_536, 4_096, 1):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError:
                pass
