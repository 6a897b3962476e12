"""What failed is tried again, and not all at once."""

import pytest

from opencode_events.errors import LogUnavailable
from opencode_events.relay.patience import patiently, pause_s


async def test_the_log_is_asked_until_it_answers() -> None:
    answers = iter([LogUnavailable("the disk is full", retry_after_s=1)] * 3)

    async def ask() -> str:
        for error in answers:
            raise error
        return "here"

    assert await patiently(ask) == "here"


async def test_any_other_error_is_not_waited_for() -> None:
    async def ask() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await patiently(ask)


def test_pauses_grow_and_differ_and_have_a_limit() -> None:
    for tries, (least, most) in enumerate([(1, 1.5), (2, 3), (4, 6), (8, 12), (16, 24), (20, 30), (20, 30)]):
        pauses = [pause_s(tries, 1.0, 30.0) for _ in range(200)]
        assert least <= min(pauses) < max(pauses) <= most
        assert max(pauses) - min(pauses) > (most - least) / 2
    assert 20 <= pause_s(10_000, 1.0, 30.0) <= 30
    assert pause_s(3, 5.0, 5.0) == 5.0
    assert pause_s(3, 5.0, 2.0) == 2.0
