import pytest

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.errors import BenchError
from opencode_events.bench.history import fill, mark
from opencode_events.bench.measure import Lab
from opencode_events.bench.sequence import Faults, judge
from opencode_events.bench.target import Target, stream_after
from tests.bench.conftest import Start


@pytest.mark.parametrize("count", [1, 50, 123], ids=["one", "a batch", "batches and some"])
def test_so_many_events_stand_behind_the_cursor(lab: Lab, count: int) -> None:
    fill(lab, "before00", 7)
    cursor = fill(lab, "ab12cd34", count)

    with Crowd(lab.target, "ab12cd34") as crowd:
        crowd.open(stream_after(cursor), 2)

        assert crowd.wait_received(2 * count)
        assert judge(crowd.findings().positions, count) == Faults()


@pytest.mark.parametrize(
    ("fault", "words"),
    [("no-cursor", "does not tell the cursor"), ("reject", "answered 400: .*not today")],
)
def test_a_daemon_without_cursors_cannot_be_read_back(start: Start, fault: str, words: str) -> None:
    with pytest.raises(BenchError, match=words):
        mark(Target.parse(start(fault)))
