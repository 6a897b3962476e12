"""Bearer tokens (RFC 6750): who has one, what for, and about which directories. From a file, which may be read again.

The file is TOML, one table for each token, whose name is what answers say instead of the token:

    [dashboard]
    token = "4VKr..."                         # or sha256 = "<64 hexadecimal digits>": the file then opens nothing
    scopes = ["subscribe", "operate"]

    [team-a]
    sha256 = "9f86d081884c7d65..."
    scopes = ["subscribe", "publish"]
    directories = ["/srv/team-a"]             # only events of these directories, and of those in them

In memory there are digests only. A token is not guessed from the time that a comparison takes: its digest is compared,
with that of every token, whichever matches.
"""

import hashlib
import hmac
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from opencode_events import secretfile
from opencode_events.errors import SettingError
from opencode_events.prefixes import Prefixes, Segments, segments

Scope = Literal["subscribe", "publish", "operate", "upstream"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
# What concerns the whole daemon, or the whole server behind it: no directory bounds it.
BOUNDLESS: frozenset[Scope] = frozenset({"operate", "upstream"})
SETTING = "tokens_file"
FILE_BYTES = 1024 * 1024
MEMBERS = frozenset({"token", "sha256", "scopes", "directories"})
# RFC 6750, section 2.1, "b64token"; so many of them that nobody tries all: 128 bits take 22 in base64.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{22,512}=*")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Token:
    """What somebody may do who shows it. `prefixes` None: with all directories. The digest shows in no log."""

    name: str
    scopes: frozenset[Scope]
    prefixes: Prefixes | None = None
    digest: bytes = field(default=b"", repr=False)


# Who needs none, or has shown the password: opencode's has no scopes either.
EVERYTHING = Token("", frozenset(SCOPES))


class Tokens:
    """The tokens of a file. Raises SettingError, naming the file and the table, when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._known = load(path)

    def __len__(self) -> int:
        return len(self._known)

    def replace(self, known: tuple["Token", ...]) -> frozenset[str]:
        """Know `known` from now on; return the names of those that are gone, or are not what they were."""
        revoked = frozenset(token.name for token in set(self._known) - set(known))
        self._known = known
        return revoked

    def find(self, shown: Iterable[str]) -> Token | None:
        """Return the first token that is among `shown`, texts of any kind. Takes as long whoever it is."""
        found: Token | None = None
        for text in shown:
            digest = _digest(text)
            for token in self._known:
                is_it = hmac.compare_digest(token.digest, digest)
                found = token if is_it and found is None else found
        return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def load(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a file, which has one at least. Raises SettingError; no sentence of it quotes a token."""
    text = secretfile.read(path, SETTING, at_most=FILE_BYTES, what="these are no tokens")
    try:
        tables = tomllib.loads(text)
    except ValueError as error:
        where = re.search(r"\(at .*\)", str(error))
        raise SettingError(SETTING, f"{path} is not TOML {where[0] if where else ''}".rstrip()) from None
    try:
        found = [_token(name, table) for name, table in tables.items()]
    except _BadTable as bad:
        raise SettingError(SETTING, f"{path}: {bad}") from None
    if not found:
        raise SettingError(SETTING, f"{path} has no token: [name], token = ..., scopes = [...]")
    if len({token.digest for token in found}) < len(found):
        raise SettingError(SETTING, f"{path} has one token under two names")
    return tuple(found)


class _BadTable(Exception):
    """Why a table is no token."""


def _token(name: str, table: object) -> Token:
    if not NAME.fullmatch(name):
        raise _BadTable("a name has up to 64 letters, digits, dots, hyphens and underscores")
    if not isinstance(table, dict):
        raise _BadTable(f"{name} is no table: [{name}]")
    if not table.keys() <= MEMBERS:
        raise _BadTable(f"[{name}] has another member than {', '.join(sorted(MEMBERS))}")
    scopes = _texts(name, table, "scopes")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise _BadTable(f"[{name}] scopes must be some of {', '.join(SCOPES)}")
    token = Token(name, cast("frozenset[Scope]", frozenset(scopes)), _prefixes(name, table), _held(name, table))
    if token.prefixes is not None and (without := sorted(token.scopes & BOUNDLESS)):
        raise _BadTable(f"[{name}] {without[0]} is not bounded by directories: leave out the one or the other")
    return token


def _held(name: str, table: dict[str, object]) -> bytes:
    """Return the digest of a table's token."""
    given = [table[member] for member in ("token", "sha256") if member in table]
    if len(given) != 1 or not isinstance(given[0], str):
        raise _BadTable(f"[{name}] must have one text, token or sha256")
    if "sha256" in table:
        if not DIGEST.fullmatch(given[0]):
            raise _BadTable(f"[{name}] sha256 must have 64 hexadecimal digits")
        return bytes.fromhex(given[0])
    if not TOKEN.fullmatch(given[0]):
        raise _BadTable(f"[{name}] token must have 22 to 512 letters, digits and -._~+/, as openssl rand -hex 32 makes")
    return _digest(given[0])


def _prefixes(name: str, table: dict[str, object]) -> Prefixes | None:
    if "directories" not in table:
        return None
    roots: set[Segments] = set()
    for text in _texts(name, table, "directories"):
        parts = segments(text)
        if parts is None:
            raise _BadTable(f"[{name}] directories must be absolute paths without `..`, not {text!r:.80}")
        roots.add(parts)
    if not roots:
        raise _BadTable(f"[{name}] directories is empty: leave it out for all of them")
    return Prefixes(frozenset(roots))


def _texts(name: str, table: dict[str, object], member: str) -> list[str]:
    found = table.get(member)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise _BadTable(f"[{name}] {member} must be a list of texts")
    return found
