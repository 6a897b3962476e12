"""JSON as text: changes to a document that leave every byte that was not asked for as it is.

Subscribers get the bytes that were published, so nothing here decodes and encodes again. Follows RFC 8259. Every
function but `without_lone_surrogates` expects text that a decoder has accepted already.
"""

import json
import re
from typing import NamedTuple

import msgspec

# One token of valid JSON at a time: a whole string, a bracket, a separator, or a run of anything else.
TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:,]|[^"{}\[\]:,\s]+', re.DOTALL)
SPACE_OR_STRING = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")|[ \t\r\n]+', re.DOTALL)
# An escaped surrogate pair, a lone surrogate's escape, or any other escape; in this order, so that a pair is one match.
ESCAPE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)


class Member(NamedTuple):
    """Where one member of the outermost object stands: from its key's first byte to its value's end."""

    start: int
    value: int
    end: int


def one_line(text: bytes) -> bytes:
    """Return `text` without the white space between its tokens, if it has line breaks; else as it is.

    A string of valid JSON holds no raw line break, so one that is there is white space.
    """
    if b"\n" not in text and b"\r" not in text:
        return text
    return SPACE_OR_STRING.sub(lambda match: match[1] or b"", text)


def without_lone_surrogates(text: bytes) -> bytes:
    r"""Return `text` with each escape of half a surrogate pair (`\ud800`) replaced by `\ufffd`.

    The result has the same length, so that positions found in it hold in `text`. RFC 8259, section 8.2 allows such
    escapes and calls what becomes of them unpredictable; msgspec refuses them, browsers and the standard library
    take them.
    """
    return ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], text)


def members(text: bytes) -> list[tuple[str, Member]]:
    """Return the members of the outermost object of `text` with their keys, in the order they are written in."""
    found: list[tuple[str, Member]] = []
    depth, key, start, value, end = 0, b"", -1, -1, -1
    for match in TOKEN.finditer(text):
        token = match[0]
        if depth == 1 and token in (b",", b"}"):
            if start >= 0:
                found.append((json.loads(key), Member(start, value, end)))
            start = value = -1
        elif depth == 1 and start < 0:
            key, start = token, match.start()
        elif depth == 1 and value < 0 and token != b":":
            value = match.start()
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        end = match.end()
    return found


def member(text: bytes, name: str) -> Member:
    """Return a member that is there; of several with one name, a decoder takes the last."""
    return [at for key, at in members(text) if key == name][-1]


def without_member(text: bytes, key: str) -> bytes:
    """Return the outermost object of `text` without its members called `key`.

    At once where the only one is the last, and its value a plain string: as cursors stand in a recording.
    """
    name = b'"%b"' % key.encode()
    at = text.rfind(b',%b:"' % name)
    if at > 0 and text.count(name) == 1 and text.find(b'"', at + len(name) + 3) == len(text) - 2:
        return text[:at] + b"}"
    return b"{" + b",".join(text[at.start : at.end] for name, at in members(text) if name != key) + b"}"


def with_last_member(text: bytes, key: str, value: str) -> bytes:
    """Return the object `text`, which ends in its brace, with one more member appended last."""
    body = text[:-1].rstrip(b" \t")
    comma = b"" if body.endswith(b"{") else b","
    return b"%b%b%b:%b}" % (body, comma, msgspec.json.encode(key), msgspec.json.encode(value))
