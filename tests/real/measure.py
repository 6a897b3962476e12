"""What a shield is worth: a real server with and without one, in one run. `python -m tests.real.measure --help`.

Two figures. The CPU that upstream needs for an event, before and after so many subscribers have come and gone. And
where what is not read stays, when so many do not read and so many events are published: resident memory at the end, and
the bytes in the kernel that upstream has sent and nobody has taken.
"""

import http.client
import json
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click

from tests.clients import Client, until
from tests.real.opencode import Opencode
from tests.real.stub import Stub
from tests.servers import Daemon

PUBLISHERS = 4  # connections on which events are made


def publish(upstream: Opencode, count: int, size: int) -> None:
    """Make events of a size: what opencode makes fastest."""
    properties = {"title": "", "message": "x" * size, "variant": "info", "duration": 1}
    body = json.dumps({"type": "tui.toast.show", "properties": properties})

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", upstream.port)
        for _ in range(count // PUBLISHERS):
            connection.request("POST", "/tui/publish", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.read() == b"true", answer.status
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def cpu_ms(upstream: Opencode, count: int) -> float:
    """Make events and return the CPU that each has cost upstream."""
    before = upstream.cpu_s()
    publish(upstream, count, 1000)
    return (upstream.cpu_s() - before) / count * 1000


def unsent_bytes(port: int) -> int:
    """Return what the kernel keeps of what was sent from a port."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        own, _, _, queues = line.split()[1:5]
        if int(own.partition(":")[2], 16) == port:
            total += int(queues.partition(":")[0], 16)
    return total


def come_and_go(upstream: Opencode, client: Client, subscribers: int, events: int) -> str:
    cpu_ms(upstream, events)  # what is compiled at first use
    before = cpu_ms(upstream, events)
    for _ in range(subscribers):
        client.subscribe().close()
    after = cpu_ms(upstream, events)
    connections = upstream.log().count("event connected")
    return f"{before:5.1f} ms of CPU an event, then {after:5.1f}; upstream has seen {connections} subscribers"


def stall(upstream: Opencode, client: Client, subscribers: int, events: int) -> str:
    streams = [client.ask("/global/event", receive_buffer=4096) for _ in range(subscribers)]
    before = upstream.resident_kib()
    publish(upstream, events, 4000)
    until(lambda: unsent_bytes(upstream.port) == 0 or client is upstream.client)
    resident = (upstream.resident_kib() - before) / 1024
    told = f"upstream {resident:+5.0f} MiB, {unsent_bytes(upstream.port) / 2**20:5.1f} MiB in its sockets"
    for stream in streams:
        stream.reset()
    return told


@click.command()
@click.option("--subscribers", default=200, show_default=True, help="Come and go.")
@click.option("--stalled", default=20, show_default=True, help="Do not read.")
@click.option("--events", default=600, show_default=True, help="Of 1 KB, to measure the CPU that each costs.")
@click.option("--flood", default=12_000, show_default=True, help="Of 4 KB, past those that do not read.")
def main(subscribers: int, stalled: int, events: int, flood: int) -> None:
    """Measure a real server bare and behind a shield."""
    measures: dict[str, Callable[[Opencode, Client], str]] = {
        f"{subscribers} came and went": lambda upstream, client: come_and_go(upstream, client, subscribers, events),
        f"{stalled} stalled, {flood} events": lambda upstream, client: stall(upstream, client, stalled, flood),
    }
    for what, measure in measures.items():
        for is_shielded in (False, True):
            with ExitStack() as stack:
                folder = Path(tempfile.mkdtemp())
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                upstream = Opencode(folder / "opencode", stack.enter_context(Stub()))
                stack.callback(upstream.close)
                upstream.start()
                client, more = upstream.client, ""
                if is_shielded:
                    shield = Daemon(folder / "state", upstream=upstream.url)
                    stack.callback(shield.kill)
                    stack.callback(shield.client.close)
                    client = shield.client
                    until(lambda client=client: client.get("/-/ready").status == 200)  # type: ignore[misc]
                told = measure(upstream, client)
                if is_shielded:
                    more = f"; shield {shield.resident_kib() / 1024:.0f} MiB, at most {shield.peak_kib() / 1024:.0f}"
                click.echo(f"{what}, {'shielded' if is_shielded else 'bare':8}: {told}{more}")


if __name__ == "__main__":
    main()
