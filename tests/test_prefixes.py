"""Which directories lie in which: whole segments, and nothing that leads elsewhere than it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.prefixes import Prefixes, segments

HELD = Prefixes(frozenset({("srv", "a"), ("home", "me")}))


@pytest.mark.parametrize(
    "directory",
    ["/srv/a", "/srv/a/", "/srv/a/b/c", "//srv//a", "/./srv/./a", "/srv/a/...", "/home/me/x", "/srv/a/B", "/srv/a/%2e"],
)
def test_it_lies_in_one_of_them(directory: str) -> None:
    assert HELD.has(directory)


@pytest.mark.parametrize(
    "directory",
    [
        None, "", "/", "/srv", "/srv/ab", "/srv/A", "srv/a", "/srv/a/..", "/srv/a/../a", "/srv/a/b/../../c",
        "/srv/x/../a", "/srv/a\0", "/srv/a/\0/b", "global", "\\srv\\a", "/srv\\a", " /srv/a", "/srv/a /b", "/srv/%61",
        "~/srv/a", "/x/srv/a", "/home", "/home/men",
    ],
)  # fmt: skip
def test_it_does_not(directory: str | None) -> None:
    assert not HELD.has(directory)


def test_the_root_holds_what_is_absolute() -> None:
    root = Prefixes(frozenset({()}))

    assert root.has("/")
    assert root.has("/srv")
    assert not root.has("/srv/..")
    assert not root.has("srv")
    assert not root.has(None)


@given(st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1), max_size=4))
def test_a_directory_is_in_itself_and_in_each_above_it_and_in_no_neighbour(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    own = segments(path)

    if ".." in parts:
        assert own is None
        return
    assert own is not None
    for length in range(len(own) + 1):
        assert Prefixes(frozenset({own[:length]})).has(path)
    if own:
        assert not Prefixes(frozenset({(*own[:-1], own[-1] + "x")})).has(path)


def test_they_are_named_as_they_are_written() -> None:
    assert HELD.names() == ["/home/me", "/srv/a"]
