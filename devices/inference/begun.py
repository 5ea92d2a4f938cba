"""Answers that were begun for a process and not finished in time: the next try reads them, and goes on from there.

Reading tokens is much faster than making them, so each try gets further, and a slot that is more than a slow machine
makes within one deadline is computed in the end. What is read is compared token by token, as a claimed answer is in a
replay; it changes no bit.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

MOST: Final = 64
"""Answers remembered; the one longest unheard of is forgotten first."""


class Begun:
    """Ids of unfinished answers, by what was asked; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, ...], list[list[int]]] = OrderedDict()

    def take(self, asked: tuple[str, ...]) -> Sequence[Sequence[int]]:
        """Return the ids of each choice, and forget them."""
        with self._lock:
            return self._known.pop(asked, [])

    def keep(self, asked: tuple[str, ...], ids: list[list[int]]) -> None:
        """Remember the ids of each choice so far."""
        with self._lock:
            self._known[asked] = ids
            self._known.move_to_end(asked)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
