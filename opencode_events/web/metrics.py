"""`GET /-/metrics`: what `statistics()` of every part says, in the text format of Prometheus, version 0.0.4.

Nothing is counted for it: an event costs the same whether anybody asks or not. A scrape looks at each handle once, some
in each turn of the loop, so that it holds up nobody. `measures` has the names.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from aiohttp import web
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from opencode_events.broker import census
from opencode_events.broker.broker import Broker
from opencode_events.broker.census import Census
from opencode_events.broker.lifecycle import State
from opencode_events.histogram import Histogram
from opencode_events.web.measures import BACKLOGS, BUILD, LAGGING, LIMIT, MEASURES, PREFIX, READY, SUBSCRIBERS, Measure
from opencode_events.web.operate import Statistics
from opencode_events.web.process import Process

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The handler. `parts` are the statistics of each part of the daemon, by name; `is_ready` is that of `/-/ready`."""

    def __init__(
        self, version: str, broker: Broker, parts: Mapping[str, Statistics], is_ready: Callable[[], bool]
    ) -> None:
        self._version = version
        self._broker = broker
        self._parts = parts
        self._is_ready = is_ready
        self._process = Process()

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer a scrape."""
        found = await census.take(self._broker.subscribers.values(), self._broker.clock())
        body = generate_latest(
            Scrape([*self._about(), *of_parts(self._parts), *of_handles(found), *self._process.collect()])
        )
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    def _about(self) -> Iterator[Metric]:
        yield InfoMetricFamily(BUILD, "The program that runs.", {"version": self._version})
        yield GaugeMetricFamily(READY, "1 while it can be published and subscribed to.", float(self._is_ready()))
        limit = self._broker.settings.max_subscribers
        yield GaugeMetricFamily(LIMIT, "The most subscribers that there may be.", limit)


class Scrape(Collector):
    """What is answered, as the library wants it."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return it."""
        return self._families


def of_parts(parts: Mapping[str, Statistics]) -> Iterator[Metric]:
    """Yield what the parts have counted. A part that is not there has no metrics: those of a server behind."""
    statistics = {name: part() for name, part in parts.items()}
    for measure in MEASURES:
        if measure.part in statistics:
            yield _family(measure, statistics[measure.part][measure.member])


def of_handles(found: Census) -> Iterator[Metric]:
    """Yield how many handles there are, and how what waits for them is distributed."""
    subscribers = GaugeMetricFamily(SUBSCRIBERS, "Subscribers by stream and state.", labels=("stream", "state"))
    for stream in ("instance", "global"):
        for state in State:
            if state is not State.CLOSED:
                subscribers.add_metric((stream, state.value), found.states[stream, state.value])
    yield subscribers
    yield GaugeMetricFamily(LAGGING, "Those whose backlog has passed three quarters of a cap.", found.lagging)
    for member, (name, text) in BACKLOGS.items():
        histogram: Histogram = getattr(found, member)
        yield GaugeHistogramMetricFamily(name, text, buckets=_buckets(histogram), gsum_value=histogram.sum)


def _family(measure: Measure, value: object) -> Metric:
    """Return one metric with its value, or its values."""
    name = PREFIX + measure.name
    if measure.kind == "histogram":
        assert isinstance(value, Histogram)
        return HistogramMetricFamily(name, measure.help, buckets=_buckets(value), sum_value=value.sum)
    family = CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily
    if not measure.label:
        assert isinstance(value, int | float)
        return family(name, measure.help, float(value))
    assert _is_mapping(value)
    found = family(name, measure.help, labels=(measure.label,))
    for each, count in {**dict.fromkeys(measure.values, 0), **value}.items():
        found.add_metric((each,), count)
    return found


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return a histogram's buckets as the library wants them."""
    buckets = [(str(float(bound)), float(count)) for bound, count in histogram.buckets()]
    return [*buckets, ("+Inf", float(histogram.count))]


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)
