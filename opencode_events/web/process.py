"""What the system knows of this process, under the names that every program has for it: `process_*`.

prometheus-client has the same, but lists all descriptors to count them, which holds the loop for 10 ms where there are
ten thousand, and opens files for all of it, so that it says nothing when no descriptor is left: when it is asked for.
"""

import math
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from opencode_events.web.memory import memory_bytes

DESCRIPTORS = Path("/proc/self/fd")
STARTED = "process_start_time_seconds"


class Process:
    """The process that makes it. What a system does not tell is not there."""

    def __init__(self) -> None:
        self._started = [family for family in ProcessCollector(registry=None).collect() if family.name == STARTED]

    def collect(self) -> Iterator[Metric]:
        """Yield what there is to say now."""
        yield from self._started
        yield CounterMetricFamily(
            "process_cpu_seconds", "Total user and system CPU time spent in seconds.", time.process_time()
        )
        space, resident = memory_bytes()
        if resident:
            yield GaugeMetricFamily("process_virtual_memory_bytes", "Virtual memory size in bytes.", space)
            yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory size in bytes.", resident)
        opened = open_descriptors()
        if opened:
            yield GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", opened)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = math.inf if limit == resource.RLIM_INFINITY else limit
        yield GaugeMetricFamily("process_max_fds", "Maximum number of open file descriptors.", most)


def open_descriptors() -> int:
    """Return how many files are open; 0 where the system does not tell. Since Linux 6.2 it tells without a list."""
    try:
        return DESCRIPTORS.stat().st_size or len(list(DESCRIPTORS.iterdir()))
    except OSError:
        return 0
