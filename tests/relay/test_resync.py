"""Who has to look anew is told of what it may show, and for a while after the gap."""

from opencode_events.broker.announcement import Announcement
from opencode_events.events import DISPOSED
from opencode_events.relay.resync import INSTANCES, LATE_S, Resync

CONNECTED = Announcement("server.connected")


def disposed(name: str) -> Announcement:
    return Announcement(DISPOSED, {"directory": name}, name)


def test_each_instance_is_told_of_once_and_what_is_none_is_not() -> None:
    resync = Resync()
    assert not resync.knows_any
    assert resync.announcements() == [CONNECTED]

    resync.note(["/a", None, "", "global", "/a", "/b"])

    assert resync.knows_any
    assert resync.announcements() == [CONNECTED, disposed("/a"), disposed("/b")]


def test_of_too_many_instances_the_one_that_was_silent_for_longest_is_forgotten() -> None:
    resync = Resync()

    resync.note(f"/{number}" for number in range(INSTANCES + 1))

    assert len(resync.announcements()) == 1 + INSTANCES
    assert resync.announcements()[1] == disposed("/1")


def test_an_instance_that_is_heard_of_again_is_the_latest() -> None:
    resync = Resync()
    resync.note(f"/{number}" for number in range(INSTANCES))

    resync.note(["/0", "/new"])

    names = [each.directory for each in resync.announcements()[1:]]
    assert names == [*(f"/{number}" for number in range(2, INSTANCES)), "/0", "/new"]


def test_who_comes_late_is_told_for_as_long_as_clients_take_to_come_back() -> None:
    now_s = 100.0
    resync = Resync(lambda: now_s)
    resync.note(["/a"])
    assert resync.late_announcements() == []

    resync.note_gap()

    assert resync.late_announcements() == [disposed("/a")]
    now_s += LATE_S - 0.1
    assert resync.late_announcements() == [disposed("/a")]
    now_s += 0.1
    assert resync.late_announcements() == []
