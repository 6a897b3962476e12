"""The page at `/-/`: nothing in it comes from elsewhere, and nothing else than what is in it runs."""

import base64
import hashlib
import re

import pytest

from opencode_events.web.dashboard import policy
from tests.clients import Client

# Of what a page loads by itself, and of how a text becomes markup.
OUTSIDE = re.compile(r"""(?:src|href|action)\s*=\s*(?!["']?data:,)|url\(|@import|https?://|//[a-z]""")
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function")
HANDLER = re.compile(r"<[^>]*\son[a-z]+\s*=|<[^>]*\sstyle\s*=")


def test_it_is_one_page(client: Client) -> None:
    answer = client.get("/-/")

    assert (answer.status, answer.head["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.body.startswith(b"<!doctype html>\n")
    assert len(answer.body) < 32 * 1024


def test_nothing_in_it_comes_from_elsewhere(client: Client) -> None:
    text = client.get("/-/").body.decode()
    without_comments = re.sub(r"(?<!:)// .*", "", text)

    assert OUTSIDE.findall(without_comments) == []
    assert MARKUP.findall(text) == []
    assert HANDLER.findall(text) == []


def test_only_its_own_script_and_style_run(client: Client) -> None:
    answer = client.get("/-/")
    rules = dict(rule.split(" ", 1) for rule in answer.head["Content-Security-Policy"].split("; "))

    for tag in ("script", "style"):
        (inline,) = re.findall(rb"<%s>(.*?)</%s>" % (tag.encode(), tag.encode()), answer.body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline).digest()).decode()
        assert rules.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }


def test_each_inline_text_has_a_hash_of_its_own() -> None:
    assert policy(b"<script>a</script><script>b</script>").count("'sha256-") == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("Referrer-Policy", "no-referrer"), ("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"),
     ("Cross-Origin-Opener-Policy", "same-origin"), ("Cross-Origin-Resource-Policy", "same-origin")],
)  # fmt: skip
def test_it_says_what_browsers_may_do_with_it(client: Client, name: str, value: str) -> None:
    assert client.get("/-/").head[name] == value


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_can_only_be_read(client: Client, method: str) -> None:
    answer = client.send(method, "/-/")

    assert answer.status == 405
    assert "GET" in answer.head["Allow"]
