"""The smallest daemon that `bench` can measure: asyncio streams, a list for a log, no caps, and faults on demand.

Prints its port, then serves until its standard input ends. The only argument is what it does wrong: `lose`,
`duplicate` or `swap` the events numbered 5 and 6, `end` all streams there, `refuse` subscribers, `reject` events,
`forget` what it has acknowledged, `expire` every cursor, or tell `no-cursor` of what was published.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

CURSOR = "1-%d"
EXPIRED = b'data: {"payload":{"type":"server.stream.expired","properties":{}}}\n\n'
CONNECTED = b'retry: 1000\ndata: {"payload":{"type":"server.connected","properties":{}}}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def wrong(events: list[bytes], fault: str) -> list[bytes]:
    """Return the events as they go out under `fault`."""
    out: list[bytes] = []
    for event in events:
        is_fifth, is_sixth = b'"seq":5,' in event, b'"seq":6,' in event
        if fault == "lose" and is_fifth:
            continue
        if fault == "swap" and is_sixth and out:
            out.insert(-1, event)
            continue
        out += [event] * (2 if fault == "duplicate" and is_fifth else 1)
    return out


class FakeDaemon:
    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.subscribers: dict[asyncio.StreamWriter, str] = {}
        self.log: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.decode().split(" ", 2)
                if method == "POST":
                    status, answer = self.publish(await body(head, reader))
                elif path == "/-/status":
                    status, answer = 200, {"pid": os.getpid()}
                elif self.fault == "refuse":
                    status, answer = 503, {"detail": "too many subscribers"}
                else:
                    query = parse_qs(urlsplit(path).query)
                    self.subscribe(writer, query.get("directory", [""])[0], query.get("after", [""])[0])
                    await reader.read()
                    return
                text = json.dumps(answer).encode()
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.subscribers.pop(writer, None)
            writer.close()

    def subscribe(self, writer: asyncio.StreamWriter, directory: str, after: str) -> None:
        self.subscribers[writer] = directory
        writer.write(STREAM)
        self.send(writer, [CONNECTED])
        if after and self.fault == "expire":
            self.send(writer, [EXPIRED])
        elif after:
            self.deliver(writer, int(after.partition("-")[2]))

    def publish(self, events: list[bytes]) -> tuple[int, dict[str, object]]:
        if self.fault == "reject":
            return 400, {"detail": "not today"}
        head = len(self.log)
        if self.fault != "forget":
            self.log += events
        for writer in list(self.subscribers):
            self.deliver(writer, head)
        return 200, {"accepted": len(events)} | ({} if self.fault == "no-cursor" else {"last": CURSOR % len(self.log)})

    def deliver(self, writer: asyncio.StreamWriter, after: int) -> None:
        """Send what a subscriber wants of the log, behind the first `after` events."""
        directory = b'"directory":"%s' % self.subscribers[writer].encode()
        wanted = [event for event in self.log[after:] if directory in event]
        self.send(writer, [b"id: 1-1\ndata: %s\n\n" % event for event in wrong(wanted, self.fault)])
        if self.fault == "end" and any(b'"seq":5,' in event for event in wanted):
            writer.write(b"0\r\n\r\n")
            writer.close()

    def send(self, writer: asyncio.StreamWriter, blocks: Iterable[bytes]) -> None:
        data = b"".join(blocks)
        if data and not writer.is_closing():
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def body(head: bytes, reader: asyncio.StreamReader) -> list[bytes]:
    """Return the JSON of each event of a request."""
    if length := re.search(rb"Content-Length: (\d+)", head):
        text = await reader.readexactly(int(length[1]))
        return re.split(rb"(?<=\}),(?=\{)", text.strip(b"[]"))
    lines = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        lines += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return lines.splitlines()


async def main(fault: str) -> None:
    server = await asyncio.start_server(FakeDaemon(fault).serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
