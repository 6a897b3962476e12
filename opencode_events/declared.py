"""How a setting is declared: its default, its bounds and the reason for both; and what is known of it. Pure.

What there is to be set stands in `settings`.
"""

import dataclasses
import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from opencode_events.errors import SettingError

ENV_PREFIX = "OPENCODE_EVENTS_"


def setting(
    default: Any,
    reason: str,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare one setting. `reason` says what it is, in which unit, and why the default is what it is."""
    bounds = {"choices": choices, "at_least": at_least, "at_most": at_most}
    return dataclasses.field(default=default, metadata={"reason": reason, **bounds})


class Checked:
    """What every group of settings does after it was made: refuse values outside the declared bounds."""

    def __post_init__(self) -> None:
        """Raise SettingError, naming the field and the value, for the first bad one."""
        for spec in dataclasses.fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value, choices = getattr(self, spec.name), spec.metadata["choices"]
            least, most = spec.metadata["at_least"], spec.metadata["at_most"]
            if choices and value not in choices:
                raise SettingError(spec.name, f"must be one of {', '.join(choices)}, not {value!r}")
            if least is not None and value < least:
                raise SettingError(spec.name, f"must be at least {least:g}, not {value!r}")
            if most is not None and value > most:
                raise SettingError(spec.name, f"must be at most {most:g}, not {value!r}")


def check_url(name: str, url: str, *, takes_path: bool = False) -> None:
    """Raise SettingError unless `url` is that of a server: `http://host[:port]`, with nothing behind it but a path."""
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and parts.port != 0 and is_host(parts.hostname or "")
    except ValueError:
        is_server = False
    if is_server:
        server = f"{parts.scheme}://{parts.netloc}{parts.path if takes_path else ''}"
        # A colon without a port is what is left where a shell's variable was empty.
        is_server = url.rstrip("/") == server.rstrip("/") and not parts.netloc.endswith(":") and "@" not in parts.netloc
    if not is_server:
        raise SettingError(name, f"must be the URL of a server, http://host[:port], not {url!r}")


def is_host(text: str) -> bool:
    """Ask whether `text` can be a host's name or address. Whether there is one, only the network knows."""
    try:
        if ":" in text:
            ipaddress.IPv6Address(text)
            return True
        text.encode("idna")  # as a resolver does it: no empty label, none over 63 characters
    except ValueError:
        return False
    return re.fullmatch(r"[\w.-]+", text) is not None


@dataclasses.dataclass(frozen=True)
class Spec:
    """What is known of one setting: for flags, the environment, the file and the docs."""

    group: str
    name: str
    type: type
    default: Any
    reason: str
    choices: tuple[str, ...]

    @property
    def env(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The long option that sets it; a truth value also has its `--no-` form."""
        return "--" + self.name.replace("_", "-")
