"""`opencode-events`: the commands together, and what becomes of their errors.

Each command is a function in a module of its own that raises what is in `errors`; here an error becomes one sentence
on standard error and an exit code (the table is in `exits`):

0 done · 1 failed · 2 usage or setting · 3 already running · 4 not running · 130 interrupted
"""

from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import get_completion_class

from opencode_events import __version__
from opencode_events.cli import output, settings_table
from opencode_events.cli.background import restart, start, stop
from opencode_events.cli.bench import bench
from opencode_events.cli.exits import Exit
from opencode_events.cli.log import log
from opencode_events.cli.publish import publish
from opencode_events.cli.render import printable
from opencode_events.cli.serve import check_config, run
from opencode_events.cli.status import status
from opencode_events.cli.subscribers import evict, subscribers
from opencode_events.cli.systemd import systemd
from opencode_events.cli.tail import tail
from opencode_events.cli.top.command import top
from opencode_events.errors import DaemonError, OpencodeEventsError, SettingError

PROGRAM = "opencode-events"
COMPLETE_VAR = "_OPENCODE_EVENTS_COMPLETE"


class Commands(click.Group):
    """A group whose commands end with the documented exit codes, however they are invoked.

    `--help` lists the commands of a section together.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections: dict[str, list[click.Command]] = {}

    def add_section(self, title: str, summaries: Mapping[click.Command, str]) -> None:
        """Add commands, each with the line that says what it is for."""
        for command, summary in summaries.items():
            command.short_help = summary
            self.add_command(command)
        self._sections[title] = list(summaries)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        width = max((len(each.name or "") for section in self._sections.values() for each in section), default=0)
        for title, commands in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{each.name:<{width}}", each.short_help or "") for each in commands])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it returns, if it returns something, is the exit code."""
        try:
            code = super().invoke(ctx)
        except KeyboardInterrupt:
            code = Exit.INTERRUPTED
        except OpencodeEventsError as error:
            click.echo("\n".join(map(printable, f"error: {error}".split("\n"))), err=True)  # may quote a stranger
            code = _exit_code(error)
        except OSError as error:
            code = output.failed(error)
        ctx.exit(code or Exit.OK)


def _exit_code(error: OpencodeEventsError) -> int:
    """Return what the table says of an error."""
    if isinstance(error, SettingError):
        return Exit.USAGE
    return error.exit_code if isinstance(error, DaemonError) else Exit.FAILED


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
def main() -> None:
    """The event stream of opencode: every subscriber gets every event, or is told; none costs more than its share."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes this command in a shell."""
    cls = get_completion_class(shell)
    assert cls is not None, "click knows all of the choices"
    click.echo(cls(main, {}, PROGRAM, COMPLETE_VAR).source())


main.add_section(
    "The daemon",
    {
        run: "Run it in the foreground.",
        start: "Run it in the background; return when it answers.",
        stop: "Tell its subscribers, and end it.",
        restart: "Stop it, if it runs, and start it.",
        check_config: "Check the settings, and show where each comes from.",
        systemd: "Write, remove or show the unit files.",
    },
)
main.add_section(
    "Who is there",
    {
        status: "What the daemon does at the moment.",
        subscribers: "Who is subscribed, and how each connection stands.",
        top: "The same, live.",
        evict: "End one subscriber.",
    },
)
main.add_section(
    "Events",
    {
        publish: "Publish a recording, or one event.",
        tail: "Watch a stream; go on where it was cut.",
        log: "Look into the event log's file, and tend it.",
    },
)
main.add_section(
    "Besides",
    {
        bench: "Measure a running daemon.",
        completion: "Print the script that completes this command in a shell.",
    },
)
main.add_command(settings_table.command)
