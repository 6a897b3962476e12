"""A server with a password: the shield holds it, lets in who knows it, and nobody else."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import until
from tests.real.opencode import Opencode
from tests.real.sdk import Sdk
from tests.servers import Daemon

TARGETS = ("/global/event", "/event", "/global/health", "/session", "/", "/-/subscribers")


@pytest.fixture
def upstream(new_opencode: Callable[..., Opencode]) -> Opencode:
    return new_opencode(password="four words in a row")


@pytest.fixture
def password_file(upstream: Opencode, tmp_path: Path) -> Path:
    found = tmp_path / "password"
    found.touch(stat.S_IRUSR | stat.S_IWUSR)
    found.write_text(upstream.password + "\n")
    return found


def test_the_sdk_works_with_the_password_and_nobody_without(
    upstream: Opencode, password_file: Path, new_shield: Callable[..., Daemon], new_sdk: Callable[..., Sdk]
) -> None:
    shield = new_shield(upstream, is_ready=False, upstream_password_file=password_file)
    until(lambda: shield.client.send("GET", "/-/ready", None, **upstream.credentials).status == 200)
    sdk = new_sdk(shield.url, upstream.project, authorization=upstream.credentials["Authorization"])

    streams = [sdk.listen("global.event"), sdk.listen("event.subscribe")]
    session = sdk.create("behind a password")
    sdk.prompt(session, "say 5")

    for stream in streams:
        stream.until("session.idle", sessionID=session)
    for target in TARGETS:
        refused = shield.client.get(target)
        bare = upstream.client.get(target)
        assert refused.status == 401, target
        assert refused.head["WWW-Authenticate"] == bare.head["WWW-Authenticate"] or target.startswith("/-/")
        assert shield.client.send("GET", target, Authorization="Basic b3BlbmNvZGU6d3Jvbmc=").status == 401, target


def test_a_shield_that_does_not_know_the_password_serves_nobody(
    upstream: Opencode, new_shield: Callable[..., Daemon]
) -> None:
    shield = new_shield(upstream, is_ready=False)

    until(lambda: b"password" in shield.client.get("/-/ready").body)

    assert shield.client.get("/-/ready").status == 503
    for target in ("/global/event", "/event"):
        assert shield.client.get(target).status == 503
    assert shield.client.get("/session").status == 401
