"""What a measurement says: tables for people, one JSON document for programs. Pure."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from opencode_events.bench.rows import Row, Value


@dataclass(frozen=True)
class Column:
    """One column: its heading and how its values are written."""

    heading: str
    digits: int = 0


# In the order of the tables; a figure that is not here is in the JSON document only.
COLUMNS = {
    "publishers": Column("publishers"),
    "subscribers": Column("subscribers"),
    "returning": Column("returning"),
    "behind": Column("behind"),
    "rounds": Column("rounds"),
    "stalled": Column("stalled"),
    "arrays": Column("arrays"),
    "tries": Column("tries"),
    "events_per_s": Column("events/s"),
    "events_per_cpu_s": Column("events/CPU-s"),
    "cpu_us_per_event": Column("CPU us/event", 1),
    "deliveries_per_s": Column("deliv/s"),
    "deliveries_per_cpu_s": Column("deliv/CPU-s"),
    "cpu_us_per_request": Column("CPU us/request"),
    "cpu_ms_per_event": Column("CPU ms/event", 3),
    "p50_ms": Column("p50 ms", 1),
    "p99_ms": Column("p99 ms", 1),
    "ack_p50_ms": Column("ack p50 ms", 2),
    "ack_p99_ms": Column("ack p99 ms", 2),
    "first_p50_ms": Column("first p50 ms", 2),
    "first_p99_ms": Column("first p99 ms", 2),
    "alone_p50_ms": Column("alone p50 ms", 1),
    "alone_p99_ms": Column("alone p99 ms", 1),
    "beside_p50_ms": Column("beside p50 ms", 1),
    "beside_p99_ms": Column("beside p99 ms", 1),
    "p99_ratio": Column("p99 ratio", 2),
    "alone_per_s": Column("alone/s"),
    "beside_per_s": Column("beside/s"),
    "wall_ratio": Column("ratio", 2),
    "alone_per_cpu_s": Column("alone/CPU-s"),
    "beside_per_cpu_s": Column("beside/CPU-s"),
    "cpu_ratio": Column("CPU ratio", 2),
    "publish_us_per_array": Column("publish us/array"),
    "cpu_us_per_delivery": Column("CPU us/delivery", 3),
    "net_us_per_delivery": Column("less publish", 3),
    "added_us_per_delivery": Column("each added", 3),
    "tool_cores": Column("tool cores", 2),
    "held_s": Column("held s", 1),
    "rss_growth_mib": Column("RSS growth MiB", 1),
    "rss_mib": Column("RSS MiB", 1),
    "kib_per_subscriber": Column("KiB/subscriber", 2),
}
FAULTS = "faults"


def is_sound(rows: Iterable[Row]) -> bool:
    """Tell whether nothing was lost, duplicated, disordered or ended in any row."""
    return not any(row.faults for row in rows)


def tables(rows: Sequence[Row]) -> str:
    """Return the rows as text, neighbours with the same figures in one table, and the faults below them."""
    parts = []
    for keys, group in groupby(rows, key=lambda row: tuple(key for key in COLUMNS if key in row.values)):
        cells = [["scenario", *(COLUMNS[key].heading for key in keys), FAULTS]]
        for row in group:
            figures = [written(row.values[key], COLUMNS[key].digits) for key in keys]
            cells.append([row.scenario, *figures, str(sum(row.faults))])
        parts.append(aligned(cells))
    troubles = [trouble(row) for row in rows if row.faults]
    return "\n\n".join([*parts, *(["\n".join(troubles)] if troubles else [])])


def trouble(row: Row) -> str:
    """Return one line that tells what went wrong in a row."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in row.faults._asdict().items() if count)
    return f"{row.scenario}: {kinds}" + "".join(f"; {reason}" for reason in dict.fromkeys(row.reasons))


def written(value: Value, digits: int) -> str:
    """Return a figure for people: thousands set apart, `-` for what is not known."""
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return lines of columns: the first to the left, the others to the right."""
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(first), *(cell.rjust(width) for cell, width in zip(line[1:], others, strict=True))])
        for line in cells
    )


def document(rows: Sequence[Row], *, url: str, pid: int | None, options: dict[str, object]) -> str:
    """Return everything as one JSON text."""
    scenarios = [
        {"scenario": row.scenario, **row.values, FAULTS: row.faults._asdict(), "reasons": list(row.reasons)}
        for row in rows
    ]
    return json.dumps({"url": url, "pid": pid, "options": options, "ok": is_sound(rows), "rows": scenarios}, indent=2)
