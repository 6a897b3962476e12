"""A cursor reads back as it was written, and nothing else is one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events import cursor
from opencode_events.cursor import Cursor

EPOCHS = st.text("0123456789abcdef", min_size=10, max_size=10)


@given(EPOCHS, st.integers(0, 10**19 - 1))
def test_a_cursor_reads_back_as_it_was_written(epoch: str, position: int) -> None:
    text = str(Cursor(epoch, position))

    assert cursor.parse(text) == (epoch, position)
    assert re.fullmatch(r"[0-9a-zA-Z-]{1,32}", text)


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "0123456789", "0123456789-", "-1", "0123456789-01", "0123456789--1", "0123456789-1.0", "012345678-1",
        "0123456789a-1", "0123456789-12345678901234567890", "ABCDEF0123-1", "0123456789-1 ", " 0123456789-1",
        "0123456789-1\n", "0123456789-\u0663", "\u0660123456789-1", "0123456789-1-1", "0123456789-0x1", "latest", "\0",
        "0123456789-+1", "0123456789-1_0", "0123456789-00", "x" * 100_000,
    ],
)  # fmt: skip
def test_nothing_else_is_one(text: str) -> None:
    assert cursor.parse(text) is None


@given(st.text(max_size=40))
def test_any_text_can_be_asked_about(text: str) -> None:
    found = cursor.parse(text)

    assert found is None or str(found) == text


def test_epochs_are_minted_in_the_form_that_is_read_and_differ() -> None:
    minted = {cursor.mint_epoch() for _ in range(1000)}

    assert len(minted) == 1000
    assert all(cursor.parse(f"{epoch}-0") == (epoch, 0) for epoch in minted)
