"""Who may ask at all: Host, then Origin, then the password, for every request and before any handler.

Host keeps out web pages whose name was made to point here (DNS rebinding); Origin keeps out those that use their
reader's browser to change something, or to open a websocket, which no browser's own rules forbid; the password keeps
out everybody else. The first two hold without a password too: what is open to this machine is not meant for each page
that somebody on it looks at.
"""

import ipaddress
import re
from http import HTTPStatus

from aiohttp import hdrs, web
from yarl import URL

from opencode_events.credentials import Credentials
from opencode_events.errors import Forbidden
from opencode_events.web.cors import Cors

# What changes nothing (RFC 9110, section 9.2.1), and so may come from any page: it is CORS that keeps the answer.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Fetch Metadata: the page asks its own server, or it was the user (a bookmark, an address typed in).
OWN_SITES = frozenset({"same-origin", "none"})
# Where a load balancer asks, which has no password, and learns nothing but that somebody is there.
OPEN_PATHS = frozenset({"/-/healthy"})
# The authority that a target begins with, if it is none of our paths (RFC 9112, section 3.2). Who puts a user before it
# wants to be taken for another.
TARGET = re.compile(r"(?![/*])(?:[^/?#]*://)?(?P<authority>[^/?#]*)")
# What a browser sends as Origin (RFC 6454, section 6.2), of those that we could have.
PAGE = re.compile(r"https?://[^/?#@\s]+")
# What opencode's own server says, so that a client cannot tell who refuses it.
CHALLENGE = 'Basic realm="Secure Area"'


def parse_hosts(names: str) -> frozenset[str]:
    """Return the names of a comma-separated list, as `Access` wants them."""
    return frozenset(_plain(name) for name in names.split(",") if name.strip())


async def expect_later(request: web.Request) -> None:
    """Answer `Expect: 100-continue` with nothing yet: the handler asks for the body, once it knows what to do with it.

    aiohttp's own answer would ask those for it who are refused.
    """


class Access:
    """Judges requests. `allowed_hosts` are further names that Host may have, in lower case, without a port.

    `credentials` are what everybody has to show; None: nobody has to.
    """

    def __init__(self, credentials: Credentials | None, allowed_hosts: frozenset[str], cors: Cors) -> None:
        self._credentials = credentials
        self._allowed_hosts = allowed_hosts
        self._cors = cors

    def check(self, request: web.BaseRequest) -> web.Response | None:
        """Return None if the request may be served, else the answer that asks for a password.

        Raises Forbidden for a Host or an Origin that may not be.
        """
        authority = self._check_host(request)
        if request.method not in SAFE_METHODS or is_upgrade(request):
            self._check_origin(request, authority)
        # As it is written: decoded, "/-%2Fhealthy" is the same, but to the router a path of the server behind.
        if self._credentials is None or is_preflight(request) or request.rel_url.raw_path in OPEN_PATHS:
            return None
        token = request.query.get("auth_token")
        if self._credentials.matches(request.headers.get(hdrs.AUTHORIZATION), token):
            return None
        return web.Response(status=HTTPStatus.UNAUTHORIZED, headers={hdrs.WWW_AUTHENTICATE: CHALLENGE})

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
            ipaddress.ip_address(name.strip("[]"))
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
    name, colon, port = authority.rpartition(":")
    if not colon or port.endswith("]"):
        name, port = authority, ""
    if port and not (port.isascii() and port.isdigit()):
        return None
    is_bracketed = name.startswith("[") and name.endswith("]")
    if not name or (not is_bracketed and any(mark in name for mark in ":[]@/?#\\ \t")):
        return None
    return _plain(name) or None


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


def is_preflight(request: web.BaseRequest) -> bool:
    """Tell whether a browser asks if it may ask (Fetch, "CORS-preflight fetch"): it never shows a password."""
    headers = request.headers
    return (
        request.method == hdrs.METH_OPTIONS and hdrs.ORIGIN in headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in headers
    )


def is_upgrade(request: web.BaseRequest) -> bool:
    """Tell whether a request wants to become something else, such as a websocket."""
    return hdrs.UPGRADE in request.headers
