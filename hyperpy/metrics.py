"""The node's counters, in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hyperpy.message import Message


class _Cell:
    """A counter that any thread may raise without a lock; reading it does not raise it."""

    __slots__ = ("_reads", "_ticks", "raise_")

    def __init__(self) -> None:
        self._ticks = count()
        self._reads = 0
        self.raise_ = self._ticks.__next__

    def value(self) -> int:
        """Return how often it was raised. One reader at a time."""
        seen = next(self._ticks) - self._reads
        self._reads += 1
        return seen


class Metrics:
    """Counts steps and requests of one node; implements the ``metrics`` capability."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._steps: dict[tuple[str, str], _Cell] = {}
        self._requests: dict[int, _Cell] = {}
        self._gauges: dict[str, tuple[str, object]] = {}

    def step(self, device: str, key: str, status: str, base: Message) -> None:
        """Count one step; an observer of the resolver."""
        cell = self._steps.get((device, status))
        if cell is None:
            cell = self._steps.setdefault((device, status), _Cell())
        cell.raise_()

    def request(self, status: int) -> None:
        """Count one answered request."""
        cell = self._requests.get(status)
        if cell is None:
            cell = self._requests.setdefault(status, _Cell())
        cell.raise_()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; called by prometheus_client."""
        steps = CounterMetricFamily("hyperpy_steps", "Steps resolved.", labels=["device", "status"])
        for (device, status), cell in sorted(self._steps.items()):
            steps.add_metric([device, status], cell.value())
        yield steps
        requests = CounterMetricFamily("hyperpy_requests", "Requests answered, by HTTP status.", labels=["status"])
        for code, cell in sorted(self._requests.items()):
            requests.add_metric([str(code)], cell.value())
        yield requests
        for name, (text, read) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=float(read()))  # type: ignore[operator]

    def gauge(self, name: str, text: str, read: object) -> None:
        """Show what ``read()`` returns whenever the metrics are read."""
        self._gauges[name] = (text, read)

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
