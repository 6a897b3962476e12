"""`publish`: post a recording, or one event, to the daemon.

A recording is streamed, so it may be larger than memory, or not be finished: what comes in goes out. The daemon's
answer is what is printed; a line that it refuses is named by its number in the file.
"""

import asyncio
import contextlib
import json
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import click

from opencode_events.cli import client
from opencode_events.cli.options import setting_options, url_option
from opencode_events.cli.recording import Recording

PIECE_BYTES = 256 * 1024


@click.command()
@click.argument("file", type=click.File("rb"), required=False)
@setting_options("state_dir")
@url_option
@click.option("--directory", help="Publish to this directory's stream: events without an envelope.")
@click.option("--type", "kind", help="Publish one event of this type instead of a recording.")
@click.option("--properties", help="The one event's properties, a JSON object.  [default: {}]")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as it is.")
def publish(
    file: BinaryIO | None,
    config: Path | None,
    state_dir: str | None,
    url: str | None,
    directory: str | None,
    kind: str | None,
    properties: str | None,
    as_json: bool,
) -> None:
    """Publish the events of FILE (- is standard input), or one event.

    FILE is NDJSON, or an event stream as `curl -N` writes it. What is read from /global/event is published as it is;
    what is read from /event needs --directory.
    """
    target = client.find_url(url, config, state_dir) or client.DEFAULT_URL
    if kind is not None:
        if file is not None:
            raise click.UsageError("a FILE and --type exclude each other")
        answer = asyncio.run(_post_one(target, directory, _event(kind, properties or "{}")))
    elif properties is not None:
        raise click.UsageError("--properties belongs to --type")
    else:
        if file is None and sys.stdin.isatty():
            raise click.UsageError("give a FILE, - for standard input, or --type")
        answer = asyncio.run(post_recording(target, directory, file or sys.stdin.buffer))
    click.echo(json.dumps(answer, separators=(",", ":")) if as_json else told(answer))


def _event(kind: str, properties: str) -> bytes:
    """Return the payload of one event, the properties as they were typed. Raises UsageError if they are no object."""
    try:
        value = json.loads(properties)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--properties is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.UsageError("--properties must be a JSON object")
    return f'{{"type":{json.dumps(kind)},"properties":{properties}}}'.encode(errors="surrogateescape")


def told(answer: dict[str, Any]) -> str:
    """Return the answer's counts in words, or the id and the cursor of one event."""
    ids = answer.get("ids") or []
    if len(ids) == 1 and answer.get("last"):
        return f"{ids[0]} {answer['last']}"
    counts = ", ".join(f"{answer.get(name, 0)} {name}" for name in client.COUNTS)
    return f"{counts}: {answer['first']} to {answer['last']}" if answer.get("last") else counts


async def _post_one(url: str, directory: str | None, payload: bytes) -> dict[str, Any]:
    """Publish one event and return the daemon's answer."""
    body = payload if directory is not None else b'{"payload":%s}' % payload
    return await _post(url, directory, body, "application/json", Recording())


async def post_recording(url: str, directory: str | None, file: BinaryIO) -> dict[str, Any]:
    """Publish a file as it is read and return the daemon's answer."""
    recording = Recording()
    async with contextlib.aclosing(read_lines(file, recording, "publishing")) as body:
        return await _post(url, directory, body, "application/x-ndjson", recording)


async def read_lines(file: BinaryIO, recording: Recording, label: str) -> AsyncGenerator[bytes]:
    """Yield the lines of a recording, as many at a time as have come, with a progress bar if a person looks on."""
    size = _regular_size(file)
    shows_progress = size is not None and size > PIECE_BYTES and sys.stderr.isatty()
    with click.progressbar(length=size or 0, label=label, file=sys.stderr, hidden=not shows_progress) as bar:
        async for piece in read_pieces(file):
            if text := recording.feed(piece):
                yield text
            bar.update(len(piece))
    if text := recording.finish():
        yield text
    if recording.cut_short:
        click.echo("the last line of the recording is cut short and was left out", err=True)


async def _post(
    url: str, directory: str | None, body: bytes | AsyncIterator[bytes], kind: str, recording: Recording
) -> dict[str, Any]:
    """Post and return the daemon's answer, a JSON object. Raises Refused, or DaemonError when nobody answers."""
    path, params = ("/global/event", {}) if directory is None else ("/event", {"directory": directory})
    try:
        async with (
            client.session() as session,
            # Not to where a redirection leads: most of them have a client ask again with GET, and that is a stream.
            session.post(
                url + path, params=params, data=body, headers={"Content-Type": kind}, allow_redirects=False
            ) as response,
        ):
            if response.status != 200:
                raise await client.refusal(response, recording.source_line)
            answer = await response.json(content_type=None)
    except aiohttp.ClientConnectorError as error:
        raise client.unreachable(url, error) from error
    except (aiohttp.ClientError, ValueError, RecursionError) as error:
        if isinstance(error, aiohttp.InvalidURL):
            raise client.unreachable(url, error) from error
        raise client.Refused(f"the connection to {url} broke before the answer: {error}") from error
    if not isinstance(answer, dict):
        raise client.Refused(f"{url}{path} did not answer as a daemon does")
    return answer


def _regular_size(file: BinaryIO) -> int | None:
    """Return the bytes of a regular file, None for anything else."""
    try:
        found = os.fstat(file.fileno())
    except OSError:  # a stream without a descriptor has UnsupportedOperation, which is one
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


async def read_pieces(file: BinaryIO) -> AsyncGenerator[bytes]:
    """Return what comes, as it comes, until the end of the file.

    The loop waits for a pipe or a terminal, never a thread, so Ctrl-C and an early answer are not held up by a
    writer that is silent. A regular file, which epoll refuses, is read in place.
    """
    try:
        fd = file.fileno()
    except OSError:
        while piece := file.read(PIECE_BYTES):
            yield piece
        return
    while True:
        with contextlib.suppress(PermissionError):
            await _readable(fd)
        piece = os.read(fd, PIECE_BYTES)
        if not piece:
            return
        yield piece


async def _readable(fd: int) -> None:
    """Wait until `fd` can be read without waiting. Raises PermissionError for a regular file."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
