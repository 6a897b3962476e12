"""A browser's question whether it may ask (Fetch, "CORS-preflight fetch"): the one request that never shows a password.

Who lets it in without one and who passes it on without one must mean the same by it. Pure.
"""

from collections.abc import Mapping


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether a request is one. `headers` are looked up whatever their case.

    No browser gives it a body. One with a body could take the server behind, and a place before it, for as long as
    its sender likes, who need not know the password.
    """
    has_body = "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"
    asks = "Origin" in headers and "Access-Control-Request-Method" in headers
    return method == "OPTIONS" and asks and not has_body
