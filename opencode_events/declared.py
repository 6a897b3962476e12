"""How a setting is declared: its default, its bounds and the reason for both; and what is known of it. Pure.

What there is to be set stands in `settings`.
"""

import dataclasses
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


def check_url(name: str, url: str) -> None:
    """Raise SettingError unless `url` is that of a server: `http://host[:port]`, with nothing behind it."""
    try:
        parts = urlsplit(url)
        is_server = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_server = False
    if not is_server or "@" in url or url.rstrip("/") != f"{parts.scheme}://{parts.netloc}":
        raise SettingError(name, f"must be the URL of a server, as http://127.0.0.1:4096, not {url!r}")


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
