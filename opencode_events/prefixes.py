"""The directories that somebody may know of: all that lie in one of a few. Pure.

Compared are whole segments of what a path says, never its text: `/srv/a` holds `/srv/a` and `/srv/a/b`, and not
`/srv/ab`. Nothing looks at a disk: whose disk it would be is not known here.
"""

from dataclasses import dataclass

Segments = tuple[str, ...]


def segments(path: str) -> Segments | None:
    """Return the segments of an absolute path; None for one that may lead elsewhere than it says, or is relative.

    `//` and `/./` add nothing, as to every system. `..` is not resolved but refused: behind a link it leads to another
    place than its text.
    """
    if not path.startswith("/") or "\0" in path:
        return None
    found = tuple(part for part in path.split("/") if part not in ("", "."))
    return None if ".." in found else found


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Directories, with all that is in them, as `segments`."""

    roots: frozenset[Segments]

    def has(self, directory: str | None) -> bool:
        """Tell whether `directory` is one of them, or in one. What has none is in none."""
        parts = None if directory is None else segments(directory)
        return parts is not None and any(parts[: len(root)] == root for root in self.roots)

    def names(self) -> list[str]:
        """Return them as they are written, in order."""
        return sorted("/" + "/".join(root) for root in self.roots)
