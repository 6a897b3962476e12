"""Is what a subscriber received complete, in order and without duplicates? Pure.

A `Position` is everything there is to know about one subscriber's past; it is immutable, so the thousand
subscribers that have read the same bytes share one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Position(NamedTuple):
    """Where a subscriber stands: the next number due, the numbers it was skipped over, and its faults so far."""

    due: int = 0
    missing: frozenset[int] = frozenset()
    duplicated: int = 0
    disordered: int = 0


class Faults(NamedTuple):
    """Events that went wrong, over all subscribers of a scenario; `ended` counts streams that the daemon ended."""

    lost: int = 0
    duplicated: int = 0
    disordered: int = 0
    ended: int = 0

    def __bool__(self) -> bool:
        return any(self)


def added(*parts: Faults) -> Faults:
    """Return the faults of several crowds together."""
    return Faults(*map(sum, zip(*parts, strict=True)))


def advance(position: Position, numbers: Sequence[int]) -> Position:
    """Return the position after receiving `numbers`.

    A number after a gap leaves the gap in `missing`. One that comes later than it should is disorder if it was
    missing, and a duplicate otherwise.
    """
    due, missing, duplicated, disordered = position
    if list(numbers) == list(range(due, due + len(numbers))):
        return Position(due + len(numbers), missing, duplicated, disordered)
    gaps = set(missing)
    for number in numbers:
        if number >= due:
            gaps.update(range(due, number))
            due = number + 1
        elif number in gaps:
            gaps.remove(number)
            disordered += 1
        else:
            duplicated += 1
    return Position(due, frozenset(gaps), duplicated, disordered)


def judge(positions: Mapping[Position, int], published: int, ended: int = 0) -> Faults:
    """Return the faults of subscribers that should have seen 0 to `published` - 1; `positions` counts subscribers."""
    return Faults(
        lost=sum((max(0, published - p.due) + len(p.missing)) * count for p, count in positions.items()),
        duplicated=sum(p.duplicated * count for p, count in positions.items()),
        disordered=sum(p.disordered * count for p, count in positions.items()),
        ended=ended,
    )
