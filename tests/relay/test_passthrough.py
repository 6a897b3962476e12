"""A request reaches upstream as it was sent, and the answer its client as it was given."""

import socket
from pathlib import Path

import pytest

from opencode_events.credentials import Credentials
from opencode_events.tokens import Tokens
from tests.relay.shield import Start, Wire, always, document, hop_free, read_answer

HELD = Credentials("opencode", "s3cret")
SECRET = "tok-" + "5" * 32

TARGETS = [
    "/", "/?", "/a?b=c", "/a?", "//a/../b//", "/a/./b/..", "/a%2Fb%2f", "/a%41?q=%41+%20&&=", "/a;b=c,d!$'()*",
    "/a?b?c#d", "/a#b?c", "/%65vent", "/%00", "/a?x={}|^`\"<>", "/~%7E", "/a:b@c",
]  # fmt: skip


def test_a_target_goes_on_to_the_octet(shielded: Start) -> None:
    upstream, shield = shielded(always())

    for target in TARGETS:
        assert shield.get(target).status == 200, target

    assert [asked.target for asked in upstream.asked] == TARGETS


def test_an_absolute_target_goes_on_as_its_path(shielded: Start) -> None:
    upstream, shield = shielded(always())

    assert shield.get("http://localhost/a%2Fb?c").status == 200

    assert upstream.asked[0].target == "/a%2Fb?c"
    assert upstream.asked[0].all("host") == [f"127.0.0.1:{upstream.port}"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_any_method_goes_on(method: str, shielded: Start) -> None:
    upstream, shield = shielded(always())

    assert shield.get("/a", "Content-Length: 0", method=method).body == b"hello"

    assert upstream.asked[0].line == f"{method} /a HTTP/1.1"


def test_a_trace_would_show_the_shield_s_password_and_is_refused(shielded: Start) -> None:
    upstream, shield = shielded(always(), credentials=HELD)

    answer = shield.get("/a", f"Authorization: {HELD.authorization}", method="TRACE")

    assert answer.status == 403
    assert upstream.asked == []


def test_fields_go_on_in_order_and_what_is_one_hop_s_does_not(shielded: Start) -> None:
    upstream, shield = shielded(always())

    shield.get(
        "/a", "X-One: 1", "Cookie: a=1", "X-Two:  spaced", "x-one: 2", "Connection: keep-alive, X-Hop",
        "X-Hop: gone", "Keep-Alive: timeout=9", "TE: trailers", "Proxy-Authorization: Basic x", "X-Utf: \u00c3\u00a9",
        "Range: bytes=0-1", "Accept-Encoding: br",
    )  # fmt: skip

    assert upstream.asked[0].fields == [
        ("host", f"127.0.0.1:{upstream.port}"),
        ("x-one", "1"),
        ("cookie", "a=1"),
        ("x-two", "spaced"),
        ("x-one", "2"),
        ("x-utf", "\u00c3\u00a9"),
        ("range", "bytes=0-1"),
        ("accept-encoding", "br"),
        ("via", upstream.asked[0].all("via")[0]),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", f"127.0.0.1:{shield.client.port}"),
    ]


def test_an_answer_comes_as_it_was_given_and_with_nothing_added(shielded: Start) -> None:
    fields = (
        "Set-Cookie: a=1; Path=/", "X-One: 1", "Set-Cookie: b=2", "Content-Encoding: gzip", "Vary: Origin",
        "Date: Thu, 26 Nov 2026 00:00:00 GMT", "Connection: X-Hop", "X-Hop: gone", "Keep-Alive: timeout=5",
    )  # fmt: skip
    _, shield = shielded(always(*fields, body=b"\x1f\x8bnot gzip at all", status="299 Most Odd"))

    sock = shield.client.connect()
    sock.sendall(shield.client.request("/a"))
    raw = b""
    while not raw.endswith(b"at all"):
        raw += sock.recv(65_536)

    assert raw == (
        b"HTTP/1.1 299 Most Odd\r\nSet-Cookie: a=1; Path=/\r\nX-One: 1\r\nSet-Cookie: b=2\r\nContent-Encoding: gzip\r\n"
        b"Vary: Origin\r\nDate: Thu, 26 Nov 2026 00:00:00 GMT\r\nContent-Length: 17\r\n\r\n\x1f\x8bnot gzip at all"
    )


@pytest.mark.parametrize("status", ["301 Moved", "400 Bad", "401 Who", "404 Not Found", "500 Oops", "503 Later"])
def test_redirects_and_errors_are_upstream_s_own(status: str, shielded: Start) -> None:
    _, shield = shielded(always("Location: /b", "Content-Type: text/x", body=b"{}", status=status))

    answer = shield.get("/a")

    assert f"{answer.status}" == status[:3]
    assert hop_free(answer) == [("location", "/b"), ("content-type", "text/x"), ("content-length", "2")]
    assert answer.body == b"{}"


def test_the_answer_to_head_has_the_length_of_what_it_leaves_out(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        while True:
            wire.request()
            wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")

    _, shield = shielded(serve)
    sock = shield.client.connect()

    for _ in range(2):  # on one connection: nothing that follows the head is taken for a body
        sock.sendall(shield.client.request("/a", method="HEAD"))
        answer = read_answer(sock, is_head=True)
        assert hop_free(answer) == [("content-length", "12345")]
        assert answer.body == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_that_has_no_body_gets_none(status: str, shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        while True:
            wire.request()
            wire.say(f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode())

    _, shield = shielded(serve)
    sock = shield.client.connect()

    for _ in range(2):
        sock.sendall(shield.client.request("/a"))
        answer = read_answer(sock)
        assert hop_free(answer) == [("etag", "x")]
        assert answer.body == b""


def test_interim_answers_are_not_taken_for_the_answer(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n")
        wire.answer(b"done")

    _, shield = shielded(serve)

    assert shield.get("/a").body == b"done"


def test_an_upstream_that_speaks_an_older_http_is_understood(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\n", b"to the end")

    _, shield = shielded(serve)

    answer = shield.get("/a")

    assert answer.head.all("transfer-encoding") == ["chunked"]
    assert answer.body == b"to the end"


@pytest.mark.parametrize("field", ["", "Connection: keep-alive\r\n"], ids=["once", "kept"])
def test_a_client_that_speaks_an_older_http_gets_no_chunks(field: str, shielded: Start) -> None:
    """The end of its answer is the end of the connection, also for one who would rather keep that."""

    def serve(wire: Wire) -> None:
        wire.request()
        wire.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

    upstream, shield = shielded(serve)

    answer = shield.ask(f"GET /a HTTP/1.0\r\n{field}\r\n".encode())

    assert answer.head.version == "HTTP/1.0"
    assert answer.head.all("transfer-encoding") == []
    assert answer.body == b"abcde"
    assert upstream.asked[0].line == "GET /a HTTP/1.1"


def test_cookies_are_their_clients_alone(shielded: Start) -> None:
    upstream, shield = shielded(always("Set-Cookie: session=one; Path=/"))

    shield.get("/a")
    shield.get("/b")

    assert upstream.asked[1].all("cookie") == []


# --- the password


def test_upstream_sees_the_shield_s_password_and_never_the_token(shielded: Start) -> None:
    upstream, shield = shielded(always(), credentials=HELD)

    by_header = shield.get("/a?x=%41", f"Authorization: {HELD.authorization}")
    by_token = shield.get(f"/a?x=%41&auth_token={HELD.auth_token}&y;z")

    assert (by_header.status, by_token.status) == (200, 200)
    assert [asked.target for asked in upstream.asked] == ["/a?x=%41", "/a?x=%41&y;z"]
    assert [asked.all("authorization") for asked in upstream.asked] == [[HELD.authorization]] * 2


@pytest.mark.parametrize("fields", [(), ("Authorization: Basic eDp5",), ("Authorization: Bearer x",)])
def test_a_stranger_does_not_reach_upstream(fields: tuple[str, ...], shielded: Start) -> None:
    upstream, shield = shielded(always(), credentials=HELD)

    answer = shield.get("/a", *fields)

    assert answer.status == 401
    assert answer.head["www-authenticate"] == 'Basic realm="Secure Area"'
    assert answer.body == b""
    assert upstream.asked == []


def test_a_preflight_passes_without_the_password_and_is_shown_none(shielded: Start) -> None:
    upstream, shield = shielded(always(status="204 No Content", body=b""), credentials=HELD)

    shield.get("/a", "Origin: http://localhost:1", "Access-Control-Request-Method: PUT", method="OPTIONS")

    assert upstream.asked[0].all("authorization") == []


@pytest.mark.parametrize("credentials", [None, HELD])
def test_upstream_never_sees_a_token_of_the_shield_s(
    credentials: Credentials | None, shielded: Start, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(f'[a]\ntoken = "{SECRET}"\nscopes = ["upstream"]\n')
    upstream, shield = shielded(always(), credentials=credentials, tokens=Tokens(path))
    page = f"http://localhost/page?auth_token={SECRET}&x"

    shield.get("/a", f"Authorization: Bearer {SECRET}", f"Referer: {page}")
    shield.get(f"/a?auth_token={SECRET}&b=1", f"authorization: Bearer {SECRET}", "Authorization: Basic eDp5")
    shield.get(
        "/a", f"Authorization: Bearer {SECRET}", "Origin: http://localhost:1", "Access-Control-Request-Method: PUT",
        method="OPTIONS",
    )  # fmt: skip
    refused = shield.get("/a", f"Authorization: Bearer {SECRET}x")

    assert refused.status == 401
    first, second, preflight = upstream.asked
    assert SECRET.encode() not in first.raw + second.raw + preflight.raw
    shown = [] if credentials is None else [credentials.authorization]
    assert [first.all("authorization"), second.all("authorization"), preflight.all("authorization")] == [
        shown, shown, [],
    ]  # fmt: skip
    assert first.all("referer") == ["http://localhost/page?x"]
    assert second.target == "/a?b=1"


def test_what_is_of_no_page_is_no_preflight_and_has_shown_the_password(shielded: Start) -> None:
    upstream, shield = shielded(always(), credentials=HELD)

    shield.get(f"/a?auth_token={HELD.auth_token}", "Access-Control-Request-Method: PUT", method="OPTIONS")

    assert upstream.asked[0].all("authorization") == [HELD.authorization]


def test_without_a_password_the_client_s_own_goes_on(shielded: Start) -> None:
    upstream, shield = shielded(always())

    shield.get("/a?auth_token=eDp5", "Authorization: Basic eDp5")

    assert upstream.asked[0].all("authorization") == ["Basic eDp5"]
    assert upstream.asked[0].target == "/a?auth_token=eDp5"


def test_a_client_is_not_asked_for_a_password_that_is_the_shield_s(shielded: Start) -> None:
    _, shield = shielded(always('WWW-Authenticate: Basic realm="Secure Area"', status="401 No"), credentials=HELD)

    answer = shield.get("/a", f"Authorization: {HELD.authorization}")

    assert answer.status == 502
    assert "password" in document(answer)["detail"]
    assert answer.head.all("www-authenticate") == []


# --- what could be read in two ways


SMUGGLED = {
    "both lengths": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
    "two lengths": "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "a list of lengths": "Content-Length: 4, 4\r\n\r\nabcd",
    "a signed length": "Content-Length: +4\r\n\r\nabcd",
    "chunked, and then some": "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown coding": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded field": "X-One: 1\r\n Transfer-Encoding: chunked\r\n\r\n",
    "a bare line feed in a field": "X-One: 1\nX-Two: 2\rX-Three: 3\r\n\r\n",
    "a nul in a field": "X-One: a\0b\r\n\r\n",
    "another control in a field": "X-One: a\x01b\r\n\r\n",
}


@pytest.mark.parametrize("rest", SMUGGLED.values(), ids=SMUGGLED.keys())
def test_a_request_that_could_be_read_in_two_ways_goes_nowhere(rest: str, shielded: Start) -> None:
    upstream, shield = shielded(always())
    sock = shield.client.connect()

    sock.sendall(f"POST /a HTTP/1.1\r\nHost: localhost\r\n{rest}".encode("latin-1"))

    assert read_answer(sock).status == 400
    assert sock.recv(1) == b""
    assert upstream.asked == []
    shield.complaints.lines.clear()  # aiohttp tells of each


def test_no_field_that_connection_names_changes_how_a_body_is_framed(shielded: Start) -> None:
    upstream, shield = shielded(always())

    shield.ask(
        b"POST /a HTTP/1.1\r\nHost: localhost\r\nConnection: content-length, host\r\nContent-Length: 4\r\n\r\nabcd"
    )

    assert upstream.asked[0].all("content-length") == ["4"]
    assert upstream.asked[0].all("host") == [f"127.0.0.1:{upstream.port}"]


def test_requests_that_come_together_are_answered_in_their_order(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        while True:
            wire.answer(wire.request().target.encode())

    _, shield = shielded(serve)
    sock = shield.client.connect()

    sock.sendall(b"".join(shield.client.request(f"/{number}") for number in range(20)))

    received = b""
    while not received.endswith(b"/19"):
        received += sock.recv(65_536)
    assert [part.rpartition(b"\r\n")[2] for part in received.split(b"HTTP/1.1")[1:]] == [
        b"/%d" % number for number in range(20)
    ]


def test_a_shield_before_itself_does_not_ask_for_ever(shielded: Start) -> None:
    def serve(wire: Wire) -> None:
        asked = wire.request()
        with socket.create_connection(("127.0.0.1", shield.client.port)) as again:
            again.sendall(asked.raw + b"\r\n\r\n")
            wire.answer(read_answer(again).body, status="502 As It Said")

    upstream, shield = shielded(serve)

    answer = shield.get("/a")

    assert answer.status == 502
    assert answer.json["detail"] == "upstream is this very daemon"
    assert len(upstream.asked) == 1
