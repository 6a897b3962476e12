"""What the process says of itself, also when there is nothing left to ask with."""

import math
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector

from opencode_events.web import process
from opencode_events.web.process import Process, open_descriptors


def said(collector: Process | ProcessCollector) -> dict[str, float]:
    return {sample.name: sample.value for family in collector.collect() for sample in family.samples}


@pytest.fixture
def no_descriptors() -> Iterator[None]:
    """Nothing more can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 10, limits[1]))
    try:
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in opened:
            os.close(descriptor)


def test_it_says_what_every_program_says() -> None:
    ours, theirs = said(Process()), said(ProcessCollector(registry=None))

    assert ours.keys() == theirs.keys()
    assert ours["process_start_time_seconds"] == theirs["process_start_time_seconds"] < time.time()
    assert ours["process_max_fds"] == theirs["process_max_fds"]
    assert ours["process_open_fds"] == pytest.approx(theirs["process_open_fds"], abs=1)
    assert ours["process_cpu_seconds_total"] == pytest.approx(theirs["process_cpu_seconds_total"], abs=0.1)
    assert ours["process_resident_memory_bytes"] == pytest.approx(theirs["process_resident_memory_bytes"], rel=0.1)


def test_when_no_descriptor_is_left_it_still_says_so(no_descriptors: None) -> None:
    found = said(Process())

    if process.DESCRIPTORS.stat().st_size:  # before Linux 6.2 they have to be listed, for which it takes one
        assert found["process_open_fds"] >= found["process_max_fds"] - 1
    assert found["process_cpu_seconds_total"] > 0


def test_where_the_number_of_descriptors_is_not_told_they_are_listed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Untold(type(tmp_path)):  # type: ignore[misc]  # it is PosixPath
        def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            return os.stat_result((0,) * 10)

    for name in "abc":
        (tmp_path / name).touch()
    monkeypatch.setattr(process, "DESCRIPTORS", Untold(tmp_path))

    assert open_descriptors() == 3


def test_what_the_system_does_not_tell_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DESCRIPTORS", Path("/nowhere"))
    monkeypatch.setattr(process, "memory_bytes", lambda: (0, 0))
    monkeypatch.setattr(process, "ProcessCollector", lambda registry: ProcessCollector(proc="/nowhere", registry=None))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = said(Process())

    assert found.keys() == {"process_cpu_seconds_total", "process_max_fds"}
    assert found["process_max_fds"] == math.inf
