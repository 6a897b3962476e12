"""What becomes of a command whose standard output takes no more: a pipe that was closed, or a disk that is full."""

import errno
import os
import select

import click

from opencode_events.cli.exits import Exit

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def failed(error: OSError) -> int:
    """Return the exit code for what a write has raised; raise it again if it is about something else.

    Whoever closes the pipe has had enough, as `head` has after ten lines, and that is no failure.
    """
    if error.errno == errno.EPIPE and _is_closed():
        code = Exit.OK
    elif error.errno in FULL and error.filename is None:  # what was opened has a name
        click.echo(f"error: standard output cannot be written: {error.strerror}", err=True)
        code = Exit.FAILED
    else:
        raise error
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # what is buffered still would be an error when Python ends
    os.close(nowhere)
    return code


def _is_closed() -> bool:
    """Ask whether nobody reads standard output any more: a connection that broke raises the same error."""
    poll = select.poll()
    poll.register(1, 0)  # POLLERR and POLLHUP are told without being asked for
    return bool(poll.poll(0))
