"""A body on its way, with a fake of the connection that it comes from and of the one it goes to."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict

from opencode_events.relay.upload import Upload


class Content:
    """What a request's body is read from: `pieces`, of which an error is raised."""

    total_bytes = 1

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)

    async def readany(self) -> bytes:
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece


class Writer:
    """What a request to upstream is written to."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_aborted = False
        self.transport = SimpleNamespace(abort=self._abort)

    async def write(self, piece: bytes) -> None:
        self.written.append(piece)

    def _abort(self) -> None:
        self.is_aborted = True


def upload(*pieces: bytes | Exception) -> Upload:
    request = SimpleNamespace(
        content=Content(*pieces), content_length=None, version=HttpVersion11, headers=CIMultiDict()
    )
    return Upload(cast(web.Request, request))


async def send(body: Upload, writer: Writer) -> None:
    await body.write_with_length(cast(AbstractStreamWriter, writer), None)


async def test_a_body_goes_out_piece_by_piece_and_once() -> None:
    body, first, second = upload(b"one", b"two", b""), Writer(), Writer()

    await send(body, first)
    with pytest.raises(ConnectionResetError):
        await send(body, second)

    assert first.written == [b"one", b"two"]
    assert second.written == []


async def test_whose_fault_a_broken_body_is_is_remembered() -> None:
    error = web.RequestPayloadError("no chunk")
    body, writer = upload(b"one", error), Writer()

    with pytest.raises(web.RequestPayloadError):
        await send(body, writer)

    assert body.failure is error


@pytest.mark.parametrize(("pieces", "expected"), [((b"one", ValueError()), True), ((b"one", b""), False)])
async def test_only_a_body_that_is_not_all_out_takes_its_connection_along(pieces: Any, expected: bool) -> None:
    body, writer = upload(*pieces), Writer()
    if expected:
        with pytest.raises(ValueError):
            await send(body, writer)
    else:
        await send(body, writer)

    body.abort()

    assert writer.is_aborted is expected


def test_a_body_that_was_never_begun_has_nothing_to_abort() -> None:
    upload().abort()


def test_nobody_may_have_the_body_as_text() -> None:
    with pytest.raises(TypeError):
        upload().decode()
