"""Which daemon a command talks to, and a refusal in one line."""

import asyncio
import json
import re
import ssl
import subprocess
from pathlib import Path

import pytest

from opencode_events.cli import client
from opencode_events.cli.exits import Exit
from opencode_events.errors import DaemonError, SettingError
from opencode_events.statedir import StateDir
from tests.cli.fakedaemon import Answer, FakeDaemon

# Of `localhost`, signed by itself, with its key, good for a hundred years: for tests alone.
CERTIFICATE = Path(__file__).parent.parent / "data" / "localhost.pem"


def test_a_url_that_was_given_is_taken_without_its_slash() -> None:
    assert client.find_url("http://127.0.0.1:5/", None, None) == "http://127.0.0.1:5"


def test_else_the_daemon_of_the_state_directory_is_asked(state_dir: Path) -> None:
    with StateDir(state_dir) as state:
        state.announce("http://127.0.0.1:6", "1")

        assert client.find_url(None, None, None) == "http://127.0.0.1:6"
        assert client.find_url(None, None, str(state_dir / "other")) is None


def test_without_a_daemon_there_is_no_url(state_dir: Path) -> None:
    assert client.find_url(None, None, None) is None
    assert not state_dir.exists(), "looking makes no directory"


def test_the_file_may_name_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, state_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENCODE_EVENTS_STATE_DIR")
    config = tmp_path / "c.toml"
    config.write_text(f"state_dir = {json.dumps(str(state_dir))}\nport = 'spoiled'\n")
    with StateDir(state_dir) as state:
        state.announce("http://127.0.0.1:6", "1")

        assert client.find_url(None, config, None) == "http://127.0.0.1:6"


def test_a_bad_state_directory_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match=r"state_dir \(--state-dir\)"):
        client.find_url(None, None, "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "127.0.0.1:4097",
        "ftp://h",
        "http://a b",
        "http://h:99999",
        "http://h:",
        "http://u:p@h",
        "http://h/?x",
    ],
)
def test_a_url_that_is_none_is_a_setting_error(url: str) -> None:
    with pytest.raises(SettingError, match=r"^url: must be the URL of a server") as caught:
        client.find_url(url, None, None)

    assert repr(url) in str(caught.value)


def test_a_url_may_have_a_path_for_a_proxy_may() -> None:
    assert client.find_url("https://example.org/events/", None, None) == "https://example.org/events"


# --- what is shown


def test_a_token_wins_over_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", "four words")
    assert client.authorization() == "Basic b3BlbmNvZGU6Zm91ciB3b3Jkcw=="

    monkeypatch.setenv("OPENCODE_EVENTS_TOKEN", "a-token")
    assert client.authorization() == "Bearer a-token"


@pytest.mark.parametrize("token", ["a\nb", "b\u00fccher"])
def test_a_token_that_no_header_can_have_is_named_and_not_told(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("OPENCODE_EVENTS_TOKEN", token)

    with pytest.raises(DaemonError, match=r"^OPENCODE_EVENTS_TOKEN: is no token") as caught:
        client.authorization()

    assert token not in str(caught.value)
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("", "it wants a password, OPENCODE_SERVER_PASSWORD, or a token, OPENCODE_EVENTS_TOKEN, in the environment"),
        ("wrong", "it wants another password or token than the one in the environment"),
    ],
    ids=["none was shown", "a wrong one was"],
)
async def test_a_401_says_what_is_wanted(monkeypatch: pytest.MonkeyPatch, password: str, says: str) -> None:
    monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", password)
    with FakeDaemon(Answer(status=401, kind="text/plain")) as daemon, pytest.raises(client.Refused) as caught:
        await client.ask(daemon.url, "/-/status")

    assert str(caught.value) == f"HTTP 401 Unauthorized: {says}"


# --- what becomes of it


@pytest.mark.parametrize(
    ("url", "why"),
    [("http://127.0.0.1:1", "Connection refused"), ("http://[::1]:1", "")],
    ids=["IPv4", "IPv6, if there is any"],
)
async def test_nobody_there_is_told_as_the_system_says_it(url: str, why: str) -> None:
    with pytest.raises(DaemonError) as caught:
        await client.ask(url, "/-/status")

    assert str(caught.value).startswith(f"{url} cannot be reached: {why}")
    assert "ssl" not in str(caught.value)
    assert caught.value.exit_code == Exit.NOT_RUNNING


async def test_a_name_that_nobody_has_is_told_as_the_resolver_says_it() -> None:
    with pytest.raises(DaemonError, match=r"^http://nobody\.invalid cannot be reached: [A-Z]") as caught:
        await client.ask("http://nobody.invalid", "/-/status")

    assert "Unknown error" not in str(caught.value)
    assert "Cannot connect" not in str(caught.value)


async def test_https_where_there_is_none_is_told_as_that() -> None:
    with FakeDaemon() as daemon, pytest.raises(DaemonError, match="SSL"):
        await client.ask(daemon.url.replace("http:", "https:"), "/-/status")


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"detail": "too large"}, "too large"),
        ({"detail": "Expected `str`", "line": 17, "field": "payload.type"}, "line 17: payload.type: Expected `str`"),
        ({"detail": "bad", "index": 0, "field": "type"}, "item 0: type: bad"),
        ({"detail": "sync must be one of all, none", "field": "sync"}, "sync must be one of all, none"),
        (
            {"detail": "bad", "line": 2, "accepted": 1, "duplicates": 0, "skipped": 3, "first": "a", "last": "a"},
            "line 2: bad (before that: 1 accepted, 0 duplicates, 3 skipped)",
        ),
        ({"detail": 1}, "HTTP 400 Bad Request"),
        ([], "HTTP 400 Bad Request"),
    ],
    ids=["detail", "line and field", "item", "named already", "counts", "wrong type", "no object"],
)
def test_a_problem_is_told_in_one_line(document: object, says: str) -> None:
    assert client.describe(400, "Bad Request", json.dumps(document)) == says


@pytest.mark.parametrize("text", ["", "<html>", "[" * 100_000], ids=["empty", "html", "deep"])
def test_an_answer_without_a_problem_is_told_by_its_status(text: str) -> None:
    assert client.describe(502, "Bad Gateway", text) == "HTTP 502 Bad Gateway"


def test_a_line_is_turned_into_the_files() -> None:
    assert client.describe(400, "", '{"detail":"x","line":2}', lambda line: line * 10) == "line 20: x"


# --- HTTPS


def test_whoever_names_a_certificate_trusts_it_by_any_name() -> None:
    usual, named = client.trust(None), client.trust(str(CERTIFICATE))

    assert (usual.check_hostname, usual.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (named.check_hostname, named.verify_mode) == (False, ssl.CERT_REQUIRED)


def certify(directory: Path, name: str, *, by: str = "") -> Path:
    """Make a certificate, certified `by` another one or itself; return a PEM file of it, its key and its authority."""
    key, certificate, chain = (directory / f"{name}.{kind}" for kind in ("key", "crt", "pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", f"/CN={name}", "-days", "1", "-keyout", str(key), "-out", str(certificate)]
    if by:
        authority = ["-CA", str(directory / f"{by}.crt"), "-CAkey", str(directory / f"{by}.key")]
        command += [*authority, "-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(command, check=True, capture_output=True)
    parts = [certificate, key, *([directory / f"{by}.crt"] if by else [])]
    chain.write_text("".join(part.read_text() for part in parts))
    return chain


def is_trusted(context: ssl.SSLContext, chain: Path) -> bool:
    """Ask whether a client would speak to a server that has these."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(chain)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = context.wrap_bio(back, there, server_hostname="elsewhere")
    server_side = serving.wrap_bio(there, back, server_side=True)
    for side in (client_side, server_side, client_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_of_a_named_certificate_s_authority_no_other_is_trusted(tmp_path: Path) -> None:
    certify(tmp_path, "authority")
    own, other = (certify(tmp_path, name, by="authority") for name in ("own", "other"))

    own.write_bytes("subject=CN = Zürich\n".encode() + own.read_bytes())
    named = client.trust(str(own))

    assert is_trusted(named, own)
    assert not is_trusted(named, other)
    assert is_trusted(client.trust(str(CERTIFICATE)), CERTIFICATE)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")

    with pytest.raises(DaemonError, match=r"OPENCODE_EVENTS_TLS_CERT: .*none\.pem cannot be used"):
        client.trust(str(tmp_path / "none.pem"))


def test_a_certificate_that_is_not_there_is_told_as_the_system_says_it() -> None:
    with pytest.raises(DaemonError, match=r"TLS_CERT: /none cannot be used: No such file or directory$"):
        client.trust("/none")


async def test_a_certificate_that_nobody_vouches_for_is_told_with_what_to_do() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(DaemonError) as caught:
            await client.ask(url, "/-/status")

    why = re.escape(f"{url} cannot be reached: its certificate is not trusted (")
    assert re.fullmatch(rf"{why}[^()]+\), unless OPENCODE_EVENTS_TLS_CERT names it", str(caught.value))
