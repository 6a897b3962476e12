"""The dashboard: one page without anything from elsewhere, which asks `/-/status` and `/-/subscribers` like anybody.

The page never changes, so its own script and style are known by their hashes (Content Security Policy Level 3,
section 2.3.1), and nothing else runs or is loaded, whatever a subscriber puts into the names that are shown.
"""

import base64
import hashlib
import re
from importlib.resources import files

from aiohttp import web

# What may stand between the tags is counted to the byte, the line breaks at both ends included.
INLINE = re.compile(rb"<(?P<tag>script|style)>(?P<text>.*?)</(?P=tag)>", re.DOTALL)


def policy(page: bytes) -> str:
    """Return the Content-Security-Policy under which `page` may do what it does, and nothing else."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for found in INLINE.finditer(page):
        digest = base64.b64encode(hashlib.sha256(found["text"]).digest()).decode()
        hashes[found["tag"].decode()].append(f"'sha256-{digest}'")
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(hashes['script'])}",
            f"style-src {' '.join(hashes['style'])}",
            "img-src data:",
            "connect-src 'self'",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


class Dashboard:
    """The handler. It reads the page once."""

    def __init__(self) -> None:
        self._page = files(__package__).joinpath("dashboard.html").read_bytes()
        self._headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy(self._page),
            "Cache-Control": "no-cache",
            "Referrer-Policy": "no-referrer",  # it may have been asked for with a password in its query
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer with the page."""
        return web.Response(body=self._page, headers=self._headers)
