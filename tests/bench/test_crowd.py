"""Subscribers who come and go while others are looked at."""

import pytest

from opencode_events.bench.crowd import Crowd
from opencode_events.bench.errors import BenchError
from opencode_events.bench.history import fill
from opencode_events.bench.measure import Lab
from opencode_events.bench.sequence import Faults, Position, judge
from opencode_events.bench.target import Target, stream_after
from tests.bench.conftest import Start
from tests.clients import until

RUN = "ab12cd34"


@pytest.mark.parametrize("processes", [1, 2])
def test_those_who_have_come_to_their_number_leave(lab: Lab, processes: int) -> None:
    cursor = fill(lab, RUN, 60)
    with Crowd(lab.target, RUN, processes=processes, niceness=1) as crowd:
        for left in (10, 20):
            crowd.begin(stream_after(cursor), 10, at_once=10, leaves_at=60)
            until(crowd.is_open)
            while crowd.left() < left:
                assert crowd.wait_received(left * 60)

        findings = crowd.findings()
        assert crowd.received() == 2 * 10 * 60
        assert crowd.ended() == findings.ended == 0
        assert findings.positions == {Position(due=60): 20}
        assert crowd.cpu_s() > 0


def test_those_who_wait_for_more_stay(lab: Lab) -> None:
    cursor = fill(lab, RUN, 5)
    with Crowd(lab.target, RUN) as crowd:
        crowd.begin(stream_after(cursor), 3, leaves_at=6)
        until(crowd.is_open)

        assert crowd.wait_received(3 * 5)
        assert crowd.left() == 0


def test_who_was_disconnected_counts_and_others_may_come(lab: Lab) -> None:
    cursor = fill(lab, RUN, 5)
    with Crowd(lab.target, RUN) as crowd:
        crowd.open(stream_after(cursor), 3)
        assert crowd.wait_received(3 * 5)
        crowd.open(stream_after(cursor), 1, reads=False)
        crowd.leave()
        crowd.open(stream_after(cursor), 2)
        assert crowd.wait_received(5 * 5)

        assert judge(crowd.findings().positions, 5) == Faults()
        assert sum(crowd.findings().positions.values()) == 5


def test_a_refusal_is_told_when_it_is_asked_for(start: Start) -> None:
    with Crowd(Target.parse(start("refuse")), RUN) as crowd:
        crowd.begin("/global/event", 2)

        with pytest.raises(BenchError, match="too many subscribers"):
            until(crowd.is_open)


def test_files_of_those_who_are_gone_are_free(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (80, 80))
    with Crowd(lab.target, RUN) as crowd:
        crowd.open("/global/event", 10)
        with pytest.raises(BenchError, match="84 open files are needed, 80 allowed"):
            crowd.begin("/global/event", 10)

        crowd.leave()
        crowd.open("/global/event", 10)
