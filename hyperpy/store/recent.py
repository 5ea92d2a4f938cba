"""What was stored lately: spares asking the store for keys that are surely there."""

from __future__ import annotations

from hyperpy.store.base import Store

_MOST = 16_384


class Recent:
    """Keys that this process committed, until old entries are removed from the store.

    A key counts only once its batch is committed, so a batch that failed claims nothing: see
    :meth:`hyperpy.store.batch.Batch.learn`.
    """

    __slots__ = ("_keys", "_seen", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: dict[bytes, None] = {}
        self._seen = store.collections

    def __contains__(self, key: bytes) -> bool:
        now = self._store.collections
        if now != self._seen:
            self._keys, self._seen = {}, now
        return key in self._keys

    def remember(self, key: bytes) -> None:
        """Remember a key that was committed, and that no collection can have removed since."""
        keys = self._keys
        if len(keys) >= _MOST:
            self._keys = keys = {}
        keys[key] = None

    def forget(self) -> None:
        """Forget every key: what the store holds is not what was written."""
        self._keys = {}
