"""Who may ask at all, and for what: Host, then Origin, then the password or a token, for every request.

Host keeps out web pages whose name was made to point here (DNS rebinding); Origin keeps out those that use their
reader's browser to change something, or to open a websocket, which no browser's own rules forbid; the password keeps
out everybody else, and a token lets in for what it is meant for. The first two hold without a password too: what is
open to this machine is not meant for each page that somebody on it looks at.
"""

import ipaddress
import re
from http import HTTPStatus
from typing import Any, Literal

import structlog
from aiohttp import hdrs, web
from yarl import URL

from opencode_events.access_settings import listed
from opencode_events.credentials import Credentials
from opencode_events.errors import Forbidden
from opencode_events.preflight import is_preflight
from opencode_events.tokens import EVERYTHING, Scope, Token, Tokens
from opencode_events.upgrade import is_websocket
from opencode_events.web.connections import peer
from opencode_events.web.cors import Cors

log = structlog.get_logger()

# What changes nothing (RFC 9110, section 9.2.1), and so may come from any page: it is CORS that keeps the answer.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Fetch Metadata: the page asks its own server, or it was the user (a bookmark, an address typed in).
OWN_SITES = frozenset({"same-origin", "none"})
# What somebody must be allowed who asks for a path. `any`: whatever it is; `nothing`: that is where a load balancer
# asks, which has no password, and learns nothing but that somebody is there.
Need = Scope | Literal["any", "nothing"]
# What may stand in Host (RFC 9110, section 7.2), but for names that neither DNS nor containers have: what nobody is
# called by could be read as one name here, and as another elsewhere.
AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[\w.~-]+)?\]|[\w-]+(?:\.[\w-]+)*\.?)(?::[0-9]*)?", re.ASCII)
# The authority that a target begins with, if it is none of our paths (RFC 9112, section 3.2). Who puts a user before it
# wants to be taken for another.
TARGET = re.compile(r"(?![/*])(?:[^/?#]*://)?(?P<authority>[^/?#]*)")
# What a browser sends as Origin (RFC 6454, section 6.2), of those that we could have.
PAGE = re.compile(r"https?://[^/?#@\s]+")
# What opencode's own server says, so that a client cannot tell who refuses it; and RFC 6750, section 3.
BASIC = 'Basic realm="Secure Area"'
BEARER = 'Bearer realm="Secure Area"'
BEARER_SCHEME = "bearer "

# Where a request has what it may. Newer releases of aiohttp warn of a plain name, older ones know nothing else.
KEY: Any = web.RequestKey("grant", Token) if hasattr(web, "RequestKey") else "grant"


def granted(request: web.BaseRequest) -> Token:
    """Return what the asker may, of a request that was let in."""
    found: Token = request.get(KEY, EVERYTHING)
    return found


def parse_hosts(names: str) -> frozenset[str]:
    """Return the names of a comma-separated list, as `Access` wants them."""
    return frozenset(map(_plain, listed(names)))


async def expect_later(request: web.Request) -> None:
    """Answer `Expect: 100-continue` with nothing yet: the handler asks for the body, once it knows what to do with it.

    aiohttp's own answer would ask those for it who are refused.
    """


class Access:
    """Judges requests. `allowed_hosts` are further names that Host may have, in lower case, without a port.

    `credentials` are what everybody has to show, or else one of `tokens`; with None of both nobody has to.
    """

    def __init__(
        self, credentials: Credentials | None, allowed_hosts: frozenset[str], cors: Cors, tokens: Tokens | None = None
    ) -> None:
        self._credentials = credentials
        self._allowed_hosts = allowed_hosts
        self._cors = cors
        self._tokens = tokens

    def check(self, request: web.BaseRequest, need: Need = "any") -> web.Response | None:
        """Return None if the request may be served, else the answer that asks for a password.

        Raises Forbidden for a Host or an Origin that may not be, and for a token that is for something else.
        """
        authority = self._check_host(request)
        if request.method not in SAFE_METHODS or is_websocket(request.method, request.headers):
            self._check_origin(request, authority)
        is_open = self._credentials is None and self._tokens is None
        if is_open or need == "nothing" or is_preflight(request.method, request.headers):
            return None
        token = self._identify(request)
        if token is None:
            if hdrs.AUTHORIZATION in request.headers or "auth_token" in request.query:  # not who is yet to be asked
                log.warning("login.failed", peer=peer(request.transport))
            return self._challenge()
        if need != "any" and need not in token.scopes:
            raise Forbidden(f"the token {token.name} is not for this: it has no scope {need}", field="Authorization")
        request[KEY] = token
        return None

    def _identify(self, request: web.BaseRequest) -> Token | None:
        """Return what the request may by what it shows; None if that is nothing we know."""
        authorization, parameter = request.headers.get(hdrs.AUTHORIZATION), request.query.get("auth_token")
        if self._credentials is not None and self._credentials.matches(authorization, parameter):
            return EVERYTHING
        if self._tokens is None:
            return None
        shown = []
        if authorization is not None and authorization[: len(BEARER_SCHEME)].lower() == BEARER_SCHEME:
            shown.append(authorization[len(BEARER_SCHEME) :].strip(" "))
        if parameter is not None:  # an EventSource cannot send a header
            shown.append(parameter.replace(" ", "+"))  # a plus sign that was not encoded is a space in a query
        return self._tokens.find(shown)

    def _challenge(self) -> web.Response:
        response = web.Response(status=HTTPStatus.UNAUTHORIZED)
        if self._credentials is not None:
            response.headers.add(hdrs.WWW_AUTHENTICATE, BASIC)
        if self._tokens is not None:
            response.headers.add(hdrs.WWW_AUTHENTICATE, BEARER)
        return response

    def _check_host(self, request: web.BaseRequest) -> str:
        """Return by which name and port the client calls us; nothing if it is too old to say.

        RFC 9112, section 3.2.2: "When an origin server receives a request with an absolute-form of request-target,
        the origin server MUST ignore the received Host header field (if any) and instead use the host information of
        the request-target." Both have to be fine: a proxy before us may have looked at either.
        """
        named = request.headers.getall(hdrs.HOST, [])
        if len(named) > 1:
            raise Forbidden("there is more than one Host", field="Host")
        if match := TARGET.match(request.raw_path):
            named.append(match["authority"])
        for authority in named:
            if not self._may_be(authority):
                raise Forbidden(
                    f"{authority!r} is none of the names of this host; the setting allowed_hosts has further ones",
                    field="Host",
                )
        if not named and request.version >= (1, 1):
            raise Forbidden("Host is missing", field="Host")
        return named[-1] if named else ""

    def _may_be(self, authority: str) -> bool:
        """Tell whether we may be called so. Addresses always: whoever rebinds a name needs a name."""
        name = host_of(authority)
        if name is None:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self._allowed_hosts:
            return True
        try:
            ipaddress.IPv6Address(name[1:-1]) if name.startswith("[") else ipaddress.IPv4Address(name)
        except ValueError:
            return False
        return True

    def _check_origin(self, request: web.BaseRequest, authority: str) -> None:
        """Raise Forbidden if another one's page asks."""
        origins = request.headers.getall(hdrs.ORIGIN, [])
        if not origins:
            # No browser that has Fetch Metadata leaves Origin away here; if one ever does, it tells whose page it is.
            if request.headers.get("Sec-Fetch-Site", "none") not in OWN_SITES:
                raise Forbidden("another site's page may not ask for this", field="Sec-Fetch-Site")
            return
        scheme = request.scheme if request.secure else request.headers.get(hdrs.X_FORWARDED_PROTO, request.scheme)
        for origin in origins:
            if not self._cors.is_allowed(origin) and not is_same(origin, scheme, authority):
                raise Forbidden(
                    f"pages of {origin!r} may not ask for this; the setting cors_origins has those that may",
                    field="Origin",
                )


def _plain(name: str) -> str:
    return name.strip().lower().removesuffix(".")


def host_of(authority: str) -> str | None:
    """Return the host of `host[:port]` in lower case, IPv6 in its brackets; None if it is no such text."""
    found = AUTHORITY.fullmatch(authority)
    return _plain(found["host"]) if found else None


def is_same(origin: str, scheme: str, authority: str) -> bool:
    """Tell whether a page of `origin` came from the very place that it asks: scheme, host and port (RFC 6454).

    `scheme` is the client's: behind a proxy that ends TLS, what X-Forwarded-Proto says. No page can send that field to
    another origin without asking first.
    """
    if not PAGE.fullmatch(origin):
        return False
    try:
        page, here = URL(origin), URL(f"{scheme}://{authority}")
    except ValueError:
        return False
    return (page.scheme, page.raw_host, page.port) == (here.scheme, here.raw_host, here.port)
