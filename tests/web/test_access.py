"""Host, Origin, password: who is kept out by which, and in which order."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.http import HttpVersion10
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from structlog.testing import capture_logs

from opencode_events.credentials import Credentials
from opencode_events.errors import Forbidden
from opencode_events.tokens import EVERYTHING, Tokens
from opencode_events.web.access import Access, Need, granted, host_of, is_same, parse_hosts
from opencode_events.web.cors import Cors
from tests.clients import parse_head
from tests.servers import Server

HELD = Credentials("opencode", "s3cret")
CORS = Cors(frozenset(["https://dash.example"]))
OPEN = Access(None, parse_hosts("Shield.example., box, my_box.example"), CORS)
LOCKED = Access(HELD, parse_hosts("shield.example"), CORS)


def asked(
    *fields: tuple[str, str], method: str = "GET", target: str = "/a", host: str | None = "localhost:4097"
) -> web.Request:
    headers = CIMultiDict(fields if host is None else [("Host", host), *fields])
    return make_mocked_request(method, target, headers=headers)


def refused_for(request: web.Request, access: Access = OPEN) -> str | None:
    """Return the field that a request is refused for."""
    try:
        access.check(request)
    except Forbidden as error:
        return error.field
    return None


# --- Host


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:4097", "localhost.", "a.localhost", "127.0.0.1:4097", "10.1.2.3", "[::1]", "[::1]:4097",
        "[fe80::1]:1", "shield.example", "SHIELD.example:443", "shield.example.:1", "box",
        "[fe80::1%eth0]:1", "[::ffff:127.0.0.1]", "my_box.example",
    ],
)  # fmt: skip
def test_addresses_localhost_and_names_of_the_configuration_may_be_called(host: str) -> None:
    assert refused_for(asked(host=host)) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "evillocalhost", "shield.example.evil", "sub.shield.example", "",
        "127.0.0.1.evil.example", "127.0.0.1:80:80", "localhost:", "localhost:x", "x@localhost", "localhost@evil",
        "localhost/evil", "localhost evil", "[::1", "::1", "[evil]", "[]", ":4097", "localhost:\u0661",
        "127.1", "0x7f.1", "127.0.0.1\xa0", "[127.0.0.1]", "[::1].evil", "[::1]x", ".localhost", "a..localhost",
        "localhost..", "localhost%00",
    ],
)  # fmt: skip
def test_by_another_name_nobody_may_call(host: str) -> None:
    expected = None if host == "localhost:" else "Host"  # RFC 3986, section 3.2.3: an empty port is the usual one

    assert refused_for(asked(host=host)) == expected


def test_the_refusal_names_the_setting() -> None:
    with pytest.raises(Forbidden, match="allowed_hosts"):
        OPEN.check(asked(host="evil.example"))


def test_a_second_host_is_one_too_many() -> None:
    assert refused_for(asked(("Host", "localhost"))) == "Host"


def test_only_a_client_of_http_1_0_may_leave_it_away() -> None:
    old = make_mocked_request("GET", "/a", headers={}, version=HttpVersion10)

    assert refused_for(asked(host=None)) == "Host"
    assert refused_for(old) is None


def test_an_absolute_target_is_judged_beside_the_field(server: Server) -> None:
    def status(target: str, host: str) -> int:
        sock = server.client.connect()
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        return parse_head(sock.recv(65_536).partition(b"\r\n\r\n")[0]).status

    assert status("http://localhost/-/healthy", "localhost") == 200
    assert status("http://evil.example/-/healthy", "localhost") == 403
    assert status("http://localhost/-/healthy", "evil.example") == 403
    assert status("http://localhost@evil.example/-/healthy", "localhost") == 403


@given(st.text(max_size=20))
def test_what_is_no_authority_has_no_host(text: str) -> None:
    found = host_of(text)

    assert found is None or not set(found) & set("@/?#\\ \t")


# --- Origin


UNSAFE = [
    ("POST", ()),
    ("PUT", ()),
    ("PATCH", ()),
    ("DELETE", ()),
    ("PROPFIND", ()),
    ("GET", (("Upgrade", "websocket"),)),
]


@pytest.mark.parametrize(("method", "fields"), UNSAFE, ids=[method for method, _ in UNSAFE])
def test_another_one_s_page_may_change_nothing_and_open_no_websocket(
    method: str, fields: tuple[tuple[str, str], ...]
) -> None:
    def asks(*more: tuple[str, str]) -> str | None:
        return refused_for(asked(*fields, *more, method=method))

    assert asks(("Origin", "https://evil.example")) == "Origin"
    assert asks(("Origin", "null")) == "Origin"
    assert asks(("Origin", "http://localhost:4097"), ("Origin", "https://evil.example")) == "Origin"
    assert asks(("Sec-Fetch-Site", "cross-site")) == "Sec-Fetch-Site"
    assert asks(("Sec-Fetch-Site", "same-site")) == "Sec-Fetch-Site"


@pytest.mark.parametrize(("method", "fields"), UNSAFE, ids=[method for method, _ in UNSAFE])
def test_programs_own_pages_and_those_that_are_allowed_may(method: str, fields: tuple[tuple[str, str], ...]) -> None:
    def asks(*more: tuple[str, str]) -> str | None:
        return refused_for(asked(*fields, *more, method=method))

    assert asks() is None
    assert asks(("Sec-Fetch-Site", "same-origin")) is None
    assert asks(("Origin", "http://localhost:4097"), ("Sec-Fetch-Site", "same-origin")) is None
    assert asks(("Origin", "https://app.opencode.ai"), ("Sec-Fetch-Site", "cross-site")) is None
    assert asks(("Origin", "https://dash.example")) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_any_page_may_ask_for_what_changes_nothing(method: str) -> None:
    assert refused_for(asked(("Origin", "https://evil.example"), method=method)) is None


def test_a_page_that_came_through_a_proxy_with_tls_is_our_own() -> None:
    page = ("Origin", "https://shield.example")

    assert refused_for(asked(page, ("X-Forwarded-Proto", "https"), method="POST", host="shield.example")) is None
    assert refused_for(asked(page, method="POST", host="shield.example")) == "Origin"


@pytest.mark.parametrize(
    ("origin", "scheme", "authority", "expected"),
    [
        ("http://box:1", "http", "box:1", True), ("http://box", "http", "box:80", True),
        ("https://BOX:443", "https", "box", True), ("http://[::1]:1", "http", "[::1]:1", True),
        ("http://box:1", "http", "box:2", False),
        ("http://box", "https", "box", False), ("http://box:1", "http", "", False), ("null", "http", "box", False),
        ("", "http", "box", False), ("http://box/", "http", "box", False), ("http://box/a", "http", "box", False),
        ("http://a@box", "http", "box", False), ("file://", "file", "", False), ("http://box:x", "http", "box", False),
    ],
)  # fmt: skip
def test_an_origin_is_scheme_host_and_port(origin: str, scheme: str, authority: str, expected: bool) -> None:
    assert is_same(origin, scheme, authority) is expected


# --- password


def answered(request: web.Request) -> int:
    response = LOCKED.check(request)
    return 200 if response is None else response.status


SHOWN: dict[str, Callable[[], web.Request]] = {
    "header": lambda: asked(("Authorization", HELD.authorization)),
    "query": lambda: asked(target=f"/a?x&auth_token={HELD.auth_token}"),
    "query, encoded": lambda: asked(target=f"/a?auth%5Ftoken={HELD.auth_token.replace('=', '%3D')}"),
    "preflight": lambda: asked(
        ("Origin", "http://localhost:1"), ("Access-Control-Request-Method", "PUT"), method="OPTIONS"
    ),
}
NOT_SHOWN: dict[str, Callable[[], web.Request]] = {
    "nothing": lambda: asked(),
    "another": lambda: asked(("Authorization", "Basic eDp5")),
    "another token": lambda: asked(target="/a?auth_token=eDp5"),
    "options": lambda: asked(method="OPTIONS"),
    "options of a page": lambda: asked(("Origin", "http://localhost:1"), method="OPTIONS"),
    "a preflight with a body": lambda: asked(
        ("Origin", "http://localhost:1"),
        ("Access-Control-Request-Method", "PUT"),
        ("Content-Length", "1000000"),
        method="OPTIONS",
    ),
    "a get like a preflight": lambda: asked(("Origin", "http://localhost:1"), ("Access-Control-Request-Method", "PUT")),
    "ready": lambda: asked(target="/-/ready"),
    "alive": lambda: asked(target="/-/healthy"),  # it is its route that needs nothing, not its name
    "below alive": lambda: asked(target="/-/healthy/x"),
    "alive, with a slash that is none": lambda: asked(target="/-%2Fhealthy"),
    "a websocket": lambda: asked(("Upgrade", "websocket")),
}


@pytest.mark.parametrize("make", SHOWN.values(), ids=SHOWN.keys())
def test_who_shows_the_password_or_need_not_is_served(make: Callable[[], web.Request]) -> None:
    assert answered(make()) == 200


@pytest.mark.parametrize("make", NOT_SHOWN.values(), ids=NOT_SHOWN.keys())
def test_who_does_not_is_answered_as_opencode_would(make: Callable[[], web.Request]) -> None:
    response = LOCKED.check(make())

    assert response is not None
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Basic realm="Secure Area"'
    assert response.body is None


@pytest.mark.parametrize("name", ["another", "another token"])
def test_a_wrong_one_is_told_and_not_what_it_was(name: str) -> None:
    with capture_logs() as lines:
        LOCKED.check(NOT_SHOWN[name]())

    assert lines == [{"event": "login.failed", "log_level": "warning", "peer": "unknown"}]


@pytest.mark.parametrize("make", [NOT_SHOWN["nothing"], *SHOWN.values()], ids=["nothing", *SHOWN.keys()])
def test_who_shows_nothing_yet_or_what_is_right_has_not_failed(make: Callable[[], web.Request]) -> None:
    with capture_logs() as lines:
        LOCKED.check(make())

    assert lines == []


def test_a_load_balancer_is_asked_for_nothing() -> None:
    assert LOCKED.check(asked(target="/-/healthy"), "nothing") is None


def test_without_a_password_nobody_has_to_show_one() -> None:
    assert OPEN.check(asked()) is None


def test_the_password_opens_neither_host_nor_origin() -> None:
    shown = ("Authorization", HELD.authorization)

    assert refused_for(asked(shown, host="evil.example"), LOCKED) == "Host"
    assert refused_for(asked(shown, ("Origin", "https://evil.example"), method="POST"), LOCKED) == "Origin"


def test_host_is_judged_before_origin_and_that_before_the_password() -> None:
    page = ("Origin", "https://evil.example")

    assert refused_for(asked(page, method="POST", host="evil.example"), LOCKED) == "Host"
    assert refused_for(asked(page, method="POST"), LOCKED) == "Origin"
    assert answered(asked(method="POST")) == 401


# --- tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(f'[reader]\ntoken = "{READER}"\nscopes = ["subscribe"]\n')
    return Tokens(path)


READER = "r" * 32
BEARER = ("Authorization", f"Bearer {READER}")


def test_a_token_lets_in_for_what_it_is_meant_for(tokens: Tokens) -> None:
    access = Access(None, frozenset(), CORS, tokens)
    request = asked(BEARER)

    assert access.check(request, "subscribe") is None
    assert granted(request).name == "reader"
    others: tuple[Need, ...] = ("publish", "operate", "upstream")
    for need in others:
        with pytest.raises(Forbidden, match="reader is not for this: it has no scope"):
            access.check(asked(BEARER), need)


@pytest.mark.parametrize(
    ("fields", "target", "expected"),
    [
        ([("Authorization", f"bearer  {READER} ")], "/a", 200),
        ([], f"/a?auth_token={READER}", 200),
        ([("Authorization", "Bearer x")], f"/a?auth_token={READER}", 200),
        ([("Authorization", f"Bearer {READER}x")], "/a", 401),
        ([("Authorization", f"Bearer{READER}")], "/a", 401),
        ([("Authorization", f"Basic {READER}")], "/a", 401),
        ([("Authorization", READER)], "/a", 401),
        ([("Authorization", "Bearer ")], "/a?auth_token=", 401),
        ([("Authorization", "Bearer \xff\0")], "/a?auth_token=%ff%00", 401),
        ([], "/a", 401),
    ],
)
def test_a_token_is_shown_as_a_bearer_or_where_no_field_can_be_sent(
    fields: list[tuple[str, str]], target: str, expected: int, tokens: Tokens
) -> None:
    response = Access(None, frozenset(), CORS, tokens).check(asked(*fields, target=target), "subscribe")

    assert (200 if response is None else response.status) == expected


def test_who_shows_nothing_is_told_what_is_held(tokens: Tokens) -> None:
    def challenges(access: Access) -> list[str]:
        response = access.check(asked())
        assert response is not None
        return response.headers.getall("WWW-Authenticate")

    assert challenges(Access(None, frozenset(), CORS, tokens)) == ['Bearer realm="Secure Area"']
    assert challenges(Access(HELD, frozenset(), CORS, tokens)) == [
        'Basic realm="Secure Area"',
        'Bearer realm="Secure Area"',
    ]


def test_the_password_may_everything_beside_tokens(tokens: Tokens) -> None:
    access = Access(HELD, frozenset(), CORS, tokens)
    request = asked(("Authorization", HELD.authorization))

    assert access.check(request, "operate") is None
    assert granted(request) == EVERYTHING
