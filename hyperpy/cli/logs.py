"""The log: one line per event on standard error, for people or as JSON.

Configured once, by the verb that serves. INFO has one line per request, DEBUG one per step. No line holds
a key, a body or a private element.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from hyperpy.message import Message
from hyperpy.node import Node

LEVELS = ("debug", "info", "warning", "error")
steps = logging.getLogger("hyperpy.step")


def configure(level: str, *, as_json: bool = False) -> None:
    """Send the package's log to standard error.

    Args:
        level: lowest level shown, one of :data:`LEVELS`.
        as_json: write one JSON object per line.
    """
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: structlog.types.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=True)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    package = logging.getLogger("hyperpy")
    package.handlers[:] = [handler]
    package.setLevel(level.upper())
    package.propagate = False


@contextmanager
def only_ours() -> Iterator[None]:
    """Keep what devices log while a step is made again off the terminal: the report says it."""
    devices = logging.getLogger("hyperpy.device")
    level = devices.level
    devices.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        devices.setLevel(level)


def log_steps(node: Node) -> None:
    """Write one DEBUG line per step of a node, if that level is shown."""
    if steps.isEnabledFor(logging.DEBUG):
        node.resolver.observers.append(_step)


def _step(device: str, key: str, status: str, base: Message) -> None:
    steps.debug("%s/%s %s", device, key, status)
