"""How many threads compiled loops use: all, or one while other programs need the processor.

Threads that share a loop wait for each other some hundred times a token. Where one of them does not get its core, all
stand still, and a token can take a hundred times as long; one thread alone just gets its share. No bit depends on it.
"""

from __future__ import annotations

from typing import Final

SLOW: Final = 4.0
"""A call that takes so many times the best one's time was held up by others."""
_FORGET: Final = 1.01
"""Growth of the best time with each call: calls become slower as sessions become longer."""
_FIRST, _LAST = 16, 512


class Pace:
    """Decides before each call for one token; told afterwards how long it took."""

    def __init__(self) -> None:
        self._best = float("inf")
        self._alone = 0
        self._patience = _FIRST

    @property
    def alone(self) -> bool:
        """Whether the next call is for one thread."""
        return self._alone > 0

    def took(self, seconds: float) -> None:
        """Note how long a call took."""
        if self._alone:
            self._alone -= 1
            return
        if seconds > SLOW * self._best:
            self._alone, self._patience = self._patience, min(2 * self._patience, _LAST)
        else:
            self._patience = _FIRST
        self._best = min(seconds, self._best * _FORGET)
