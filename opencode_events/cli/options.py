"""Options that several commands share: one for each setting, and the few that say where the settings are.

The options are made from `settings.specs()`. They only carry text: what it means, and whether it can be used, is
judged by `settings`, where the environment's and the file's values are judged too.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from opencode_events import configuration, settings
from opencode_events.declared import Spec
from opencode_events.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


class SettingText(click.types.StringParamType):
    """The text of one setting, unjudged. Knows what a shell can complete it with."""

    def __init__(self, spec: Spec) -> None:
        self.name = {int: "integer", float: "number", Path: "path"}.get(spec.type, "text")
        self._choices = spec.choices
        self._is_path = spec.type is Path or spec.name.endswith(("_path", "_file"))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the choices, or leave it to the shell to complete a path."""
        if self._is_path:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]


class Seconds(click.FloatRange):
    """A number of seconds; `nan` and `inf`, which are within bounds to the library, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Fails, as click does, for what is none."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


def setting_options(*names: str) -> Callable[[Command], Command]:
    """Add `--config` and an option for each of the settings named, or for all; None means that it was not given."""
    known = settings.specs()

    def add(command: Command) -> Command:
        for name in reversed(names or tuple(known)):
            command = _setting_option(known[name])(command)
        return _config_option(command)

    return add


def _setting_option(spec: Spec) -> Callable[[Command], Command]:
    """Return the option of one setting. The environment is read by `settings`, so click only mentions it."""
    flag = f"{spec.flag}/--no-{spec.flag[2:]}" if spec.type is bool else spec.flag
    notes = [f"env: {spec.env}", f"default: {shown(spec.default)}"]
    if spec.choices:
        notes.insert(0, f"one of: {', '.join(spec.choices)}")
    return click.option(
        flag,
        spec.name,
        default=None,
        type=bool if spec.type is bool else SettingText(spec),
        help=f"{spec.reason}  [{'; '.join(notes)}]",
    )


_config_option = click.option(
    "--config",
    envvar="OPENCODE_EVENTS_CONFIG",
    show_envvar=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file with a flat table of settings; the environment and the options beat it.",
)


def url_option(command: Command) -> Command:
    """Add `--url`; None means that the state directory tells it."""
    return click.option(
        "--url",
        envvar="OPENCODE_EVENTS_URL",
        show_envvar=True,
        help="The daemon to talk to. Else the one of the state directory; else http://127.0.0.1:4097.",
    )(command)


def shown(value: object) -> str:
    """Return a setting's value as a person would type it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "empty"


def only(names: tuple[str, ...], config: Path | None, flags: Mapping[str, object]) -> Settings:
    """Return settings of which only `names` were looked at.

    So a daemon can still be found and stopped when another of its settings has been spoiled meanwhile.
    """
    chosen = configuration.gather(flags, None, config)
    return configuration.build({name: chosen[name] for name in names if name in chosen})
