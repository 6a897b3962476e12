"""`python -m opencode_events`: the same as `opencode-events`."""

from opencode_events.cli.main import PROGRAM, main

main(prog_name=PROGRAM)
