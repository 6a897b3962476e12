"""The table of all settings in `docs/settings.md`, made from their declarations: a test holds the two equal."""

import click

from opencode_events import settings
from opencode_events.cli.options import shown

HEAD = """\
# Settings

Each setting is declared once, in `opencode_events/settings.py`; this page is made from there by
`opencode-events settings-table > docs/settings.md`. A flag beats the environment, the environment beats the file
(`--config FILE` or `OPENCODE_EVENTS_CONFIG`): TOML, a flat table whose keys are the names below. An unknown name and
a bad value are refused. `opencode-events check-config` shows what is in force, and where each value came from.

The unit is in the name (`_s` seconds, `_bytes` bytes); a name without one counts things. A truth value's flag has a
`--no-` form; in the environment it is `true` or `false`.

"""


def settings_table() -> str:
    """Return the page: Markdown, with one row for each setting in the order of declaration."""
    rows = ["| name | default | flag | environment | what, and why |", "|---|---|---|---|---|"]
    for spec in settings.specs().values():
        reason = spec.reason.replace("|", "\\|")
        if spec.choices:
            reason += f" One of {', '.join(f'`{choice}`' for choice in spec.choices)}."
        rows.append(f"| `{spec.name}` | {_default(spec.default)} | `{spec.flag}` | `{spec.env}` | {reason} |")
    return HEAD + "\n".join(rows) + "\n"


def _default(value: object) -> str:
    return "empty" if value == "" else f"`{shown(value)}`"


@click.command("settings-table", hidden=True)
def command() -> None:
    """Print docs/settings.md."""
    click.echo(settings_table(), nl=False)
