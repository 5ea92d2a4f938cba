"""CPU time per operation."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: the operation.
        us: CPU microseconds per operation: median of the rounds.
        low, high: least and most of the rounds.
        hashing: the part of ``us`` that bare hashing or signing of the same bytes takes, 0 to 1.
        budget: what it should stay under, microseconds.
        peer: the better of two generations of the reference, microseconds; 0 if not measured.
    """

    name: str
    us: float
    low: float
    high: float
    budget: float = 0.0
    peer: float = 0.0
    hashing: float | None = None


def cpu(
    operation: Callable[[], object],
    *,
    rounds: int = 7,
    seconds: float = 0.15,
    settle: Callable[[], object] = lambda: None,
) -> tuple[float, float, float]:
    """Return (median, least, most) CPU microseconds per call over ``rounds`` rounds of ``seconds`` each.

    ``settle`` ends each round and is counted: it finishes what the operations left to other threads.
    """
    operation()
    began = time.process_time_ns()
    for _ in range(10):
        operation()
    once = max(1, (time.process_time_ns() - began) // 10)
    count = max(1, min(200_000, int(seconds * 1e9 / once)))
    found = []
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            before = time.process_time_ns()
            for _ in range(count):
                operation()
            settle()
            found.append((time.process_time_ns() - before) / count / 1000)
            gc.collect(0)
    finally:
        if enabled:
            gc.enable()
    return statistics.median(found), min(found), max(found)


def machine() -> str:
    """Return one line on the machine and the Python."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}"
