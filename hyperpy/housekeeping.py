"""Keeps the store within its quota, and the trail as old as it may be, while the node runs (design 4)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from hyperpy import maintenance, retention
from hyperpy.config import Config
from hyperpy.errors import HyperpyError
from hyperpy.store.base import Store
from hyperpy.store.lmdb import LmdbStore

log = logging.getLogger("hyperpy.store")

EVERY = 50
"""Requests between two looks at the store's size."""

REST = 20
"""After a collection that found nothing to remove: how many times its duration passes before the next."""


class Housekeeping:
    """Removes, on a thread of its own, the oldest unneeded steps when the store has passed its quota, and old ones."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store if isinstance(store, LmdbStore) else None
        self._config = config
        self._left = EVERY
        self._busy = threading.Lock()
        self._rests_until = 0.0
        self._looks_at = 0.0

    def tick(self, *, refused: bool = False) -> None:
        """Count one request; now and then, and when the store refused it, look at the store. Never raises."""
        self._left -= 1
        if (self._left > 0 and not refused) or self._store is None:
            return
        self._left = EVERY
        now = time.monotonic()
        if now >= self._looks_at and retention.is_limited(self._config):
            self._looks_at = now + retention.EVERY_S
            self._start(self._retain, self._store)
        elif now >= self._rests_until and self._store.used > self._store.quota:
            self._start(self._collect, self._store)

    def close(self) -> None:
        """Wait for a collection under way."""
        with self._busy:
            self._store = None

    def _start(self, work: Callable[[LmdbStore], None], store: LmdbStore) -> None:
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._run, args=(work, store), name="hyperpy-collect", daemon=True).start()

    def _run(self, work: Callable[[LmdbStore], None], store: LmdbStore) -> None:
        try:
            work(store)
        except HyperpyError as error:
            log.error("could not make room: %s", error.diagnostics())
        finally:
            self._busy.release()

    def _retain(self, store: LmdbStore) -> None:
        retention.apply(store, self._config)

    def _collect(self, store: LmdbStore) -> None:
        began = time.monotonic()
        retention.expire(store, time.time())
        done = maintenance.collect(store)
        retention.note(store, done)
        if not done.records and not done.messages:
            log.error("the store is past its quota, and everything in it is needed: raise [store] quota")
            self._rests_until = time.monotonic() + REST * (time.monotonic() - began)
