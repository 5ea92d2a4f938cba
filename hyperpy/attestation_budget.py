"""How many reports the hardware is asked for within a minute, and who may have how many of them."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from typing import Final

from hyperpy.attest.codes import require

OWN: Final = "own"
"""Evidence of the node's own key, and whatever the operator asks for."""
ASKED: Final = "asked"
"""Evidence of the node that a client asks for: ``/~tee@1.0/attest``, ``/~snp@1.0/generate``."""
ZONE: Final = "zone"
"""Evidence for who knocks at a zone's door."""
RESULT: Final = "result"
"""Evidence of results."""

PERIOD_S: Final = 60.0


class Budget:
    """Counts reports. Thread-safe.

    A tenth of all is kept for the node's own key and the operator. What is asked for about the node, and zones, may
    have half each, and both together leave a quarter for results. One client may have a quarter of all for what it
    asks about the node, and half of all for its results; each of these is one report at least.

    Args:
        most: reports within a minute.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._spent: deque[tuple[float, str, Sequence[str]]] = deque()
        self._uses: Counter[str] = Counter()
        self._clients: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def check(self, client: str) -> None:
        """Raise AttestationError ``attester/rate-limited`` if a client has had its share of results."""
        with self._lock:
            self._forget(time.monotonic())
            self._own_share(RESULT, client)

    def spend(self, use: str, clients: Collection[str] = ()) -> None:
        """Count a report, for each client that has it; raise AttestationError ``attester/rate-limited`` instead.

        Args:
            use: one of those above. clients: addresses that requests came from; empty where that is not known.
        """
        most, named = self._most, tuple(set(clients))
        with self._lock:
            now = time.monotonic()
            self._forget(now)
            kept = 0 if use == OWN else most // 10
            _held(len(self._spent) < most - kept)
            if use in (ASKED, ZONE):
                _held(self._uses[use] < max(1, most // 2))
                both = self._uses[ASKED] + self._uses[ZONE]
                _held(both < max(1, most - kept - most // 4))
            if use == ASKED:
                for one in named:
                    self._own_share(use, one)
            self._spent.append((now, use, named))
            self._uses[use] += 1
            self._clients.update((use, one) for one in named)

    def _own_share(self, use: str, client: str) -> None:
        share = self._most // (4 if use == ASKED else 2)
        _held(self._clients[use, client] < max(1, share), "this client asked for too many reports within a minute")

    def _forget(self, now: float) -> None:
        while self._spent and now - self._spent[0][0] >= PERIOD_S:
            _, use, named = self._spent.popleft()
            self._uses[use] -= 1
            for one in named:
                self._clients[use, one] -= 1
                if not self._clients[use, one]:
                    del self._clients[use, one]


def _held(fits: bool, text: str = "the hardware was asked for too many reports within a minute") -> None:
    require(fits, "attester/rate-limited", text)
