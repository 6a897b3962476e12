"""The password: where it is read from, and what matches it."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.credentials import Credentials, load
from opencode_events.errors import SettingError
from opencode_events.settings import RelaySettings

HELD = Credentials("opencode", "pässword: 1")
TOKEN = base64.b64encode("opencode:pässword: 1".encode()).decode()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_they_are_shown_as_opencode_takes_them() -> None:
    assert HELD.auth_token == TOKEN
    assert HELD.authorization == f"Basic {TOKEN}"


@pytest.mark.parametrize("authorization", [f"Basic {TOKEN}", f"basic {TOKEN}", f"BASIC   {TOKEN} "])
def test_the_header_matches(authorization: str) -> None:
    assert HELD.matches(authorization, None)


def test_the_query_matches_with_or_without_the_header() -> None:
    assert HELD.matches(None, TOKEN)
    assert HELD.matches("Basic eDp5", TOKEN)
    assert HELD.matches(f"Basic {TOKEN}", "x")


def test_a_plus_sign_that_the_query_turned_into_a_space_still_matches() -> None:
    held = Credentials("opencode", "~~~>>>")
    assert "+" in held.auth_token

    assert held.matches(None, held.auth_token.replace("+", " "))


@pytest.mark.parametrize(
    ("authorization", "auth_token"),
    [
        (None, None), ("", ""), ("Basic", None), ("Basic ", None), (TOKEN, None), (f"Bearer {TOKEN}", None),
        (f"Basic{TOKEN}", None), (f"Basic {b64('opencode:')}", None), (f"Basic {b64('x:pässword: 1')}", None),
        (f"Basic {b64('opencode:pässword: 12')}", None), (f"Basic {b64('opencode:pässword')}", None),
        (f"Basic {b64('Opencode:pässword: 1')}", None), (f"Basic {TOKEN}!", None), (f"Basic !{TOKEN}", None),
        (None, f"Basic {TOKEN}"), (None, "é\udcff\0"), ("Basic é\udcff\0", None), (None, b64("opencode:pässword: 1\n")),
    ],
)  # fmt: skip
def test_nothing_else_does(authorization: str | None, auth_token: str | None) -> None:
    assert not HELD.matches(authorization, auth_token)


@given(st.text(), st.text())
def test_garbage_does_not_raise(authorization: str, auth_token: str) -> None:
    assert not HELD.matches(authorization, auth_token)
    assert not HELD.matches(f"Basic {authorization}", None)


@given(st.text(st.characters(exclude_characters=":", codec="utf-8")), st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_is_shown_matches_and_the_other_s_does_not(username: str, password: str) -> None:
    mine = Credentials(username, password)

    assert mine.matches(mine.authorization, None)
    assert mine.matches(None, mine.auth_token)
    assert not Credentials(username, password + "x").matches(mine.authorization, mine.auth_token)


def test_the_password_is_not_printed() -> None:
    assert "pässword" not in repr(HELD)
    assert "pässword" not in str(HELD)
    assert TOKEN not in repr(HELD)


def test_a_name_with_a_colon_cannot_be_shown() -> None:
    with pytest.raises(SettingError, match="upstream_username"):
        Credentials("a:b", "x")


# --- where they are


def settings(path: Path | str = "") -> RelaySettings:
    return RelaySettings(upstream="http://127.0.0.1:1", upstream_password_file=str(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    return path


def test_nobody_gave_any() -> None:
    assert load(settings(), {}) is None
    assert load(settings(), {"OPENCODE_SERVER_PASSWORD": "", "OPENCODE_SERVER_USERNAME": "x"}) is None


def test_the_environment_is_opencode_s_own() -> None:
    found = load(settings(), {"OPENCODE_SERVER_PASSWORD": "one", "OPENCODE_SERVER_USERNAME": "me"})

    assert found == Credentials("me", "one")


def test_the_name_is_the_setting_s_if_the_environment_has_none() -> None:
    named = RelaySettings(upstream="http://127.0.0.1:1", upstream_username="you")

    assert load(named, {"OPENCODE_SERVER_PASSWORD": "one"}) == Credentials("you", "one")


@pytest.mark.parametrize(
    ("text", "password"),
    [
        (b"one", "one"), (b"one\n", "one"), (b"one\r\n", "one"), (b"one\n\n", "one\n"), (b" one \n", " one "),
        ("ö\n".encode(), "ö"), (b"a:b\n", "a:b"),
    ],
)  # fmt: skip
def test_a_file_has_it_but_for_one_line_break_and_wins(text: bytes, password: str, file: Path) -> None:
    file.write_bytes(text)

    assert load(settings(file), {"OPENCODE_SERVER_PASSWORD": "two"}) == Credentials("opencode", password)


@pytest.mark.parametrize(
    ("text", "reason"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8"), (b"x" * 5000, "more than 4096")],
)
def test_a_file_that_holds_no_password_is_refused(text: bytes, reason: str, file: Path) -> None:
    file.write_bytes(text)

    with pytest.raises(SettingError, match=reason) as refusal:
        load(settings(file), {"OPENCODE_SERVER_PASSWORD": "two"})

    assert str(file) in str(refusal.value)
    assert refusal.value.name == "upstream_password_file"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644])
def test_a_file_that_is_open_to_others_is_refused(mode: int, file: Path) -> None:
    file.write_bytes(b"one")
    file.chmod(mode)

    with pytest.raises(SettingError, match="chmod 600"):
        load(settings(file), {})


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_is_its_owner_s_alone_is_fine(mode: int, file: Path) -> None:
    file.write_bytes(b"one")
    file.chmod(mode)

    assert load(settings(file), {}) == Credentials("opencode", "one")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read: No such file"):
        load(settings(tmp_path / "nowhere"), {"OPENCODE_SERVER_PASSWORD": "two"})


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        load(settings(tmp_path), {})


def test_what_a_shell_hands_over_without_a_name_can_be_read() -> None:
    """`--upstream-password-file <(pass show opencode)`: a pipe, which has no owner to speak of."""
    reading, writing = os.pipe()
    os.write(writing, b"one\n")
    os.close(writing)
    try:
        assert load(settings(f"/dev/fd/{reading}"), {}) == Credentials("opencode", "one")
    finally:
        os.close(reading)
