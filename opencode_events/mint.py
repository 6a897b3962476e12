"""Ids for events that have none, of opencode's form, so that they sort among its own. Pure, but for the time."""

import random
import string
import time

_DIGITS = string.ascii_letters + string.digits
_MINT = [first + second for first in _DIGITS for second in _DIGITS]  # two digits at a time


def mint_id(now_s: float | None = None) -> str:
    """Return a new event id of opencode's form: `evt_`, 12 hex digits that grow with time, 14 random characters."""
    stamp = int((time.time() if now_s is None else now_s) * 0x1000 * 1000) & 0xFFFF_FFFF_FFFF
    noise = random.getrandbits(84)  # must not repeat; may be guessed
    tail = []
    for _ in range(7):
        noise, digits = divmod(noise, 62 * 62)
        tail.append(_MINT[digits])
    return f"evt_{stamp:012x}{''.join(tail)}"
