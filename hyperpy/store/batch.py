"""What one request will write, collected until it is committed at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from hyperpy.store.base import PREFIXES, Store


class Learner(Protocol):
    """What wants to know of keys that were committed; see :class:`hyperpy.store.recent.Recent`."""

    def remember(self, key: bytes) -> None: ...


class Batch:
    """What one top-level request will write. Safe to use from many threads."""

    __slots__ = ("_after", "_collections", "_learnt", "_lock", "_pending", "_relied", "durable")

    def __init__(self) -> None:
        self._pending: dict[bytes, bytes] = {}  # by key behind its table's prefix
        self._lock = threading.Lock()
        self._relied: dict[tuple[str, bytes, bytes], Callable[[], object]] = {}
        self._learnt: list[tuple[Learner, bytes]] = []
        self._collections: int | None = None
        self._after: list[Callable[[], object]] = []
        self.durable = False
        """Set to have everything of this batch on the disk when ``commit`` returns."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Add or replace an entry."""
        with self._lock:
            self._pending[PREFIXES[table] + key] = value

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return an entry of this batch, or None."""
        return self._pending.get(PREFIXES[table] + key)

    def has(self, table: str, key: bytes) -> bool:
        """Say whether this batch holds an entry."""
        return PREFIXES[table] + key in self._pending

    def items(self, table: str, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return this batch's entries of a table whose key begins with ``prefix``, by key."""
        with self._lock:
            start = PREFIXES[table] + prefix
            return sorted((name[1:], value) for name, value in self._pending.items() if name.startswith(start))

    def __len__(self) -> int:
        return len(self._pending)

    def watch(self, store: Store) -> None:
        """Notice from now on if old entries are removed. To be called before the store is asked for one to rely on."""
        if self._collections is None:
            self._collections = store.collections

    def rely(self, table: str, key: bytes, again: Callable[[], object], store: Store, use: bytes = b"") -> None:
        """Note that this batch needs an entry the store holds; ``again`` puts it once more, or what can stand for it.

        Args:
            use: tells apart what needs the entry, where ``again`` is not the same for all.
        """
        self.watch(store)
        self._relied[table, key, use] = again

    def learn(self, learner: Learner, key: bytes, store: Store) -> None:
        """Tell the learner of a key of this batch once it is committed, unless old entries are removed meanwhile."""
        self.watch(store)
        self._learnt.append((learner, key))

    def after(self, done: Callable[[], object]) -> None:
        """Have something called once everything is committed."""
        self._after.append(done)

    def clear(self) -> None:
        """Forget everything that was collected."""
        with self._lock:
            self._pending, self._relied, self._learnt, self._after = {}, {}, [], []

    def commit(self, store: Store) -> None:
        """Write everything: at most one synced transaction, then one of the rest; then be empty.

        Raises:
            StoreError: the store cannot take it; the batch still holds everything.
        """
        self._write(store)
        while self._collections is not None and store.collections != self._collections:
            # Old entries are being removed: what this batch found there is perhaps gone by now.
            self._collections = store.collections
            self._learnt = []
            for (table, key, _), again in list(self._relied.items()):
                if store.get(table, key) is None:
                    again()
            self._write(store)
        for learner, key in self._learnt:
            learner.remember(key)
        self._relied, self._learnt, self._collections = {}, [], None
        if self._after:
            done, self._after = self._after, []
            for call in done:
                call()

    def _write(self, store: Store) -> None:
        with self._lock:
            if self._pending:
                store.write_rows(list(self._pending.items()), durable=self.durable)
                self._pending = {}
