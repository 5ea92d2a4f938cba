"""Who may run: a bounded number of guests at once, and nobody waits long behind those that never end."""

from __future__ import annotations

import threading
import time
from typing import Final

from hyperpy.errors import Busy

SHORT: Final = 16
"""Guests at once that have just begun."""
LONG: Final = 16
"""Guests at once that have run for longer than :data:`LONG_S`; they hold no place of those that begin."""
LONG_S: Final = 1.0
_LOOK_S: Final = 0.1


class Places:
    """The places of a node's guests; thread-safe.

    A guest begins in one of ``short`` places. One that still runs after ``long_s`` seconds gives it to the next and
    goes on in one of ``long`` places, as far as there are any; so guests that never end take the places of their
    like.
    """

    def __init__(self, short: int = SHORT, long: int = LONG, long_s: float = LONG_S) -> None:
        self._short, self._long, self._long_s = short, long, long_s
        self._change = threading.Condition()
        self._begun: dict[object, float] = {}
        self._slow: set[object] = set()

    def take(self, deadline: float) -> object:
        """Wait for a place; return what gives it back.

        Args:
            deadline: monotonic seconds.

        Raises:
            Busy: there was none in time.
        """
        token = object()
        with self._change:
            while True:
                now = time.monotonic()
                self._promote(now)
                if len(self._begun) < self._short:
                    self._begun[token] = now
                    return token
                if now >= deadline:
                    raise Busy("too many WebAssembly calls run at once")
                self._change.wait(min(_LOOK_S, deadline - now))

    def give(self, token: object) -> None:
        """Give a place back."""
        with self._change:
            self._begun.pop(token, None)
            self._slow.discard(token)
            self._change.notify()

    def _promote(self, now: float) -> None:
        for token, begun in list(self._begun.items()):  # the longest running first
            if len(self._slow) >= self._long or now - begun < self._long_s:
                return
            del self._begun[token]
            self._slow.add(token)
