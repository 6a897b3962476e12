"""What opens a daemon, and that one which nothing protects stays on its machine."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from opencode_events import keys
from opencode_events.access_settings import AccessSettings
from opencode_events.cli.main import main
from opencode_events.credentials import Credentials
from opencode_events.errors import DaemonError, SettingError
from opencode_events.keys import Keys, is_loopback
from opencode_events.settings import RelaySettings, ServerSettings, Settings
from tests.clients import until
from tests.servers import Daemon

CERTIFICATE = Path(__file__).parent / "data/localhost.pem"
SECRET = "tok-" + "5" * 32
TABLE = f'[one]\ntoken = "{SECRET}"\nscopes = ["subscribe", "operate"]\n'
NOTHING = Keys(credentials=None, tokens=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.touch(mode=0o600)
    path.write_text(TABLE)
    return path


def chosen(file: Path | str = "", host: str = "127.0.0.1") -> Settings:
    return Settings(server=ServerSettings(host=host), access=AccessSettings(tokens_file=str(file)))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", False),
        ("::", False), ("10.0.0.1", False), ("fe80::1%lo", False), ("::ffff:10.0.0.1", False), ("/run/x", False),
        ("", False),
    ],
)  # fmt: skip
def test_which_addresses_only_this_machine_can_come_to(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_what_nothing_protects_stays_on_its_machine() -> None:
    NOTHING.refuse_strangers(["127.0.0.1", "::1"])

    with pytest.raises(SettingError) as refusal:
        NOTHING.refuse_strangers(["127.0.0.1", "0.0.0.0"])

    assert str(refusal.value) == (
        "host: 0.0.0.0 can be reached from other machines, and nobody would have to show a password: "
        "set OPENCODE_SERVER_PASSWORD or tokens_file, or listen on 127.0.0.1"
    )


def test_with_a_password_or_tokens_it_may_listen_anywhere(file: Path) -> None:
    keys.load(chosen(), {"OPENCODE_SERVER_PASSWORD": "x"}).refuse_strangers(["0.0.0.0"])
    keys.load(chosen(file), {}).refuse_strangers(["0.0.0.0"])
    keys.check(chosen(file, "0.0.0.0,::1"), {})
    with pytest.raises(SettingError, match="can be reached"):
        keys.check(chosen(host="0.0.0.0,::1"), {"OPENCODE_SERVER_PASSWORD": ""})


@pytest.mark.parametrize("key", ["", "absent.pem", "other.pem"], ids=["not in the file", "absent", "another one's"])
def test_a_certificate_that_cannot_be_used_is_told_before_a_start_and_a_reload(tmp_path: Path, key: str) -> None:
    (tmp_path / "cert.pem").write_text(re.sub(r"-----BEGIN [A-Z ]*KEY.*", "", CERTIFICATE.read_text(), flags=re.DOTALL))
    other = subprocess.run(["openssl", "genrsa", "2048"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "other.pem").write_text(other)
    server = ServerSettings(tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / key) if key else "")

    with pytest.raises(DaemonError, match=r"tls_cert, tls_key: .*cert\.pem.* cannot be used"):
        keys.check(Settings(server=server), {})

    keys.check(Settings(server=ServerSettings(tls_cert=str(CERTIFICATE))), {})


def test_a_reload_puts_new_tokens_in_force_and_tells_whose_are_gone(file: Path) -> None:
    held, revoked = keys.load(chosen(file), {}), list[frozenset[str]]()
    file.write_text(TABLE.replace("one", "two"))

    commit = held.prepare_tokens(chosen(file), revoked.append)

    assert held.tokens is not None
    assert commit is not None
    assert [token.name for token in [held.tokens.find([SECRET])] if token] == ["one"]
    commit()
    assert [token.name for token in [held.tokens.find([SECRET])] if token] == ["two"]
    assert revoked == [{"one"}]


def test_a_reload_of_a_file_that_cannot_be_used_is_refused(file: Path) -> None:
    held = keys.load(chosen(file), {})
    file.write_text("")

    with pytest.raises(SettingError, match="has no token"):
        held.prepare_tokens(chosen(file), lambda names: None)


def test_whether_there_are_tokens_at_all_is_not_for_a_reload(file: Path) -> None:
    assert keys.load(chosen(file), {}).prepare_tokens(chosen(), lambda names: None) is None
    assert NOTHING.prepare_tokens(chosen(file), lambda names: None) is None
    assert NOTHING.prepare_tokens(chosen(), lambda names: None) is not None


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.touch(mode=0o600)
    path.write_text("old\n")
    return path


def with_password(path: Path) -> Settings:
    return Settings(relay=RelaySettings(upstream_password_file=str(path)))


def test_a_reload_puts_a_new_password_in_force_and_tells_whose_is_gone(password_file: Path) -> None:
    settings = with_password(password_file)
    held, revoked = keys.load(settings, {}), list[frozenset[str]]()
    assert held.credentials is not None
    shown = Credentials("opencode", "old").authorization, Credentials("opencode", "new").authorization
    password_file.write_text("new\n")

    commit = held.prepare_password(revoked.append)

    assert [held.credentials.matches(one, None) for one in shown] == [True, False]
    commit()
    assert [held.credentials.matches(one, None) for one in shown] == [False, True]
    held.prepare_password(revoked.append)()
    assert revoked == [{""}]


def test_a_reload_that_finds_no_password_is_refused(password_file: Path) -> None:
    held = keys.load(with_password(password_file), {})
    password_file.unlink()

    with pytest.raises(SettingError, match="cannot be read"):
        held.prepare_password(lambda names: None)


def test_a_password_out_of_a_pipe_stays_for_a_pipe_gives_it_once() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"secret")
    os.close(writer)
    try:
        held = keys.load(with_password(Path(f"/dev/fd/{reader}")), {})
        held.prepare_password(lambda names: pytest.fail("it is the same"))()
    finally:
        os.close(reader)

    assert held.credentials == Credentials("opencode", "secret")


# --- a whole daemon


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_a_command_says_what_to_do_instead(command: str, tmp_path: Path) -> None:
    result = CliRunner(env={"OPENCODE_SERVER_PASSWORD": ""}).invoke(
        main, [command, "--host", "0.0.0.0", "--port", "0", "--state-dir", str(tmp_path / "state")]
    )

    assert result.exit_code == 2
    assert "set OPENCODE_SERVER_PASSWORD or tokens_file, or listen on 127.0.0.1" in result.output


def test_without_an_upstream_the_password_is_the_daemon_s_own(
    start_daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENCODE_SERVER_PASSWORD", "s3cret")
    held = Credentials("opencode", "s3cret")

    client = start_daemon(host="0.0.0.0").client

    assert client.get("/-/healthy").status == 200
    assert client.get("/-/status").status == 401
    assert client.get("/-/status?auth_token=eDp5").status == 401
    assert client.get(f"/-/status?auth_token={held.auth_token}").status == 200
    assert client.send("GET", "/-/status", Authorization=held.authorization).status == 200
    client.subscribe(f"/global/event?auth_token={held.auth_token}")


def test_a_token_is_in_no_line_no_answer_and_no_command_and_the_commands_can_show_it(
    start_daemon: Callable[..., Daemon], file: Path
) -> None:
    daemon = start_daemon(tokens_file=file)
    daemon.client.subscribe(f"/global/event?auth_token={SECRET}")
    daemon.client.get(f"/nowhere?auth_token={SECRET}")
    daemon.client.connect().sendall(f"GET /?auth_token={SECRET} HTP/1.1\r\nAuthorization: Bearer {SECRET}".encode())

    runner = CliRunner(env={"OPENCODE_EVENTS_TOKEN": SECRET})
    shown = runner.invoke(main, ["status", "--json", "--url", daemon.url])
    refused = CliRunner().invoke(main, ["status", "--json", "--url", daemon.url])

    assert (shown.exit_code, refused.exit_code) == (0, 1)
    assert SECRET not in shown.output
    assert SECRET not in repr(daemon.lines()) + daemon.errors()
    assert SECRET not in Path(f"/proc/{daemon.pid}/cmdline").read_text()


def test_a_hang_up_has_the_file_read_again(start_daemon: Callable[..., Daemon], file: Path) -> None:
    daemon = start_daemon(tokens_file=file)
    stream = daemon.client.subscribe("/global/event", f"Authorization: Bearer {SECRET}")
    file.write_text(TABLE.replace(SECRET, SECRET + "x"))

    daemon.signal(signal.SIGHUP)

    assert stream.rest()[-1].properties["reason"] == "operator"
    until(lambda: any(line["event"] == "daemon.reloaded" for line in daemon.lines()))
    assert daemon.client.send("GET", "/-/status", Authorization=f"Bearer {SECRET}").status == 401
    assert daemon.client.send("GET", "/-/status", Authorization=f"Bearer {SECRET}x").status == 200
    os.truncate(file, 0)
    daemon.signal(signal.SIGHUP)
    until(lambda: any(line["event"] == "daemon.reload_failed" for line in daemon.lines()))
    assert daemon.client.send("GET", "/-/status", Authorization=f"Bearer {SECRET}x").status == 200


def test_a_hang_up_has_the_password_read_again(start_daemon: Callable[..., Daemon], password_file: Path) -> None:
    daemon = start_daemon(upstream_password_file=password_file)
    client, old, new = daemon.client, Credentials("opencode", "old"), Credentials("opencode", "new")
    stream = client.subscribe("/global/event", f"Authorization: {old.authorization}")
    password_file.write_text("new\n")

    daemon.signal(signal.SIGHUP)

    assert stream.rest()[-1].properties["reason"] == "operator"
    assert client.send("GET", "/-/status", Authorization=old.authorization).status == 401
    assert client.send("GET", "/-/status", Authorization=new.authorization).status == 200
    password_file.unlink()
    daemon.signal(signal.SIGHUP)
    until(lambda: any(line["event"] == "daemon.reload_failed" for line in daemon.lines()))
    assert client.send("GET", "/-/status", Authorization=new.authorization).status == 200
