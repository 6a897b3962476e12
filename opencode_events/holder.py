"""Who listens on a TCP port of this machine, so that a port that is taken can be told with its holder.

Linux tells which socket listens; whose it is can be seen only of one's own processes, or by root.
"""

import contextlib
from pathlib import Path

LISTENS = "0A"  # TCP_LISTEN, as /proc/net/tcp writes it
PROC = Path("/proc")


def find(port: int, proc: Path = PROC) -> str:
    """Return who listens on `port`, as "pid 4242 (node)"; nothing if that cannot be found out.

    Only the program's name is told: its arguments may hold a secret.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    if not wanted:
        return ""
    for process in sorted((each for each in proc.iterdir() if each.name.isdigit()), key=lambda each: int(each.name)):
        with contextlib.suppress(OSError):  # another user's, or gone
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in wanted:
                        return f"pid {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def _inodes(port: int, proc: Path) -> set[str]:
    """Return the numbers of the sockets that listen on `port`, of whatever address."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found
