"""What each exit code of the commands means. `docs/cli.md` has the same table for users.

| code | name | meaning |
|---|---|---|
| 0 | OK | done |
| 1 | FAILED | the request or the operation failed; standard error says why |
| 2 | USAGE | an option, a setting or a file that was given cannot be used |
| 3 | ALREADY_RUNNING | another daemon has the state directory |
| 4 | NOT_RUNNING | no daemon answers: none has the state directory, or the URL cannot be reached |
| 130 | INTERRUPTED | Ctrl-C |
"""

import enum

from opencode_events import statedir


class Exit(enum.IntEnum):
    """The codes of the table above."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ALREADY_RUNNING = statedir.ALREADY_RUNNING
    NOT_RUNNING = 4
    INTERRUPTED = 130
