"""Files that are locked for as long as a process lives, and whose they are.

Root works in the directories of others: restores the log of a service that has an account of its own, for example. What
it makes there is given to whom the directory belongs, for the service could not open it otherwise. No link is followed:
whoever owns the directory could have it lead to a file of root's.
"""

import os
import stat
from pathlib import Path

FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


def open_lock(path: Path) -> int:
    """Return the descriptor of a file to be locked, which is made if need be, for its owner alone. Raises OSError."""
    try:
        lock = os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(path, FLAGS)
    try:
        give_to_owner(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def give_to_owner(path: Path) -> None:
    """Have a file of root's belong to whom its directory does; nothing if this is not root, or the directory is."""
    if os.geteuid() != 0:
        return
    owner = path.parent.stat()
    if is_to_be_given(owner, path.lstat()):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def is_to_be_given(directory: os.stat_result, found: os.stat_result) -> bool:
    """Tell whether what was found is a file of root's with no other name, in a directory that is another's."""
    is_only_here = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return directory.st_uid != 0 and found.st_uid == 0 and is_only_here
