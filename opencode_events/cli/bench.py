"""`bench`: measures a running daemon with the load tool of `opencode_events.bench`."""

import dataclasses
import os
import sys
from pathlib import Path

import click

from opencode_events.bench.errors import BenchError
from opencode_events.bench.measure import Lab, Options
from opencode_events.bench.procfs import Process
from opencode_events.bench.report import document, is_sound, tables
from opencode_events.bench.rows import Row
from opencode_events.bench.scenarios import SCENARIOS
from opencode_events.bench.target import Target
from opencode_events.cli import client
from opencode_events.cli.exits import Exit
from opencode_events.cli.options import Seconds, setting_options, url_option
from opencode_events.errors import DaemonError

QUICK_S = 0.3
QUICK_WARM_UP_S = 0.1
WARM_UP_S = 1.0
MAX_PROCESSES = 4
QUICK_HISTORY = 200
LEAST_SIZE = 180  # bytes, in which the largest numbers find place


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@setting_options("state_dir")
@url_option
@click.option("--pid", type=click.IntRange(min=1), help="The daemon's process; asked of GET /-/status unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.option("--subscribers", type=click.IntRange(min=1), help="Subscribers instead of the scenario's own number.")
@click.option("--seconds", type=Seconds(0.1), default=5.0, show_default=True, help="Length of a measurement.")
@click.option("--processes", type=click.IntRange(1, 64), help="Reader processes.  [default: one per core but one]")
@click.option("--cpu", "cpus", type=click.IntRange(0), multiple=True, help="Keep this tool on this core; repeatable.")
@click.option("--size", type=click.IntRange(LEAST_SIZE), default=200, show_default=True, help="Bytes of an event.")
@click.option(
    "--in-flight", type=click.IntRange(1), default=8, show_default=True, help="Unanswered requests at a time."
)
@click.option(
    "--history", type=click.IntRange(1), default=10_000, show_default=True, help="Events of the log that are replayed."
)
@click.option("--header", "headers", multiple=True, help="One more line of every request: 'Name: value'; repeatable.")
@click.option("--quick", is_flag=True, help="A smoke run of seconds with few subscribers: its figures mean little.")
def bench(
    scenarios: tuple[str, ...],
    config: Path | None,
    state_dir: str | None,
    url: str | None,
    pid: int | None,
    as_json: bool,
    subscribers: int | None,
    seconds: float,
    processes: int | None,
    cpus: tuple[int, ...],
    size: int,
    in_flight: int,
    history: int,
    headers: tuple[str, ...],
    quick: bool,
) -> None:
    """Measure a running daemon from outside: throughput, latency, memory, and whether all events arrived in order.

    SCENARIO is one or several of idle, fanout-1000, batch-1000, fanout-100,
    ndjson-100, latency-1000, stalled, stalled-latency, publish, replay, storm and
    scaling; without one it is all of them. Throughput is told per second of the
    daemon's CPU time, read from /proc. For steady figures keep the daemon on a
    core of its own (taskset) and this tool off it (--cpu).

    Fails if an event was lost, duplicated or disordered, if the daemon ended a stream, or if there was nothing to
    measure.
    """
    options = Options(
        seconds=QUICK_S if quick else seconds,
        warm_up_s=QUICK_WARM_UP_S if quick else min(WARM_UP_S, seconds),
        subscribers=subscribers,
        processes=processes or max(1, min(MAX_PROCESSES, (os.cpu_count() or 2) - 1)),
        size=size,
        in_flight=in_flight,
        history=min(history, QUICK_HISTORY) if quick else history,
        quick=quick,
    )
    address = client.find_url(url, config, state_dir) or client.DEFAULT_URL
    if cpus:
        keep_on(cpus)
    if (shown := client.authorization()) and not any(each.lower().startswith("authorization:") for each in headers):
        headers += (f"Authorization: {shown}",)
    target = Target.parse(address, headers)
    try:
        told_pid = target.ask_pid()
    except BenchError as error:
        raise DaemonError(str(error), exit_code=Exit.NOT_RUNNING) from error
    lab = Lab(target=target, process=Process(told_pid if pid is None else pid), options=options)
    rows: list[Row] = []
    try:
        for name in scenarios or SCENARIOS:
            click.echo(f"measuring {name}", err=True)
            rows += SCENARIOS[name](lab, name)
    except BenchError:
        if rows and not as_json:
            click.echo(tables(rows))
        raise
    if as_json:
        click.echo(document(rows, url=address, pid=lab.process.pid, options=dataclasses.asdict(options)))
    else:
        click.echo(tables(rows))
    if not is_sound(rows):
        sys.exit(Exit.FAILED)


def keep_on(cpus: tuple[int, ...]) -> None:
    """Keep this process, and those that it will start, on `cpus`."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise click.BadParameter(f"{', '.join(map(str, cpus))}: {error.strerror}", param_hint="--cpu") from error
