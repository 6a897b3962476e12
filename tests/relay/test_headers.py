"""What of a head goes on: rules on lists of octets, without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opencode_events.errors import RequestError
from opencode_events.relay.headers import (
    HOP_BY_HOP,
    end_to_end,
    origin_form,
    request_fields,
    response_fields,
    without_auth_token,
)

NAMES = st.sampled_from([b"X-One", b"X-Two", b"TE", b"Keep-Alive", b"Set-Cookie", b"Upgrade", b"Connection", b"x-one"])
VALUES = st.sampled_from([b"a", b"", b"close", b"X-One", b"x-two , te", b"\xc3\xa9", b"\xe9", b"a\tb"])


def asked(*fields: tuple[bytes, bytes], authorization: str | None = None) -> list[tuple[str, str]]:
    found = request_fields(
        fields, authority="up:1", authorization=authorization, peer="192.0.2.1", scheme="http", via="us"
    )
    return list(found.items())


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_what_goes_on_is_in_order_and_is_what_neither_is_nor_is_named_one_hop_s(
    fields: list[tuple[bytes, bytes]],
) -> None:
    named = {
        option.strip().lower()
        for name, value in fields
        if name.lower() == b"connection"
        for option in value.split(b",")
    }
    expected = [
        name.decode() for name, _ in fields if name.lower().decode() not in HOP_BY_HOP and name.lower() not in named
    ]

    assert [name for name, _ in end_to_end(fields)] == expected


@pytest.mark.parametrize(
    "name", ["Connection", "KEEP-ALIVE", "te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Connection"]
)
def test_a_hop_s_own_field_does_not_go_on_however_it_is_spelled(name: str) -> None:
    assert end_to_end([(name.encode(), b"x"), (b"X-One", b"1")]) == [("X-One", "1")]


@pytest.mark.parametrize("octet", [b"\0", b"\r", b"\n", b"\x01", b"\x1f", b"\x7f"])
def test_a_control_character_goes_nowhere(octet: bytes) -> None:
    with pytest.raises(ValueError, match="X-One"):
        end_to_end([(b"X-One", b"a" + octet + b"b")])


def test_a_value_that_is_no_utf8_is_read_as_latin_1() -> None:
    assert end_to_end([(b"X-One", b"\xc3\xa9"), (b"X-Two", b"\xe9")]) == [("X-One", "é"), ("X-Two", "é")]


def test_host_is_upstream_s_and_expect_is_ours() -> None:
    found = asked((b"Host", b"shield.example"), (b"Expect", b"100-continue"), (b"X-One", b"1"))

    assert found == [
        ("Host", "up:1"),
        ("X-One", "1"),
        ("Via", "1.1 us"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "shield.example"),
    ]


def test_what_a_proxy_before_us_said_stays_and_is_added_to() -> None:
    found = dict(
        asked(
            (b"Host", b"x"), (b"Via", b"1.1 a"), (b"via", b"1.0 b"), (b"X-Forwarded-For", b"198.51.100.1"),
            (b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"shield.example"),
        )
    )  # fmt: skip

    assert found == {
        "Host": "up:1",
        "Via": "1.1 a, 1.0 b, 1.1 us",
        "X-Forwarded-For": "198.51.100.1, 192.0.2.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shield.example",
    }


def test_all_of_the_client_s_authorizations_are_replaced() -> None:
    found = asked((b"authorization", b"Basic eDp5"), (b"Authorization", b"Bearer z"), authorization="Basic ours")

    assert [value for name, value in found if name.lower() == "authorization"] == ["Basic ours"]


def test_authorization_cannot_be_lost_by_being_named_in_connection() -> None:
    found = asked((b"Connection", b"authorization, via, host"), authorization="Basic ours")

    assert ("Authorization", "Basic ours") in found
    assert ("Host", "up:1") in found
    assert ("Via", "1.1 us") in found


def test_two_spellings_of_a_name_are_one_name() -> None:
    found = asked((b"X-One", b"1"), (b"x-one", b"2"), (b"X-ONE", b"3"))

    assert [(name, value) for name, value in found if name.lower() == "x-one"] == [
        ("X-One", "1"),
        ("X-One", "2"),
        ("X-One", "3"),
    ]


def test_an_answer_keeps_every_cookie_and_loses_its_framing() -> None:
    found = response_fields(
        [
            (b"Set-Cookie", b"a=1"), (b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5"),
            (b"Set-Cookie", b"b=2"), (b"Connection", b"close"),
        ]
    )  # fmt: skip

    assert list(found.items()) == [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]


def test_the_length_of_an_answer_that_is_not_chunked_stays() -> None:
    assert response_fields([(b"Content-Length", b"5")])["Content-Length"] == "5"


# --- targets


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a%2Fb?c", "/a%2Fb?c"), ("//a", "//a"), ("*", "*"), ("http://x/a?b", "/a?b"), ("HTTPS://x:1", "/"),
        ("http://x?b", "/?b"), ("http://x//a", "//a"), ("/http://x/a", "/http://x/a"),
    ],
)  # fmt: skip
def test_a_target_is_taken_for_its_path_and_query(target: str, expected: str) -> None:
    assert origin_form(target) == expected


@pytest.mark.parametrize("target", ["", "a", "x:443", "/\udcff"])
def test_a_target_without_a_path_or_that_is_no_text_is_refused(target: str) -> None:
    with pytest.raises(RequestError):
        origin_form(target)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a", "/a"), ("/a?", "/a?"), ("/a?b", "/a?b"), ("/a?auth_token=x", "/a"), ("/a?auth_token", "/a"),
        ("/a?b=%41&auth_token=x&c", "/a?b=%41&c"), ("/a?auth_token=x&auth_token=y&b", "/a?b"),
        ("/a?auth%5Ftoken=x", "/a"), ("/a?%61uth_token=x&&", "/a?&"), ("/a?b=auth_token", "/a?b=auth_token"),
        ("/a?auth_tokens=x", "/a?auth_tokens=x"), ("/auth_token=x", "/auth_token=x"),
        ("/a?b;auth_token=x", "/a?b;auth_token=x"),
    ],
)  # fmt: skip
def test_the_token_is_cut_out_and_nothing_else_is_touched(target: str, expected: str) -> None:
    assert without_auth_token(target) == expected
