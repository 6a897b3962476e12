"""Who may become a subscriber: the edge of each limit, and whom an address counts for."""

import dataclasses

import pytest

from opencode_events.broker.admission import Admission, address_of
from opencode_events.errors import Busy, TooMany
from opencode_events.settings import BrokerSettings

SETTINGS = BrokerSettings(max_subscribers=3, max_subscribers_per_peer=2, max_replays=1)


class Behind:
    count = 0

    def __call__(self) -> int:
        return self.count


@pytest.fixture
def behind() -> Behind:
    return Behind()


@pytest.fixture
def admission(behind: Behind) -> Admission:
    return Admission(SETTINGS, behind)


def test_an_address_has_its_share_and_no_more(admission: Admission) -> None:
    admission.enter("192.0.2.1:1", is_behind=False)
    admission.enter("192.0.2.1:2", is_behind=False)

    with pytest.raises(TooMany, match=r"max_subscribers_per_peer \(2\) come from 192\.0\.2\.1") as refusal:
        admission.enter("192.0.2.1:3", is_behind=False)

    assert (refusal.value.status, refusal.value.retry_after_s, refusal.value.limit) == (429, 5, 2)
    admission.enter("192.0.2.2:1", is_behind=False)
    admission.leave("192.0.2.1:2")
    admission.enter("192.0.2.1:4", is_behind=False)


def test_all_together_have_theirs(admission: Admission) -> None:
    for number in range(3):
        admission.enter(f"192.0.2.{number}:1", is_behind=False)

    with pytest.raises(Busy, match=r"max_subscribers \(3\)"):
        admission.enter("192.0.2.9:1", is_behind=False)

    admission.leave("192.0.2.0:1")
    admission.enter("192.0.2.9:1", is_behind=False)


def test_who_resumes_waits_for_those_who_read_from_the_log(admission: Admission, behind: Behind) -> None:
    admission.enter("192.0.2.1:1", is_behind=True)
    behind.count = 1

    with pytest.raises(Busy, match=r"max_replays \(1\)") as refusal:
        admission.enter("192.0.2.2:1", is_behind=True)

    assert (refusal.value.retry_after_s, refusal.value.limit) == (1, 1)
    admission.enter("192.0.2.2:1", is_behind=False)
    behind.count = 0
    admission.enter("192.0.2.2:2", is_behind=True)


def test_who_is_refused_counts_for_nothing(admission: Admission) -> None:
    for _ in range(9):
        with pytest.raises(Busy):
            Admission(dataclasses.replace(SETTINGS, max_replays=1), lambda: 1).enter("a:1", is_behind=True)
    admission.enter("a:1", is_behind=False)
    admission.enter("a:2", is_behind=False)
    for _ in range(9):
        with pytest.raises(TooMany):
            admission.enter("a:3", is_behind=False)

    admission.enter("b:1", is_behind=False)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1:80", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:81", "2001:db8:1:2::/64"),
        ("[fe80::1%eth0]:81", "fe80::/64"),
        ("[::1]:81", "::1"),
        ("unknown", "unknown"),
    ],
)
def test_whom_an_address_counts_for(peer: str, address: str) -> None:
    assert address_of(peer) == address
