"""A request to become a websocket (RFC 6455, section 4.2.1): the one GET that another one's page may not make.

Who judges where it comes from and who joins it with upstream's must mean the same by it. Pure.
"""

from collections.abc import Mapping


def is_websocket(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether a request wants to be one. `headers` are looked up whatever their case."""
    protocols = headers.get("Upgrade", "").lower().split(",")
    return method == "GET" and "websocket" in (each.strip() for each in protocols)
