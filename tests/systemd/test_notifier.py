"""What is sent to the manager, when, and by whom: by the loop, so that one that is stuck says nothing."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opencode_events.errors import DaemonError
from opencode_events.systemd import Notifier, describe
from tests.servers import LOOPS
from tests.systemd.manager import Manager


def environment(manager: Manager, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": manager.address, **more}


def test_a_daemon_without_a_manager_says_nothing() -> None:
    notifier = Notifier.from_environment({})

    notifier.ready("1 subscriber")
    notifier.tick("2 subscribers")

    assert not notifier.is_heard
    asyncio.run(asyncio.wait_for(notifier.run(lambda: ""), 5))


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path", ""])
def test_an_address_of_another_kind_is_not_used(address: str) -> None:
    assert not Notifier.from_environment({"NOTIFY_SOCKET": address}).is_heard


@pytest.mark.parametrize("kind", ["abstract", "path"])
def test_a_life_is_told_as_the_protocol_has_it(manager: Manager, tmp_path: Path, kind: str) -> None:
    heard = manager if kind == "abstract" else Manager(str(tmp_path / "notify"))
    with contextlib.closing(heard), contextlib.closing(Notifier.from_environment(environment(heard))) as notifier:
        notifier.ready("0 subscribers, 0 lagging")
        notifier.tick("0 subscribers, 0 lagging")
        notifier.tick("1 subscriber, 0 lagging")
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        notifier.ready("1 subscriber, 0 lagging")
        notifier.stopping("ending", 20.5)

        assert heard.next() == ["READY=1", "STATUS=0 subscribers, 0 lagging"]
        assert heard.next() == ["STATUS=1 subscriber, 0 lagging"]
        reloading, at = heard.next()
        assert heard.next() == ["READY=1"]
        assert heard.next() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=20500000", "STATUS=ending"]
    assert reloading == "RELOADING=1"
    assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_the_watchdog_is_fed_four_times_within_its_time(manager: Manager) -> None:
    notifier = Notifier.from_environment(environment(manager, WATCHDOG_USEC="8000000"))
    with contextlib.closing(notifier):
        notifier.tick("")
        notifier.tick("")

    assert notifier.pause_s == 2.0
    assert manager.waiting() == [["WATCHDOG=1"], ["WATCHDOG=1"]]


def test_the_watchdog_of_another_process_is_not_fed(manager: Manager) -> None:
    wanted = environment(manager, WATCHDOG_USEC="8000000", WATCHDOG_PID=str(os.getpid() + 1))
    with contextlib.closing(Notifier.from_environment(wanted)) as notifier:
        notifier.tick("")

    assert manager.waiting() == []


def test_a_time_that_is_none_is_refused(manager: Manager) -> None:
    with pytest.raises(DaemonError, match="WATCHDOG_USEC: expects a whole number, not 'soon'"):
        Notifier.from_environment(environment(manager, WATCHDOG_USEC="soon"))


def test_a_manager_that_is_gone_ends_nothing(manager: Manager) -> None:
    with contextlib.closing(Notifier.from_environment(environment(manager))) as notifier:
        manager.close()

        notifier.ready("")
        notifier.tick("1")


def test_a_manager_that_does_not_read_holds_nobody_up_for_long(manager: Manager) -> None:
    with contextlib.closing(Notifier.from_environment(environment(manager))) as notifier:
        began = time.monotonic()
        for number in range(20):  # more than a socket's queue of datagrams takes
            notifier.tick(str(number))

    assert time.monotonic() - began < 5


def test_a_status_that_was_lost_is_told_again(manager: Manager) -> None:
    with contextlib.closing(Notifier.from_environment(environment(manager))) as notifier:
        for number in range(20):
            notifier.tick(str(number))
        manager.waiting()

        notifier.tick("19")
        notifier.tick("19")

    assert manager.waiting() == [["STATUS=19"]]


@pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_is_blocked_feeds_nothing(
    manager: Manager, make_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Blocked for more than half of the time, as the manager would count it; other threads run meanwhile."""
    watchdog_s = 0.4
    notifier = Notifier(manager.address, watchdog_s=watchdog_s)

    async def fed() -> list[list[str]]:
        return await asyncio.to_thread(manager.until, "WATCHDOG=1")

    async def live() -> list[list[str]]:
        task = asyncio.create_task(notifier.run(lambda: ""))
        await fed()
        await fed()
        manager.waiting()
        time.sleep(0.6 * watchdog_s)  # noqa: ASYNC251  # that is what is tested
        missed = manager.waiting()
        await fed()
        task.cancel()
        return missed

    with contextlib.closing(notifier), asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(live()) == []


def test_the_status_is_a_sentence() -> None:
    assert describe(12, 3) == "12 subscribers, 3 lagging"
    assert describe(1, 0) == "1 subscriber, 0 lagging"
