"""Challenges that this node gave out: each is good once, for 300 seconds (tee-attestation 7.3)."""

from __future__ import annotations

import threading
from typing import Final

from hyperpy.attest.codes import refusal, require

LIFE_S: Final = 300.0
MOST: Final = 10_000
"""Challenges that are remembered; beyond, the oldest are forgotten."""


class Nonces:
    """A store of challenges. Thread-safe."""

    def __init__(self) -> None:
        self._given: dict[bytes, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def give(self, nonce: bytes, now: float) -> None:
        """Note that a challenge was given out.

        Args:
            now: seconds since 1970.
        """
        with self._lock:
            while self._given and (len(self._given) >= MOST or next(iter(self._given.values()))[0] < now - LIFE_S):
                del self._given[next(iter(self._given))]
            self._given[nonce] = (now + LIFE_S, True)

    def take(self, nonce: bytes, now: float) -> None:
        """Use a challenge up.

        Raises:
            AppraisalError: ``freshness/nonce-mismatch`` (not given out here), ``freshness/nonce-reused``,
                ``freshness/stale``.
        """
        with self._lock:
            found = self._given.get(nonce)
            if found is None:
                raise refusal("freshness/nonce-mismatch", "this node gave no such challenge out", hint=_AGAIN)
            until, unused = found
            self._given[nonce] = (until, False)
        require(unused, "freshness/nonce-reused", "the challenge was used before")
        require(now <= until, "freshness/stale", "the challenge's time has passed")


_AGAIN: Final = "Ask for one: /~tee@1.0/challenge."
