"""What was committed to the journal and is not yet in the main tables: a mapping in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Change: TypeAlias = tuple[bytes, bytes | None]
"""A key with its table's prefix, and its new value; None deletes."""

_LONG = 33
_HEAD = 17


class Overlay:
    """Changes by key. One thread adds; any number read.

    Keys longer than an ID are index entries that get looked up by prefix; they are also kept by
    their first 17 bytes (table and 16 bytes).
    """

    __slots__ = ("_heads", "batches", "changes", "size")

    def __init__(self) -> None:
        self.changes: dict[bytes, bytes | None] = {}
        self.batches: list[Sequence[Change]] = []
        """The batches in order of arrival."""
        self.size = 0
        """About how many bytes are held."""
        self._heads: dict[bytes, list[bytes]] = {}

    def add(self, batch: Sequence[Change], size: int) -> None:
        """Apply one batch of about ``size`` bytes."""
        self.changes.update(batch)
        self.size += size
        self.batches.append(batch)
        for key, _ in batch:
            if len(key) > _LONG:
                self._heads.setdefault(key[:_HEAD], []).append(key)

    def within(self, prefix: bytes, after: bytes | None) -> dict[bytes, bytes | None]:
        """Return the changes of keys that begin with ``prefix`` and are greater than ``after``."""
        if not self.changes:
            return {}
        if len(prefix) >= _HEAD and len(prefix) > _LONG - 16:
            names = list(self._heads.get(prefix[:_HEAD], ()))
            if len(prefix) <= _LONG and prefix in self.changes:
                names.append(prefix)
        else:
            names = list(self.changes)
        return {key: self.changes[key] for key in names if key.startswith(prefix) and (after is None or key > after)}
