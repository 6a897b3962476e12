"""A browser's question whether it may ask (Fetch, "CORS-preflight fetch"): the one request that never shows a password.

Who lets it in without one and who passes it on without one must mean the same by it. Pure.
"""

from collections.abc import Mapping


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether a request is one. `headers` are looked up whatever their case."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
