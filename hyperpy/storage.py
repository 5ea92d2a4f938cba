"""The ``store`` capability: messages and durable names, for devices that keep them."""

from __future__ import annotations

from collections.abc import Mapping

from hyperpy.cache import Batch, Cache
from hyperpy.encoding import key_bytes, key_text
from hyperpy.errors import SizeError
from hyperpy.message import Value
from hyperpy.store.base import Store


class Storage:
    """Reads and writes on the device's own account, at once."""

    def __init__(self, cache: Cache, store: Store) -> None:
        self._cache = cache
        self._store = store

    def read(self, ref: str) -> Value:
        """Return the message or binary with that ID; raise MessageNotFound."""
        return self._cache.read(ref)

    def write(self, item: Value) -> str:
        """Store a message, list or binary now; return its unsigned ID."""
        batch = Batch()
        name = self._cache.put(item, batch)
        batch.commit(self._store)
        return name

    def link(self, name: str, ref: str) -> None:
        """Make a name stand for an ID, durably."""
        self.link_all({name: ref})

    def link_all(self, names: Mapping[str, str]) -> None:
        """Make several names stand for IDs, all or none, durably."""
        puts = [("names", key_bytes(name), key_bytes(ref)) for name, ref in names.items()]
        if any(len(key) > 400 for _, key, _ in puts):
            raise SizeError("a name may have at most 400 bytes")
        self._store.write(puts, durable=True)

    def named(self, name: str) -> str | None:
        """Return the ID a name stands for."""
        found = self._store.get("names", key_bytes(name))
        return None if found is None else key_text(found)

    def names(self, prefix: str = "") -> Mapping[str, str]:
        """Return all names with a prefix, and their IDs."""
        return {key_text(k): key_text(v) for k, v in self._store.scan("names", key_bytes(prefix))}
