"""What of a message's head goes on to the next hop, in both directions.

Follows RFC 9110, section 7.6 ("Message Forwarding") and RFC 9112, section 3.2 (the request's target). Knows heads
only, as lists of fields in octets; the framing of bodies is made anew on each side and is aiohttp's.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote_plus

from multidict import CIMultiDict

from opencode_events.errors import RequestError

Fields = Iterable[tuple[bytes, bytes]]

# RFC 9110, section 7.6.1, and what older proxies made of it.
HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
# The shield's own answer, or made anew for the other side.
OURS_IN_REQUESTS = frozenset({"host", "expect"})
# The handshake of a websocket is one hop's.
WEBSOCKET_FIELDS = (
    "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
)  # fmt: skip
# RFC 9110, section 5.5: of controls a value may have the tab only. The others could end a field, or a head.
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
ABSOLUTE_FORM = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
AUTH_TOKEN = "auth_token"  # the name of a parameter


def end_to_end(fields: Fields) -> list[tuple[str, str]]:
    """Return the fields that are meant for whoever is at the end, in order, and as often as they are there.

    Leaves out those that are one hop's, and those that Connection names as such. Raises ValueError, naming the field,
    for a value that has a control character.
    """
    decoded = [(name.decode("latin-1"), _text(value)) for name, value in fields]
    dropped = set(HOP_BY_HOP)
    for name, value in decoded:
        if name.lower() == "connection":
            dropped.update(option.strip().lower() for option in value.split(","))
    kept = [(name, value) for name, value in decoded if name.lower() not in dropped]
    for name, value in kept:
        if CONTROLS.search(value):
            raise ValueError(name)
    return kept


def request_fields(
    fields: Fields,
    *,
    authority: str,
    authorization: str | None,
    peer: str,
    scheme: str,
    via: str,
    is_for_us: bool = False,
) -> CIMultiDict[str]:
    """Return the fields of the request to upstream, which is `authority`.

    `authorization` replaces the client's; None leaves that, unless `is_for_us`: what clients show is the shield's
    alone, and is left out, of the page's address in Referer too. `peer` is the client's address, `scheme` how it came,
    `via` what the shield calls itself. What a proxy before us has said of the client stays: it knows better.
    """
    known = list(fields)
    kept = CIMultiDict([("Host", authority)])
    spelled: dict[str, str] = {}
    for name, text in end_to_end(known):
        if name.lower() not in OURS_IN_REQUESTS:
            kept.add(spelled.setdefault(name.lower(), name), text)  # aiohttp's client takes two spellings for two names
    called = None
    for octets, value in known:
        if octets.lower() == b"host":
            called = _text(value)
    if authorization is not None or is_for_us:
        kept.popall("Authorization", None)
        if referers := kept.popall("Referer", []):
            kept["Referer"] = without_auth_token(referers[0])
    if authorization is not None:
        kept["Authorization"] = authorization
    _append(kept, "Via", f"1.1 {via}")
    _append(kept, "X-Forwarded-For", peer)
    kept.setdefault("X-Forwarded-Proto", scheme)
    if called and not CONTROLS.search(called):
        kept.setdefault("X-Forwarded-Host", called)
    return kept


def response_fields(fields: Fields) -> CIMultiDict[str]:
    """Return the fields of the answer to the client.

    RFC 9112, section 6.3: with both Transfer-Encoding and Content-Length, "the Transfer-Encoding overrides the
    Content-Length", which must not go on. No Via: a gateway need not, and the answer stays upstream's own.
    """
    known = list(fields)
    kept = CIMultiDict(end_to_end(known))
    if any(name.lower() == b"transfer-encoding" for name, _ in known):
        kept.popall("Content-Length", None)
    return kept


def origin_form(target: str) -> str:
    """Return the path and the query that a request's target asks for, to the octet.

    RFC 9112, section 3.2.2: a target may be absolute; whose it is has been judged before. Raises RequestError for one
    that has no path (CONNECT's), or octets that are no text.
    """
    if match := ABSOLUTE_FORM.match(target):
        target = target[match.end() :]
        if not target.startswith("/"):
            target = "/" + target  # section 3.2.1: an empty path is sent as "/"
    if not target.startswith("/") and target != "*":
        raise RequestError(f"{target!r} is no path")
    try:
        target.encode()
    except UnicodeEncodeError:  # aiohttp reads octets that are no UTF-8 as lone surrogates
        raise RequestError("the path or the query has octets that are no UTF-8: percent-encode them") from None
    return target


def without_auth_token(target: str) -> str:
    """Return a target without the password that its query may have; all else stays as it is, to the octet."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    parts = query.split("&")
    kept = [part for part in parts if unquote_plus(part.partition("=")[0]) != AUTH_TOKEN]
    if len(kept) == len(parts):
        return target
    return f"{path}?{'&'.join(kept)}" if kept else path


def _append(fields: CIMultiDict[str], name: str, value: str) -> None:
    """Add to the end of a list that hops share."""
    fields[name] = ", ".join([*fields.popall(name, []), value])


def _text(value: bytes) -> str:
    """Return a value as text. One that is no UTF-8 is ISO-8859-1, as RFC 9110, section 5.5, has it of old."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
