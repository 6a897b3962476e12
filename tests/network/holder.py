"""Holds a network namespace for as long as whoever started it lives, and makes sockets in it: run by `spaces`.

A request comes over standard input, a socket; the answer is one descriptor. When the other side is gone, however it
ended, everything that still runs in the namespace is killed, and the kernel takes the namespace and its links away.
"""

import os
import signal
import socket
from pathlib import Path


def main() -> None:
    os.setpgid(0, 0)  # what a terminal's Ctrl-C is for is whoever started this
    door = socket.socket(fileno=os.dup(0))
    door.send(b"ready")
    while door.recv(16):
        with socket.socket() as made:
            socket.send_fds(door, [b"."], [made.fileno()])
    kill_others()


def kill_others() -> None:
    """Kill whatever else is in this process's namespace."""
    own = Path("/proc/self/ns/net").readlink()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(entry.name) != os.getpid() and (entry / "ns/net").readlink() == own:
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            pass


if __name__ == "__main__":
    main()
