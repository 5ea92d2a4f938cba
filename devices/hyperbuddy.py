"""hyperbuddy@1.0: the node's metrics, and a plain page for a message."""

from __future__ import annotations

from html import escape

from hyperpy import Message, device, key
from hyperpy.capabilities import Metrics
from hyperpy.message import Link, Value, as_text


@device("hyperbuddy@1.0", needs=("metrics",))
class Hyperbuddy:
    """Shows people what is going on."""

    def start(self, metrics: Metrics) -> None:
        """Take the node's counters."""
        self._metrics = metrics

    @key(deterministic=False, reads=True)
    def metrics(self) -> Message:
        """Return all metrics in the Prometheus text format."""
        return Message({"content-type": "text/plain; version=0.0.4; charset=utf-8", "body": self._metrics.render()})

    @key
    def index(self, base: Message) -> Message:
        """Return an HTML page that lists the keys and values of the base."""
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(_show(base.raw(name)))}</td></tr>"
            for name in base
            if name != "device"
        )
        page = (
            "<!doctype html><meta charset=utf-8><title>hyperpy</title>"
            "<style>body{font:14px/1.5 system-ui;margin:2em}th{text-align:left;padding-right:2em}</style>"
            f"<h1>Message</h1><table>{rows}</table>"
        )
        return Message({"content-type": "text/html; charset=utf-8", "body": page})


def _show(item: Value | None) -> str:
    if isinstance(item, Link):
        return f"link to {item.id}"
    if isinstance(item, Message):
        return f"message of {len(item)} keys"
    if isinstance(item, tuple):
        return f"list of {len(item)}"
    return as_text(item if item is not None else b"")[:400]
