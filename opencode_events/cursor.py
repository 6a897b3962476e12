"""A place in the one total order, as clients see it: `<epoch>-<position>`.

Each start of the daemon mints a random epoch, so that after a power cut or a restored backup no cursor ever means
another event than it did. Pure; the table of epochs is the log's.
"""

import re
import secrets
from typing import NamedTuple

MAX_CHARS = 32
_FORM = re.compile(r"([0-9a-f]{10})-(0|[1-9][0-9]{0,18})", re.ASCII)


class Cursor(NamedTuple):
    """After the event at `position`, as counted in `epoch`. Position 0 is before the first event."""

    epoch: str
    position: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"


def mint_epoch() -> str:
    """Return a new random epoch: 10 hex digits."""
    return secrets.token_hex(5)


def parse(text: str) -> Cursor | None:
    """Return the cursor that `text` is, or None when it is none of ours."""
    found = _FORM.fullmatch(text) if len(text) <= MAX_CHARS else None
    return Cursor(found[1], int(found[2])) if found else None
