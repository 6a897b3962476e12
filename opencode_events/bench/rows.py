"""What a scenario hands to the report: figures by name. Pure."""

from dataclasses import dataclass

from opencode_events.bench.sequence import Faults

Value = float | int | None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the report. A figure's name has its unit in it; its value is None where it cannot be known.

    `reasons` are the daemon's, or the connections', for streams that ended.
    """

    scenario: str
    values: dict[str, Value]
    faults: Faults
    reasons: tuple[str, ...] = ()


def scaled(value: float | None, factor: float, divisor: float = 1) -> float | None:
    """Return `value` in another unit; None if it is not known or there is nothing to divide it by."""
    return None if value is None or not divisor else value * factor / divisor
