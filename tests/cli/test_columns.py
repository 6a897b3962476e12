"""Cells, orders, and tables that fit."""

from typing import Any

import pytest
from rich.cells import cell_len

from opencode_events.cli import columns
from opencode_events.cli.columns import LIVE, ORDERS

ROWS: list[dict[str, Any]] = [
    {"id": 1, "state": "live", "lag_events": 5, "queued_events": 0, "open_s": 3.0, "events_per_s": 1.0},
    {"id": 2, "state": "closing", "lag_events": 9, "queued_events": 7, "open_s": 1.0, "events_per_s": 0.0},
    {"id": 3, "state": "catching_up", "lag_events": 7, "queued_events": 7, "queued_bytes": 1, "open_s": 2.0},
    {"id": 4},
]


@pytest.mark.parametrize(
    ("order", "ids"),
    [("lag", [2, 3, 1, 4]), ("queued", [3, 2, 1, 4]), ("age", [1, 3, 2, 4]), ("state", [4, 2, 3, 1]),
     ("per s", [1, 2, 3, 4]), ("id", [1, 2, 3, 4])],
)  # fmt: skip
def test_rows_are_sorted_by_what_wants_to_be_looked_at_first(order: str, ids: list[int]) -> None:
    found = sorted(ROWS, key=ORDERS[order].first, reverse=ORDERS[order].is_reversed)

    assert [row["id"] for row in found] == ids


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20, 1])
def test_columns_go_until_the_rest_fits(width: int) -> None:
    widths = [7, 21, 20, 40, 12, 20, 10, 8, 11, 20]
    found = columns.fitting(LIVE, widths, width)

    assert [column.name for column, _ in found][:1] == ["id"]
    assert {"id", "state", "lag"} <= {column.name for column, _ in found}
    if len(found) > 3:
        assert sum(space for _, space in found) + 2 * (len(found) - 1) <= width


def test_with_room_for_all_nothing_is_cut() -> None:
    widths = [len(column.name) for column in LIVE]

    assert columns.fitting(LIVE, widths, 200) == list(zip(LIVE, widths, strict=True))


@pytest.mark.parametrize(
    "directory",
    ["/srv/plain", "/srv/項目/データ", "/srv/e\u0301", "/srv/👩\u200d👧", "/home/ü", "/srv/\u202eRTL"],
    ids=["plain", "wide", "combining", "joined", "accented", "turned round"],
)
@pytest.mark.parametrize("space", [8, 9, 20])
def test_columns_stand_below_each_other_whatever_is_in_them(directory: str, space: int) -> None:
    rows = [{"id": 1, "selection": {"directory": each}} for each in ("/srv/some/where", directory)]
    shown = [[columns.ID.show(row), columns.STREAM.show(row), columns.ID.show(row)] for row in rows]
    lines = [columns.joined([columns.ID, columns.STREAM, columns.ID], texts, [2, space, 2]) for texts in shown]

    assert [cell_len(line) for line in lines] == [2 + 2 + space + 2 + 2] * 2


@pytest.mark.parametrize(
    ("width", "text"), [(7, "/データ"), (6, "/デー…"), (5, "/デ…"), (4, "/デ…"), (2, "/…"), (1, "…")]
)
def test_what_is_cut_is_no_wider_than_it_may_be(width: int, text: str) -> None:
    assert columns.cut("/データ", width) == text
    assert cell_len(text) <= width


@pytest.mark.parametrize(
    ("per_s", "text"), [(0, "0"), (0.04, "0.0"), (1.25, "1.2"), (9.96, "10"), (12_345.6, "12 346"), (None, "-")]
)
def test_few_a_second_have_a_digit_more(per_s: float | None, text: str) -> None:
    assert columns.rate(per_s) == text


@pytest.mark.parametrize(
    ("report", "text"),
    [
        ({}, "0"),
        ({"queued_events": 0, "queued_bytes": 0, "queued_s": 0.0, "transport_bytes": 0}, "0"),
        ({"queued_events": 0, "transport_bytes": 2_000}, "0, 2 kB"),
        ({"queued_events": 1_200, "queued_bytes": 3_000_000, "queued_s": 83.2}, "1 200, 3 MB, 1 min"),
        ({"queued_events": 3, "queued_bytes": 300, "queued_s": None}, "3, 300 B"),
    ],
    ids=["unknown", "nothing", "in the transport", "for a minute", "nobody knows how long"],
)
def test_what_waits_is_told_with_how_long_it_has(report: dict[str, Any], text: str) -> None:
    assert columns.queued(report) == text


@pytest.mark.parametrize("report", [{}, {"id": "x", "selection": None, "evict_in_s": "soon", "open_s": "long"}])
def test_whatever_a_daemon_answers_there_is_a_line(report: dict[str, Any]) -> None:
    assert all(column.show(report) for column in LIVE)
