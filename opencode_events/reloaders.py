"""What can be changed while the daemon runs: each part that can says so here, and SIGHUP asks all of them.

A reload is all or nothing. Everybody first looks at the new settings, and at the files they name, and may refuse;
only when nobody has refused is anything changed. A setting that no part claims needs a restart, and is told by name.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from opencode_events.settings import Settings, specs

Commit = Callable[[], None]
Prepare = Callable[[Settings], Commit | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a reload: settings that changed, and those whose new values wait for a restart."""

    changed: tuple[str, ...]
    kept: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Reloader:
    names: tuple[str, ...]
    prepare: Prepare


class Reloaders:
    """The settings in force, and who can change them. `reread` returns what is chosen now, from wherever it comes."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        self.settings = settings
        self._reread = reread
        self._reloaders: list[_Reloader] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The settings that somebody claims, in the order of their declaration."""
        claimed = {name for each in self._reloaders for name in each.names}
        return tuple(name for name in specs() if name in claimed)

    def add(self, names: Sequence[str], prepare: Prepare) -> None:
        """Let `prepare` look at new settings whenever there is a reload, whether any of `names` has changed or not.

        It returns what makes the change, which must not fail; or None, if these settings cannot be changed in that way
        while the daemon runs. It raises SettingError or DaemonError for what cannot be used, and then nothing changes.
        """
        unknown = set(names) - specs().keys()
        assert not unknown, f"no settings: {unknown}"
        self._reloaders.append(_Reloader(names=tuple(names), prepare=prepare))

    def reload(self) -> Outcome:
        """Read the settings anew and change what can be changed. Raises what a part raised, with nothing changed."""
        new = self._reread()
        differ = [name for name in specs() if value(new, name) != value(self.settings, name)]
        prepared = [(each.names, each.prepare(new)) for each in self._reloaders]
        settled = {name for names, commit in prepared if commit is not None for name in names}
        for _, commit in prepared:
            if commit is not None:
                commit()
        changed = tuple(name for name in differ if name in settled)
        self.settings = _with(self.settings, new, changed)
        return Outcome(changed=changed, kept=tuple(name for name in differ if name not in settled))


def value(settings: Settings, name: str) -> Any:
    """Return the value of one setting."""
    return getattr(getattr(settings, specs()[name].group), name)


def _with(old: Settings, new: Settings, names: Sequence[str]) -> Settings:
    """Return `old` with the values that `new` has for `names`."""
    groups: dict[str, dict[str, Any]] = {}
    for name in names:
        groups.setdefault(specs()[name].group, {})[name] = value(new, name)
    changed = {group: dataclasses.replace(getattr(old, group), **values) for group, values in groups.items()}
    return dataclasses.replace(old, **changed)
