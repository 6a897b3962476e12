"""A file that holds a secret: read whole, and refused if others than its owner may look into it."""

import os
import stat
from pathlib import Path

from opencode_events.errors import SettingError


def read(path: Path, setting: str, *, at_most: int, what: str) -> str:
    """Return the text of a file. `what` is what it should hold, `setting` the setting that named it.

    A pipe will do (`<(pass show opencode)`): it has no owner to speak of. So will a credential of systemd, whose
    access list, which lets the service's user read it, shows as the rights of a group. Raises SettingError, naming the
    file, when it cannot be read, is open to others, has more than `at_most` bytes, or is no text.
    """
    try:
        with open(path, "rb", opener=_open_now) as file:  # it has an opener, a Path none
            mode = os.fstat(file.fileno()).st_mode  # of what was opened, whatever the name means by now
            text = file.read(at_most + 1)
    except OSError as error:
        raise SettingError(setting, f"{path} cannot be read: {error.strerror}") from error
    others = stat.S_IRWXO if _is_credential(path) else stat.S_IRWXG | stat.S_IRWXO
    if stat.S_ISREG(mode) and mode & others:
        raise SettingError(setting, f"{path} is open to others than its owner: chmod 600 {path}")
    if len(text) > at_most:
        raise SettingError(setting, f"{path} has more than {at_most} bytes: {what}")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise SettingError(setting, f"{path} is not UTF-8") from error


def is_pipe(path: Path) -> bool:
    """Ask whether a path leads to what can be read once."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _open_now(path: str, flags: int) -> int:
    """Open a file without waiting: a pipe that nobody writes into would hold whoever reads again at a reload."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor


def _is_credential(path: Path) -> bool:
    """Ask whether systemd has handed a file over (LoadCredential=), in a directory for this service alone."""
    directory = Path(os.environ.get("CREDENTIALS_DIRECTORY", ""))
    return directory.is_absolute() and path.resolve().parent == directory.resolve()
