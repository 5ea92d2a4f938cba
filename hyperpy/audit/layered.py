"""A store over another one: it is read through, and never written to."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, Final

from hyperpy.store.base import Delete, Put, Store
from hyperpy.store.memory import MemoryStore

SEEN: Final = frozenset(
    {"messages", "ambiguous", "commitments", "claims", "aliases", "assignments", "heads", "names", "origins"}
    | {"trail", "by-result", "by-hashpath"}
)
"""Tables that show through. Results, states and settings do not: what is made again is not looked up."""
_PLAIN_HEAD: Final = 32
"""Bytes of the key of a schedule's end; snapshots have longer ones."""


class Layered:
    """Implements :class:`hyperpy.store.base.Store`: writes stay in memory."""

    prompt = True

    def __init__(self, below: Store) -> None:
        self.collections = 0
        self.crowded = False
        self._below = below
        self._top = MemoryStore()

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value, or None."""
        found = self._top.get(table, key)
        if found is not None or not _seen(table, key):
            return found
        return self._below.get(table, key)

    def write(self, puts: Sequence[Put], deletes: Sequence[Delete] = (), *, durable: bool = False) -> None:
        """Write into memory; what lies below cannot be deleted."""
        self._top.write(puts, deletes)

    def write_rows(self, rows: Sequence[tuple[bytes, bytes]], *, durable: bool = False) -> None:
        """Write into memory."""
        self._top.write_rows(rows)

    def scan(self, table: str, prefix: bytes = b"", after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs of both, by key; the upper one's value counts."""
        upper = self._top.scan(table, prefix, after)
        if table not in SEEN:
            yield from upper
            return
        lower = ((key, value) for key, value in self._below.scan(table, prefix, after) if _seen(table, key))
        last: bytes | None = None
        for key, _, value in heapq.merge(((k, 0, v) for k, v in upper), ((k, 1, v) for k, v in lower)):
            if key != last:
                yield key, value
            last = key

    def stats(self) -> dict[str, Any]:
        """Return what was written."""
        return self._top.stats()

    def close(self) -> None:
        """Forget what was written; the store below stays open."""
        self._top.close()


def _seen(table: str, key: bytes) -> bool:
    return table in SEEN and (table != "heads" or len(key) <= _PLAIN_HEAD)
