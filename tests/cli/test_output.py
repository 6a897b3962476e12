"""A command whose standard output takes no more: whoever reads it has had enough, or the disk is full."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opencode_events.cli import output

PROGRAM = [sys.executable, "-m", "opencode_events"]


@pytest.mark.parametrize("words", [["check-config"], ["tail", "--help"]], ids=" ".join)
def test_a_full_disk_is_told_in_one_line(words: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)

    assert done.stderr == b"error: standard output cannot be written: No space left on device\n"
    assert done.returncode == 1


def test_whoever_reads_no_more_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "check-config"], stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),  # of a connection: somebody reads standard output still
        PermissionError(errno.EACCES, "Permission denied", "x"),
        OSError(errno.ENOSPC, "No space left on device", "x"),
    ],
    ids=["a connection's", "another error", "another file's"],
)
def test_what_is_not_about_standard_output_is_raised_again(error: OSError) -> None:
    with pytest.raises(type(error)) as caught:
        output.failed(error)

    assert caught.value is error
