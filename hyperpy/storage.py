"""The capabilities ``store`` (messages and durable names, for devices that keep them) and ``keys``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hyperpy import commitments
from hyperpy.cache import Batch, Cache
from hyperpy.capabilities import Matches
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode, key_bytes, key_text
from hyperpy.errors import CodecError, Forbidden, SizeError
from hyperpy.keys import RsaKey
from hyperpy.message import As, Link, Message, Resolve, Value, as_text
from hyperpy.store import search
from hyperpy.store.base import Store


class Storage:
    """Reads and writes on the device's own account, at once."""

    def __init__(self, cache: Cache, store: Store) -> None:
        self._cache = cache
        self._store = store
        search.begin(store)

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

    def find(
        self,
        pairs: Mapping[str, frozenset[str]],
        *,
        after: str = "",
        most: int = 1000,
        seconds: float = 1.0,
        signed: bool = False,
        owners: Sequence[str] = (),
    ) -> Matches:
        """See :meth:`hyperpy.capabilities.Storage.find`."""
        until = time.monotonic() + seconds
        if signed and search.ready(self._store, time.monotonic() + seconds / 2):
            found = search.find(self._store, pairs, owners, b64u_decode(after), until)
            if found is not None:
                return self._indexed(found, pairs, most)
        words = [key_bytes(key) for key in pairs]
        values = [_word(texts) for texts in pairs.values()]
        words += [word for word in values if word]
        refs: list[str] = []
        for number, (name, data) in enumerate(self._store.scan("messages", after=b64u_decode(after) or None)):
            if data[:1] in _MAPS and all(word in data for word in words) and _holds(data, pairs):
                refs.append(b64u(name))
            if len(refs) >= most or (number % 64 == 63 and time.monotonic() > until):
                return Matches(refs, b64u(name))
        return Matches(refs, None)

    def _indexed(self, rows: Iterator[search.Row], pairs: Mapping[str, frozenset[str]], most: int) -> Matches:
        refs: list[str] = []
        for content, fits, late in rows:
            if fits and _holds(self._store.get("messages", content) or b"", pairs):
                refs.append(b64u(content))
            if len(refs) >= most or late:
                return Matches(refs, b64u(content))
        return Matches(refs, None)

    def names(self, prefix: str = "") -> Mapping[str, str]:
        """Return all names with a prefix, and their IDs."""
        return {key_text(k): key_text(v) for k, v in self._store.scan("names", key_bytes(prefix))}


class HeldKeys:
    """The ``keys`` capability.

    Args:
        sign: signs with the node's own key.
        more: other keys by address, for processes that name these as schedulers or authorities.
    """

    def __init__(self, address: str, sign: Callable[..., Message], more: Mapping[str, RsaKey]) -> None:
        self.address = address
        self._own, self._more = sign, more

    @property
    def addresses(self) -> Sequence[str]:
        """See :class:`hyperpy.capabilities.Keys`."""
        return (self.address, *self._more)

    def sign(self, message: Message, *, address: str = "", **options: Any) -> Message:
        """See :meth:`hyperpy.capabilities.Keys.sign`."""
        if address in ("", self.address):
            return self._own(message, **options)
        key = self._more.get(address)
        if key is None:
            raise Forbidden(f"this node does not hold the key of {address}", hint="Name it in [scheduler] wallets.")
        return commitments.commit(message, key, **options)


_MAPS = frozenset(bytes([first]) for first in (*range(0x80, 0x90), 0xDE, 0xDF))
"""How the canonical bytes of a message begin; lists and binaries begin otherwise."""


def _word(texts: frozenset[str]) -> bytes:
    """Return bytes that a message with one of these values must hold; empty if there are none such.

    Numbers are kept in a form of their own.
    """
    if len(texts) != 1:
        return b""
    text = next(iter(texts))
    return b"" if text[:1] in "-0123456789" or text in ("true", "false") else key_bytes(text)


def _holds(data: bytes, pairs: Mapping[str, frozenset[str]]) -> bool:
    try:
        item = canonical.decode(data)
    except (CodecError, SizeError):
        return False
    if type(item) is not Message:
        return False
    for key, texts in pairs.items():
        found = item.raw(key)
        if found is None or isinstance(found, (Message, tuple, As, Resolve)):
            return False
        if (found.id if type(found) is Link else as_text(found)) not in texts:
            return False
    return True
