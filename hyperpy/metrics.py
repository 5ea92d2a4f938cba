"""The node's counters, in the Prometheus text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """Counts steps and requests of one node; implements the ``metrics`` capability."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._steps = Counter(
            "hyperpy_steps", "Steps resolved, by device and status.", ["device", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "hyperpy_step_seconds", "Seconds a step took.", buckets=_BUCKETS, registry=self._registry
        )
        self._requests = Counter(
            "hyperpy_requests", "Requests answered, by HTTP status.", ["status"], registry=self._registry
        )
        self.stopped = Gauge(
            "hyperpy_device_threads_stopped", "Device calls stopped past their deadline.", registry=self._registry
        )
        self._step_cells: dict[tuple[str, str], Counter] = {}
        self._request_cells: dict[int, Counter] = {}

    def step(self, device: str, key: str, status: str, seconds: float, hashpath: str | None) -> None:
        """Count one step; an observer of the resolver."""
        cell = self._step_cells.get((device, status))
        if cell is None:
            cell = self._step_cells[device, status] = self._steps.labels(device, status)
        cell.inc()
        self._seconds.observe(seconds)

    def request(self, status: int) -> None:
        """Count one answered request."""
        cell = self._request_cells.get(status)
        if cell is None:
            cell = self._request_cells[status] = self._requests.labels(str(status))
        cell.inc()

    def render(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
