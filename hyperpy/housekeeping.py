"""Keeps the store within its quota while the node runs (design 4)."""

from __future__ import annotations

import logging
import threading
import time

from hyperpy import maintenance
from hyperpy.errors import HyperpyError
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore

log = logging.getLogger("hyperpy.store")

EVERY = 50
"""Requests between two looks at the store's size."""

REST = 20
"""After a collection that found nothing to remove: how many times its duration passes before the next."""


class Housekeeping:
    """Removes the oldest unneeded steps, on a thread of its own, when the store has passed its quota."""

    def __init__(self, store: Store) -> None:
        self._store = store if isinstance(store, LmdbStore) else None
        self._left = EVERY
        self._busy = threading.Lock()
        self._rests_until = 0.0

    def tick(self, *, refused: bool = False) -> None:
        """Count one request; now and then, and when the store refused it, look at the store's size. Never raises."""
        self._left -= 1
        if (self._left > 0 and not refused) or self._store is None or time.monotonic() < self._rests_until:
            return
        self._left = EVERY
        if self._store.used > self._store.quota and self._busy.acquire(blocking=False):
            threading.Thread(target=self._collect, args=(self._store,), name="hyperpy-collect", daemon=True).start()

    def close(self) -> None:
        """Wait for a collection under way."""
        with self._busy:
            self._store = None

    def _collect(self, store: LmdbStore) -> None:
        began = time.monotonic()
        try:
            done = maintenance.collect(store)
            log.info("made room: %s records and %s messages removed", done.records, done.messages)
            if not done.records and not done.messages:
                log.error("the store is past its quota, and everything in it is needed: raise [store] quota")
                self._rests_until = time.monotonic() + REST * (time.monotonic() - began)
        except HyperpyError as error:
            log.error("could not make room: %s", error.diagnostics())
        finally:
            self._busy.release()
