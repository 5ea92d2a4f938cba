"""A store in the memory of the process: for tests, and for nodes that keep nothing."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from typing import Any

from hyperpy.errors import StoreError
from hyperpy.store.base import TABLES, Delete, Put, by_table, check_value, table

_CHUNK = 256


class MemoryStore:
    """Implements :class:`hyperpy.store.base.Store`; everything is gone when the process ends."""

    prompt = True
    """Writing waits for nothing."""

    def __init__(self) -> None:
        self.collections = 0
        self.crowded = False
        self._tables: dict[str, dict[bytes, bytes]] = {name: {} for name in TABLES}
        self._sorted: dict[str, list[bytes]] = {}  # tables that were scanned, kept in order from then on
        self._lock = threading.Lock()
        self._closed = False

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value, or None."""
        return self._table(table).get(key)

    def write(self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, durable: bool = False) -> None:
        """Apply all, or nothing."""
        for name, _, value in puts:
            check_value(value)
            self._table(name)
        for name, _ in deletes:
            self._table(name)
        with self._lock:
            for name, key, value in puts:
                rows = self._tables[name]
                if key not in rows and name in self._sorted:
                    insort(self._sorted[name], key)
                rows[key] = value
            for name, key in deletes:
                if self._tables[name].pop(key, None) is not None and name in self._sorted:
                    keys = self._sorted[name]
                    del keys[bisect_left(keys, key)]

    def write_rows(self, rows: Sequence[tuple[bytes, bytes]], *, durable: bool = False) -> None:
        """Apply all, or nothing; keys begin with their table's prefix."""
        self.write(by_table(rows), durable=durable)

    def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield pairs by key; see the protocol."""
        rows = self._table(table)
        while True:
            with self._lock:
                keys = self._sorted.get(table)
                if keys is None:
                    keys = self._sorted[table] = sorted(rows)
                at = bisect_left(keys, prefix) if after is None or after < prefix else bisect_right(keys, after)
                chunk = [(key, rows[key]) for key in keys[at : at + _CHUNK]]
            for key, value in chunk:
                if not key.startswith(prefix):
                    return
                yield key, value
            if len(chunk) < _CHUNK:
                return
            after = chunk[-1][0]

    def stats(self) -> dict[str, Any]:
        """Return the number of entries per table and the bytes of their values."""
        with self._lock:
            return {
                "kind": "memory",
                "entries": {name: len(rows) for name, rows in self._tables.items() if rows},
                "bytes": sum(len(value) for rows in self._tables.values() for value in rows.values()),
            }

    def close(self) -> None:
        """Refuse further use."""
        self._closed = True

    def _table(self, name: str) -> dict[bytes, bytes]:
        if self._closed:
            raise StoreError("the store is closed")
        table(name)
        return self._tables[name]
