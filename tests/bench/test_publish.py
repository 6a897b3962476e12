from opencode_events.bench.publish import waiting
from tests.bench.conftest import Start, lab_before


def test_what_was_acknowledged_and_is_not_in_the_log_is_lost(start: Start) -> None:
    row = waiting(lab_before(start("forget")), "publish-1", 1)

    events = row.values["events"]
    assert events is not None
    assert row.faults.lost >= events > 0


def test_a_lone_publishers_events_keep_their_order(start: Start) -> None:
    row = waiting(lab_before(start("swap")), "publish-1", 1)

    assert row.faults == (0, 0, 1, 0)


def test_the_events_of_several_have_no_order_among_each_other(start: Start) -> None:
    row = waiting(lab_before(start("swap")), "publish-4", 4)

    assert not row.faults
    assert row.values["publishers"] == 4
