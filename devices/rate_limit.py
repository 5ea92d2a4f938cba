"""rate-limit@1.0: a request hook with one token bucket per client address (v0.9-final 5)."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from hyperpy import Message, device, key
from hyperpy.capabilities import NodeControl
from hyperpy.errors import TooManyRequests
from hyperpy.message import as_text

_CLIENTS = 100_000


@device("rate-limit@1.0", needs=("node",))
class RateLimit:
    """Refuses clients that ask too often with 429 and ``retry-after``.

    Settings: ``rate-limit-requests`` tokens per ``rate-limit-period`` seconds; the balance may go down
    to ``rate-limit-min``; addresses in ``rate-limit-exempt`` are free.
    """

    def start(self, node: NodeControl) -> None:
        """Take the node's settings."""
        self._node = node
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @key(deterministic=False)
    def request(self, request: Message) -> Message:
        """Let the request pass, or raise TooManyRequests."""
        source = request.get("request")
        peer = str(source.private.get("peer", "")) if isinstance(source, Message) else ""
        exempt = self._node.setting("rate-limit-exempt", ())
        if peer and peer not in {as_text(item) for item in exempt}:
            self._spend(peer)
        return request

    def _spend(self, peer: str) -> None:
        most = float(self._node.setting("rate-limit-requests", 1000))
        period = float(self._node.setting("rate-limit-period", 60))
        lowest = min(-1.0, float(self._node.setting("rate-limit-min", -1000)))
        now = time.monotonic()
        with self._lock:
            tokens, since = self._buckets.pop(peer, (most, now))
            tokens = max(lowest, min(most, tokens + (now - since) * most / period) - 1)
            self._buckets[peer] = (tokens, now)
            if len(self._buckets) > _CLIENTS:
                self._buckets.popitem(last=False)
        if tokens < 0:
            error = TooManyRequests(f"more than {most:.0f} requests in {period:.0f} s from {peer}")
            error.retry_after = -tokens * period / most
            raise error
