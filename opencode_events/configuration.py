"""How settings are chosen: flags beat the environment, the environment beats the file, and the rest has its default.

What there is to be set stands in `settings`. Here text becomes values, and a bad one is named with where it came from.
"""

import dataclasses
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opencode_events.declared import ENV_PREFIX, Spec
from opencode_events.errors import SettingError
from opencode_events.settings import GROUPS, Settings, specs

NOT_SETTINGS = frozenset({"config", "url", "token"})
"""Names below the prefix that belong to the command line: where the file is, which daemon to talk to, and a token."""
TRUTH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def parse(spec: Spec, value: object, source: str) -> Any:
    """Return `value` (text, or a TOML value) as the setting's type. Raises SettingError, naming the setting."""

    def wrong(expected: str) -> SettingError:
        return SettingError(spec.name, f"expects {expected}, not {value!r}", source=source)

    if spec.type is bool:
        truth = TRUTH.get(value.strip().lower()) if isinstance(value, str) else value
        if isinstance(truth, bool):
            return truth
        raise wrong("true or false")
    if spec.type in (int, float):
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise wrong("a number")
        try:
            number = spec.type(value)
            if math.isfinite(number) and (number == value or isinstance(value, str)):
                return number
        except (ValueError, OverflowError):  # OverflowError: infinite, or beyond what a float can hold
            pass
        raise wrong("a whole number" if spec.type is int else "a finite number")
    if not isinstance(value, (str, Path)) or "\0" in str(value):
        raise wrong("text")
    if spec.type is not Path:
        return str(value)
    if not str(value):  # Path("") is the current directory: nobody means that
        raise wrong("a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # `~nobody/`
        raise SettingError(spec.name, f"{error} (in {str(value)!r})", source=source) from error


def gather(
    flags: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> dict[str, tuple[object, str]]:
    """Return what was chosen, not yet looked at: the value by name, and where it came from.

    `file` (TOML, a flat table) gives way to `env`, which gives way to `flags` (None means not given). What nobody
    chose is absent. Raises SettingError, naming the file, when it cannot be read.
    """
    try:
        table = {} if file is None else tomllib.loads(file.read_bytes().decode())
    except (OSError, ValueError) as error:  # ValueError: not TOML, or not UTF-8
        raise SettingError("config", f"cannot be read: {error}", source=str(file)) from error
    chosen: dict[str, tuple[object, str]] = {name: (value, str(file)) for name, value in table.items()}
    for key, text in (os.environ if env is None else env).items():
        name = key.removeprefix(ENV_PREFIX).lower()
        if key.startswith(ENV_PREFIX) and name not in NOT_SETTINGS:
            chosen[name] = (text, key)
    given = {name: flag for name, flag in (flags or {}).items() if flag is not None}
    return chosen | {name: (flag, "--" + name.replace("_", "-")) for name, flag in given.items()}


def build(chosen: Mapping[str, tuple[object, str]]) -> Settings:
    """Return the settings that `gather`'s answer makes, defaults for the rest.

    Raises SettingError for a key that is not a setting and for a value of the wrong type or out of bounds; it names
    the setting and where the value came from.
    """
    known = specs()
    values: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    home = {"state_dir": (known["state_dir"].default, "the default")}  # the only default that has to be parsed
    for name, (value, source) in (home | dict(chosen)).items():
        if name not in known:
            raise SettingError(name, "is not a setting", source=source)
        values[known[name].group][name] = parse(known[name], value, source)
    try:
        return Settings(**{group: cls(**values[group]) for group, cls in GROUPS.items()})
    except SettingError as error:
        raise SettingError(error.name, error.reason, source=chosen.get(error.name, ("", ""))[1]) from None


def load(
    flags: Mapping[str, object] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Return the settings: defaults, then `file`, then `env`, then `flags`. Raises SettingError: see `build`."""
    return build(gather(flags, env, file))


def decided(settings: Settings) -> Settings:
    """Return the settings with each `auto` that depends on whether there is an upstream decided."""
    on_overflow, on_expired = ("catchup", "head") if settings.relay.upstream else ("end", "oldest")
    broker = settings.broker
    return dataclasses.replace(
        settings,
        broker=dataclasses.replace(
            broker,
            on_overflow=on_overflow if broker.on_overflow == "auto" else broker.on_overflow,
            on_expired=on_expired if broker.on_expired == "auto" else broker.on_expired,
        ),
    )
