"""`POST /event` and `POST /global/event`: one object, an array (all or nothing), or a stream of NDJSON lines.

The answer comes when the events are in the log. What a recording of a stream holds besides events (heartbeats and the
like) is counted in `skipped` and not taken.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web

from opencode_events import events
from opencode_events.broker.broker import Broker
from opencode_events.errors import OpencodeEventsError, OutOfSequence, RequestError, TooLarge, UnsupportedMedia
from opencode_events.events import Event, Skipped, Stream
from opencode_events.settings import ServerSettings
from opencode_events.web.access import granted
from opencode_events.web.bodies import JSON, NDJSON, Bodies, refuse_coded
from opencode_events.web.connections import peer, read_piece
from opencode_events.web.lines import LineSplitter, LineTooLong
from opencode_events.web.posted import Posted
from opencode_events.web.query import read_directory
from opencode_events.web.rates import Rates

# Items of an array that are checked between two turns of the loop: some 2 ms.
CHECK_AT_ONCE = 250
# White space around an event that does not count against its limit.
LINE_SLACK = 1024
# A larger text is checked on a thread: an adversary's 4 MiB can take a second.
CHECK_INLINE_BYTES = 256 * 1024

log = structlog.get_logger()

Checked = TypeVar("Checked")


class Receipt(msgspec.Struct):
    """The answer: how many were taken, and the cursors of the first and the last of them."""

    accepted: int = 0
    duplicates: int = 0
    skipped: int = 0
    first: str | None = None
    last: str | None = None


class ReceiptWithIds(Receipt):
    """The answer to an object or an array: `ids` has one for each item, null for a skipped one without."""

    ids: list[str | None] = []


class Publish:
    """The handler of one stream."""

    def __init__(self, stream: Stream, broker: Broker, settings: ServerSettings, bodies: Bodies, rates: Rates) -> None:
        self._stream = stream
        self._bodies = bodies
        self._broker = broker
        self._settings = settings
        self._rates = rates
        self._encode = msgspec.json.Encoder().encode

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """Take what is posted. Raises RequestError, LogUnavailable or Busy."""
        try:
            receipt = await self._take(request)
        except RequestError as error:
            log.warning(
                "publish.rejected",
                stream=self._stream,
                status=error.status,
                field=error.field,
                line=error.line,
                index=error.index,
            )
            raise
        return web.Response(body=self._encode(receipt), headers={"Content-Type": JSON})

    async def _take(self, request: web.Request) -> Receipt:
        refuse_coded(request)
        parse = self._parser(request)
        if request.content_type == NDJSON:
            return await self._take_lines(request, parse)
        if request.content_type != JSON:
            raise UnsupportedMedia(f"the content type must be {JSON} or {NDJSON}", field="Content-Type")
        body = await self._bodies.read(request, self._settings.max_body_bytes, f"; send it as {NDJSON}")
        body = body.strip(b" \t\r\n")
        if body.startswith(b"["):
            return await self._take_array(body, parse)
        item = await _checked(parse, body)
        parse.charge(1)
        receipt = ReceiptWithIds(ids=[item.id])
        try:
            await self._append([item], receipt)
        except OutOfSequence as error:
            error.index = None
            raise
        return receipt

    def _parser(self, request: web.Request) -> Posted:
        """Return what turns one event's text into an event of this stream, if its sender may."""
        limit = self._settings.max_event_bytes
        parse = functools.partial(events.parse_global, limit=limit)
        if self._stream == "instance":
            parse = functools.partial(events.parse_instance, limit=limit, directory=read_directory(request))
        return Posted(parse, granted(request), peer(request.transport), self._rates)

    def _split(self, body: bytes) -> Sequence[events.Buffer]:
        return events.split_array(body, self._stream)

    async def _append(self, items: Sequence[Event | Skipped], receipt: Receipt) -> None:
        """Publish those items that are events, and add to the receipt. An error's `index` is the item's."""
        taken = [item for item in items if isinstance(item, Event)]
        if not taken:
            receipt.skipped += len(items)
            return
        try:
            appended = await self._broker.publish(taken)
        except OutOfSequence as error:
            places = [index for index, item in enumerate(items) if isinstance(item, Event)]
            error.index = places[error.index or 0]
            if self._stream == "instance" and error.field is not None:
                error.field = error.field.removeprefix("payload.")  # it stands at the top of what was posted
            raise
        receipt.skipped += len(items) - len(taken)
        receipt.duplicates += appended.duplicates
        if appended.events:
            receipt.accepted += len(appended.events)
            receipt.first = receipt.first or self._broker.cursor(appended.first)
            receipt.last = self._broker.cursor(appended.first + len(appended.events) - 1)

    async def _take_array(self, body: bytes, parse: Posted) -> Receipt:
        """Take all items, or none."""
        items: list[Event | Skipped] = []
        for index, text in enumerate(await _checked(self._split, body)):
            try:
                items.append(await _checked(parse, bytes(text)))
            except RequestError as error:
                error.index = index
                raise
            if index % CHECK_AT_ONCE == CHECK_AT_ONCE - 1:
                await asyncio.sleep(0)
        parse.charge(len(items))
        receipt = ReceiptWithIds(ids=[item.id for item in items])
        await self._append(items, receipt)
        return receipt

    async def _take_lines(self, request: web.Request, parse: Posted) -> Receipt:
        """Take lines as they arrive. What came before a bad line is in the log and stays."""
        receipt, taken, limit = Receipt(), 0, self._settings.max_event_bytes
        splitter, held = LineSplitter(limit + LINE_SLACK), 0
        try:
            while chunk := await read_piece(request):
                try:
                    lines = splitter.feed(chunk)
                except LineTooLong as found:
                    taken = await self._take_batch(found.complete, taken, parse, receipt)
                    detail = f"line {taken + 1} is over max_event_bytes ({limit})"
                    raise TooLarge(detail, limit=limit, line=taken + 1) from None
                self._bodies.release(held)
                held = 0
                self._bodies.hold(splitter.unfinished_bytes)
                held = splitter.unfinished_bytes
                taken = await self._take_batch(lines, taken, parse, receipt)
            await self._take_batch(splitter.finish(), taken, parse, receipt)
        except OpencodeEventsError as error:
            error.counts = msgspec.to_builtins(receipt)
            raise
        finally:
            self._bodies.release(held)
        return receipt

    async def _take_batch(self, lines: list[bytes], before: int, parse: Posted, receipt: Receipt) -> int:
        """Publish lines, `before` of which came earlier; return how many there were now. Raises at the first bad one,
        after those before it are published.
        """
        for start in range(0, len(lines), CHECK_AT_ONCE):
            items: list[Event | Skipped] = []
            numbers: list[int] = []
            for number, line in enumerate(lines[start : start + CHECK_AT_ONCE], before + start + 1):
                try:
                    if line.strip(b" \t\r"):
                        items.append(await _checked(parse, line))
                        numbers.append(number)
                except RequestError as error:
                    error.line = number
                    parse.charge(len(items), numbers)
                    await self._append_lines(items, numbers, receipt)
                    raise
            parse.charge(len(items), numbers)
            await self._append_lines(items, numbers, receipt)
        return before + len(lines)

    async def _append_lines(self, items: Sequence[Event | Skipped], numbers: Sequence[int], receipt: Receipt) -> None:
        """Publish items that stood on the lines `numbers`: at a bad one, those before it. Raises what it is."""
        try:
            await self._append(items, receipt)
        except OutOfSequence as error:
            bad, error.index = error.index or 0, None
            await self._append_lines(items[:bad], numbers[:bad], receipt)
            error.line = numbers[bad]
            raise


async def _checked(check: Callable[[bytes], Checked], text: bytes) -> Checked:
    """Return what `check` makes of a text, without holding the loop for a large one."""
    return check(text) if len(text) <= CHECK_INLINE_BYTES else await asyncio.to_thread(check, text)
