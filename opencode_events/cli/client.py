"""What the commands that talk to a daemon have in common: finding it, a session with it, and its refusals in words."""

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp

from opencode_events import __version__, credentials, statedir
from opencode_events.cli.exits import Exit
from opencode_events.cli.options import only
from opencode_events.errors import DaemonError, OpencodeEventsError

DEFAULT_URL = "http://127.0.0.1:4097"
CONNECT_S = 10.0
ANSWER_S = 10.0
CERTIFICATE_VARIABLE = "OPENCODE_EVENTS_TLS_CERT"  # the daemon's own setting
TOKEN_VARIABLE = "OPENCODE_EVENTS_TOKEN"  # not an option: what stands in a command line is seen by everybody
COUNTS = ("accepted", "duplicates", "skipped")


class Refused(OpencodeEventsError):
    """The daemon answered, and the answer is no. The sentence is the problem document's."""


def find_url(url: str | None, config: Path | None, state_dir: str | None) -> str | None:
    """Return the daemon's URL without a slash at its end: the one given, else that of the state directory's daemon.

    None when no URL was given and no daemon runs there.
    """
    if url is None:
        info = statedir.read(only(("state_dir",), config, {"state_dir": state_dir}).server.state_dir)
        if info is None:
            return None
        url = info.url
    return url.rstrip("/")


def running_url(url: str | None, config: Path | None, state_dir: str | None) -> str:
    """Return the same. Raises DaemonError where `find_url` has None."""
    found = find_url(url, config, state_dir)
    if found is None:
        raise DaemonError("not running", exit_code=Exit.NOT_RUNNING)
    return found


def session() -> aiohttp.ClientSession:
    """Return a session without a deadline for the whole of a request: streams have none.

    Over HTTPS it trusts what the system trusts, and the certificate that the environment names for the daemon itself.
    The password is the one that the daemon is given, too; a token wins over it. Raises SettingError when it cannot be
    read.
    """
    held = credentials.load(only(("upstream_username", "upstream_password_file"), None, {}).relay, os.environ)
    shown = {} if held is None else {"Authorization": held.authorization}
    if token := os.environ.get(TOKEN_VARIABLE):
        shown = {"Authorization": f"Bearer {token}"}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust(os.environ.get(CERTIFICATE_VARIABLE))),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        headers={"User-Agent": f"opencode-events/{__version__}", "Accept-Encoding": "identity", **shown},
    )


def trust(certificate: str | None) -> ssl.SSLContext:
    """Return what to check a daemon's certificate with.

    Whoever names the daemon's own certificate speaks to that daemon, by whatever name or address. Raises DaemonError
    when it cannot be read.
    """
    context = ssl.create_default_context()
    if certificate:
        try:
            context.load_verify_locations(certificate)
        except (OSError, ssl.SSLError) as error:
            raise DaemonError(f"{CERTIFICATE_VARIABLE}: {certificate} cannot be used: {error}") from error
        context.check_hostname = False
    return context


def unreachable(url: str, error: Exception) -> DaemonError:
    """Return the error for a URL where nobody answers."""
    reason = "not a URL" if isinstance(error, aiohttp.InvalidURL) else str(error) or type(error).__name__
    return DaemonError(f"{url} cannot be reached: {reason}", exit_code=Exit.NOT_RUNNING)


async def ask(url: str, path: str, method: str = "GET") -> str:
    """Return the text of an answer, which is a JSON object. Raises DaemonError or Refused."""
    try:
        async with asyncio.timeout(ANSWER_S), session() as asking, asking.request(method, url + path) as response:
            if response.status != 200:
                raise await refusal(response)
            text = await response.text(errors="replace")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise unreachable(url, error) from error
    try:
        is_object = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        is_object = False
    if not is_object:
        raise Refused(f"{url}{path} is not a daemon's answer")
    return text.strip()


async def refusal(response: aiohttp.ClientResponse, source_line: Callable[[int], int] = int) -> Refused:
    """Return the error that an answer which is not the expected one stands for.

    `source_line` turns the line that the daemon counted into the line of the file it came from.
    """
    try:
        text = await response.text(errors="replace")
    except aiohttp.ClientError:
        text = ""
    return Refused(describe(response.status, response.reason or "", text, source_line))


def describe(status: int, phrase: str, text: str, source_line: Callable[[int], int] = int) -> str:
    """Say in one line what a refusal's body says: where, what, and what was done before it."""
    try:
        problem = json.loads(text)
    except (ValueError, RecursionError):
        problem = None
    if not isinstance(problem, dict) or not isinstance(detail := problem.get("detail"), str):
        return f"HTTP {status} {phrase}".rstrip()
    where = []
    if isinstance(line := problem.get("line"), int):
        where.append(f"line {source_line(line)}")
    if isinstance(index := problem.get("index"), int):
        where.append(f"item {index}")
    if isinstance(field := problem.get("field"), str):
        where.append(field)
    counts = ", ".join(f"{problem[name]} {name}" for name in COUNTS if isinstance(problem.get(name), int))
    return ": ".join([*where, detail]) + (f" (before that: {counts})" if counts else "")
