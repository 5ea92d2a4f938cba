"""Processes whose next slot no machine's patience is enough for.

Work that a safety net ends is no result: another machine may do it. But a node that did it again for
everybody who asks would do nothing else. After a second time it waits, each time twice as long.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from hyperpy.errors import Busy

ALLOWED: Final = 2
"""How often a slot's work is ended before the node waits."""
WAIT_S: Final = 60.0
LONGEST_S: Final = 3600.0
_MOST: Final = 10_000
"""Processes remembered; the one longest unheard of is forgotten first."""


class _Entry(NamedTuple):
    position: int
    times: int
    until: float


class Stuck:
    """The processes of one node that are stuck; thread-safe.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def check(self, process: str, wanted: int, position: Callable[[], int]) -> None:
        """Refuse a slot behind one whose work was ended too often.

        Args:
            position: returns the last slot that is kept; asked only of a process that was noted.

        Raises:
            Busy: the node does not try again yet; ``retry_after`` says when it does.
        """
        with self._lock:
            entry = self._entries.get(process)
        if entry is None or wanted <= entry.position:
            return
        if position() != entry.position:
            with self._lock:
                self._entries.pop(process, None)
            return
        left = entry.until - self._clock()
        if entry.times < ALLOWED or left <= 0:
            return
        error = Busy(
            f"slot {entry.position + 1} is stuck: its work was ended {entry.times} times for taking too much",
            hint=f"This node tries again in {left:.0f} s. Earlier slots can be read; messages are scheduled.",
        )
        error.retry_after = max(1.0, left)
        raise error

    def note(self, process: str, position: int) -> None:
        """Note that the work on the slot behind ``position`` was ended."""
        with self._lock:
            entry = self._entries.pop(process, None)
            times = entry.times + 1 if entry is not None and entry.position == position else 1
            wait = min(LONGEST_S, WAIT_S * 2.0 ** min(20, times - ALLOWED))
            self._entries[process] = _Entry(position, times, self._clock() + wait)
            while len(self._entries) > _MOST:
                self._entries.popitem(last=False)
