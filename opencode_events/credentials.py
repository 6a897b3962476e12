"""The user and the password that opencode's server asks for, and whether a request has them.

The shield holds them for both sides: who wants to pass shows them to it, and it shows them to the server behind. A
daemon without a server behind holds them for itself. They come as opencode takes them: HTTP Basic (RFC 7617), or
`auth_token` in the query, the same text, for an EventSource, which cannot send a header.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from opencode_events import secretfile
from opencode_events.errors import SettingError
from opencode_events.settings import RelaySettings

PASSWORD_ENV = "OPENCODE_SERVER_PASSWORD"
USERNAME_ENV = "OPENCODE_SERVER_USERNAME"
FILE_SETTING = "upstream_password_file"
# A password and its line break; whatever is longer is another file, named by mistake.
FILE_BYTES = 4096
SCHEME = "basic "


@dataclass(slots=True)
class Credentials:
    """A user and a password. Neither shows in `repr`, which ends up in logs.

    Who holds them asks them each time: a reload may change what they are.
    """

    username: str = field(repr=False)
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        """Raise SettingError for what RFC 7617, section 2, cannot express."""
        if ":" in self.username:
            raise SettingError("upstream_username", "must not have a colon: it ends the name in HTTP Basic")

    def take(self, others: Self) -> bool:
        """Be what `others` are from now on; tell whether that is something else."""
        is_new = self != others
        self.username, self.password = others.username, others.password
        return is_new

    @property
    def auth_token(self) -> str:
        """The value of the query's `auth_token`."""
        return base64.b64encode(self._pair).decode()

    @property
    def authorization(self) -> str:
        """The value of the field Authorization."""
        return f"Basic {self.auth_token}"

    def matches(self, authorization: str | None, auth_token: str | None) -> bool:
        """Tell whether the header's value or the query's is right. Anything may be given; nothing raises.

        Takes the same time whichever octet is wrong: user and password are one text, compared as a whole.
        """
        shown = []
        if authorization is not None and authorization[: len(SCHEME)].lower() == SCHEME:
            shown.append(authorization[len(SCHEME) :].strip(" "))
        if auth_token is not None:
            shown.append(auth_token.replace(" ", "+"))  # a plus sign that was not encoded is a space in a query
        # No `any`, which ends with the first that is right.
        return sum(hmac.compare_digest(_decode(token), self._pair) for token in shown) > 0

    @property
    def _pair(self) -> bytes:
        return f"{self.username}:{self.password}".encode("utf-8", "surrogateescape")


def _decode(token: str) -> bytes:
    """Return what a base64 text says; nothing, which matches nobody, if it is none."""
    try:
        return base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        return b""


def load(settings: RelaySettings, environment: Mapping[str, str]) -> Credentials | None:
    """Return what is to be shown, to us and to a server behind; None if nobody gave a password.

    The file wins over the environment, as what was said for the shield wins over what was said for opencode. Raises
    SettingError, naming the file, when it cannot be read, is empty, or is open to others.
    """
    password = environment.get(PASSWORD_ENV, "")
    if settings.upstream_password_file:
        password = _read(Path(settings.upstream_password_file).expanduser())
    if not password:
        return None
    return Credentials(environment.get(USERNAME_ENV) or settings.upstream_username, password)


def _read(path: Path) -> str:
    """Return the password that a file holds: all of it, but for one line break at its end."""
    password = secretfile.read(path, FILE_SETTING, at_most=FILE_BYTES, what="that is no password")
    for line_break in ("\r\n", "\n"):
        if password.endswith(line_break):
            password = password.removesuffix(line_break)
            break
    if not password:
        raise SettingError(FILE_SETTING, f"{path} is empty")
    return password
