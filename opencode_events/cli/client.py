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
from opencode_events.declared import check_url
from opencode_events.errors import DaemonError, OpencodeEventsError

DEFAULT_URL = "http://127.0.0.1:4097"
CONNECT_S = 10.0
ANSWER_S = 10.0
CERTIFICATE_VARIABLE = "OPENCODE_EVENTS_TLS_CERT"  # the daemon's own setting
PEM_BEGIN, PEM_END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
TOKEN_VARIABLE = "OPENCODE_EVENTS_TOKEN"  # not an option: what stands in a command line is seen by everybody
UNASKED = f"it wants a password, {credentials.PASSWORD_ENV}, or a token, {TOKEN_VARIABLE}, in the environment"
UNKNOWN = "it wants another password or token than the one in the environment"
COUNTS = ("accepted", "duplicates", "skipped")


class Refused(OpencodeEventsError):
    """The daemon answered, and the answer is no. The sentence is the problem document's."""


def find_url(url: str | None, config: Path | None, state_dir: str | None) -> str | None:
    """Return the daemon's URL without a slash at its end: the one given, else that of the state directory's daemon.

    None when no URL was given and no daemon runs there. Raises SettingError for a URL that is none.
    """
    if url is not None:
        check_url("url", url, takes_path=True)  # a proxy may have the daemon below one
        return url.rstrip("/")
    info = statedir.read(directory(config, state_dir))
    return None if info is None else info.url.rstrip("/")


def running_url(url: str | None, config: Path | None, state_dir: str | None) -> str:
    """Return the same. Raises DaemonError where `find_url` has None."""
    found = find_url(url, config, state_dir)
    if found is None:
        raise DaemonError(f"not running: nobody has {directory(config, state_dir)}", exit_code=Exit.NOT_RUNNING)
    return found


def directory(config: Path | None, state_dir: str | None) -> Path:
    """Return the state directory that was chosen."""
    return only(("state_dir",), config, {"state_dir": state_dir}).server.state_dir


def session() -> aiohttp.ClientSession:
    """Return a session without a deadline for the whole of a request: streams have none.

    Over HTTPS it trusts what the system trusts, or the certificate alone that the environment names for the daemon.
    Raises what `authorization` raises.
    """
    shown = authorization()
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust(os.environ.get(CERTIFICATE_VARIABLE))),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        headers={"User-Agent": f"opencode-events/{__version__}", "Accept-Encoding": "identity"}
        | ({} if shown is None else {"Authorization": shown}),
    )


def authorization() -> str | None:
    """Return what a daemon is shown: the token of the environment, else the password that the daemon is given, too.

    Raises SettingError when the password cannot be read, DaemonError for a token that cannot be sent.
    """
    if token := os.environ.get(TOKEN_VARIABLE):
        if not (token.isascii() and token.isprintable()):
            raise DaemonError(f"{TOKEN_VARIABLE}: is no token: it has what a header cannot have", exit_code=Exit.USAGE)
        return f"Bearer {token}"
    held = credentials.load(only(("upstream_username", "upstream_password_file"), None, {}).relay, os.environ)
    return None if held is None else held.authorization


def trust(certificate: str | None) -> ssl.SSLContext:
    """Return what to check a daemon's certificate with: what the system trusts.

    Whoever names the daemon's own certificate, in a PEM file whose first one it is, speaks to that daemon, by whatever
    name or address, and to nobody else: not even to one whom the same authority has certified. Raises DaemonError when
    it cannot be read.
    """
    if not certificate:
        return ssl.create_default_context()
    try:
        _, begun, rest = Path(certificate).read_bytes().partition(PEM_BEGIN)  # before it may be comments, in any words
        own, ended, _ = rest.partition(PEM_END)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be its own authority
        context.load_verify_locations(cadata=(begun + own + ended).decode("ascii"))
    except (OSError, ValueError) as error:  # SSLError is an OSError
        why = getattr(error, "strerror", None) or error
        raise DaemonError(f"{CERTIFICATE_VARIABLE}: {certificate} cannot be used: {why}") from error
    return context


def unreachable(url: str, error: Exception) -> DaemonError:
    """Return the error for a URL where nobody answers."""
    return DaemonError(f"{url} cannot be reached: {reason(error)}", exit_code=Exit.NOT_RUNNING)


def reason(error: Exception) -> str:
    """Say in a few words why a connection could not be made, or broke."""
    if isinstance(error, aiohttp.InvalidURL):
        return "not a URL"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", error.certificate_error)
        return f"its certificate is not trusted ({why}), unless {CERTIFICATE_VARIABLE} names it"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error.os_error, ssl.SSLError):
        number = error.os_error.errno or 0  # a resolver's are below 0, and have words of their own
        return os.strerror(number) if number > 0 else error.os_error.strerror or str(error.os_error)
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


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
    phrase = response.reason or ""
    if response.status == 401:  # has no body that could say it
        phrase += f": {UNKNOWN if 'Authorization' in response.request_info.headers else UNASKED}"
    elif 300 <= response.status < 400 and (place := response.headers.get("Location")):
        phrase += f": it is at {place}"
    return Refused(describe(response.status, phrase, text, source_line))


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
    if isinstance(field := problem.get("field"), str) and not detail.startswith(f"{field} "):
        where.append(field)
    counts = ", ".join(f"{problem[name]} {name}" for name in COUNTS if isinstance(problem.get(name), int))
    return ": ".join([*where, detail]) + (f" (before that: {counts})" if counts else "")
