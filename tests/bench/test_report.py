import json

from opencode_events.bench.report import document, is_sound, tables
from opencode_events.bench.rows import Row, scaled
from opencode_events.bench.sequence import Faults

GOOD = Row(
    scenario="fanout-100",
    values={"subscribers": 100, "deliveries_per_cpu_s": 412_345.6, "p99_ms": 1.25, "cpu_s": 2.0},
    faults=Faults(),
)
BLIND = Row(
    scenario="fanout-1000",
    values={"subscribers": 1000, "deliveries_per_cpu_s": None, "p99_ms": 17.0},
    faults=Faults(),
)
BAD = Row(
    scenario="idle",
    values={"subscribers": 20, "kib_per_subscriber": 2.5},
    faults=Faults(lost=3, ended=2),
    reasons=("the daemon ended the stream", "the daemon ended the stream"),
)


def test_rows_with_the_same_figures_share_a_table() -> None:
    assert tables([GOOD, BLIND]).splitlines() == [
        "scenario     subscribers  deliv/CPU-s  p99 ms  faults",
        "fanout-100           100      412 346     1.2       0",
        "fanout-1000        1 000            -    17.0       0",
    ]


def test_other_figures_make_another_table_and_faults_are_told_below() -> None:
    assert tables([BLIND, BAD]).splitlines()[2:] == [
        "",
        "scenario  subscribers  KiB/subscriber  faults",
        "idle               20            2.50       5",
        "",
        "idle: 3 lost, 2 ended; the daemon ended the stream",
    ]


def test_the_document_holds_what_the_tables_leave_out() -> None:
    told = json.loads(document([GOOD, BAD], url="http://x", pid=7, options={"seconds": 5.0}))

    assert told["ok"] is False
    assert told["pid"] == 7
    assert told["options"] == {"seconds": 5.0}
    assert told["rows"][0]["cpu_s"] == 2.0
    assert told["rows"][1]["faults"] == {"lost": 3, "duplicated": 0, "disordered": 0, "ended": 2}


def test_one_fault_is_enough_to_be_unsound() -> None:
    assert is_sound([GOOD, BLIND])
    assert not is_sound([GOOD, BAD])


def test_what_is_not_known_is_not_counted_with() -> None:
    assert scaled(None, 1e6) is None
    assert scaled(1.0, 1e6, 0) is None
    assert scaled(0.5, 1e3, 2) == 250.0
