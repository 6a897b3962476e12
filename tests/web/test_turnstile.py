"""So many in a turn of the loop, in their order."""

import asyncio

import pytest

from opencode_events.web.turnstile import Turnstile


async def crowd(turnstile: Turnstile, count: int, passed: list[int]) -> list["asyncio.Task[None]"]:
    async def visit(number: int) -> None:
        await turnstile.enter()
        passed.append(number)

    tasks = [asyncio.create_task(visit(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_who_finds_nobody_before_it_passes_at_once() -> None:
    passed: list[int] = []
    await crowd(Turnstile(3), 3, passed)

    assert passed == [0, 1, 2]


async def test_a_crowd_passes_in_order_and_never_more_than_the_width_in_a_turn() -> None:
    passed: list[int] = []
    tasks = await crowd(Turnstile(3), 20, passed)
    before, steps = len(passed), []
    while len(passed) < 20:
        await asyncio.sleep(0)
        steps.append(len(passed) - before)
        before = len(passed)
    await asyncio.gather(*tasks)

    assert passed == list(range(20))
    assert max(steps) <= 3


async def test_who_is_cancelled_meanwhile_holds_nobody_up() -> None:
    passed: list[int] = []
    tasks = await crowd(Turnstile(1), 4, passed)
    tasks[1].cancel()
    tasks[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    await tasks[3]

    assert passed == [0, 3]


async def test_a_new_crowd_waits_behind_the_old_one() -> None:
    passed: list[int] = []
    turnstile = Turnstile(1)
    tasks = await crowd(turnstile, 3, passed)
    late: list[int] = []
    tasks += await crowd(turnstile, 1, late)
    assert late == []
    await asyncio.gather(*tasks)

    assert (passed, late) == ([0, 1, 2], [0])
