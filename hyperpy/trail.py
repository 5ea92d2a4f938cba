"""The trail: one record per step, which is what replay and audit read (design 3).

A record's bytes are canonical (:mod:`hyperpy.codecs.canonical`) and its ID is their SHA-256.
Messages are named by ID; the record holds none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import msgpack  # type: ignore[import-untyped]

from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, key_bytes, key_text, native, sha256
from hyperpy.errors import CodecError, Corrupt
from hyperpy.message import Message, Value
from hyperpy.store.base import Store
from hyperpy.store.batch import Batch
from hyperpy.store.recent import Recent

VERSION = 1
_AGES = (1 << 64) - 1
_TEXTS = (
    ("base", "base"),
    ("request", "request"),
    ("result", "result"),
    ("status", "status"),
    ("device", "device"),
    ("key", "key"),
    ("implementation", "implementation"),
    ("hashpath-before", "hashpath_before"),
    ("hashpath-after", "hashpath_after"),
    ("attested-by", "attested_by"),
)
_DIGESTS = (("parent", "parent"), ("origin", "origin"), ("cached-from", "cached_from"))
_NAMES = frozenset({"v", "oracles", *(name for name, _ in _TEXTS + _DIGESTS)})
_ORACLE = ("device", "key", "request", "result", "status")

_NULL, _NO_ORACLES = b"\xc0", b"\x90"
_SHORT = [b"\xc4" + bytes([size]) for size in range(256)]
"""What stands before a binary of that many bytes."""
_FIELDS = sorted(_NAMES - {"v"})
_RECORD = (
    bytes([0x80 + len(_NAMES)])
    + b"".join(_SHORT[len(name)] + name.encode() + b"%b" for name in _FIELDS)
    + _SHORT[1]
    + b"v"
    + bytes([VERSION])
)
"""A record's canonical bytes, its values left open. Keys are in bytewise order, as the form wants them."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """The outcome of a sub-step that cannot be made again; replay injects it."""

    device: str
    key: str
    request: str
    result: str
    status: str

    def fields(self) -> dict[bytes, bytes | None]:
        """Return the fields in the order of the canonical form."""
        return {name.encode(): key_bytes(getattr(self, name)) or None for name in _ORACLE}


@dataclass(frozen=True, slots=True)
class Record:
    """One step (record v1). Absent texts and digests are empty, and null in the bytes.

    Attributes:
        parent: record ID of the enclosing step; empty at top level.
        origin: SHA-256 of the raw request as cleaned at ingress.
        base, request: ID of the message: signed if it is signed, else unsigned.
        result: ID of all its keys, whoever signed which; literals are wrapped as ``{ao-result: body, body: X}``.
        status: word of the outcome: ``ok``, an error's, or ``cancelled`` (then without result).
        implementation: digest of the device's code.
        cached_from: record that the result was taken from.
        oracles: outcomes of sub-steps that cannot be made again, in order.
        attested_by: who vouches for a step that is not recomputed.
    """

    base: str
    request: str
    result: str
    status: str
    device: str
    key: str
    implementation: str
    hashpath_before: str
    hashpath_after: str
    parent: bytes = b""
    origin: bytes = b""
    cached_from: bytes = b""
    oracles: tuple[Oracle, ...] = ()
    attested_by: str = ""

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return _RECORD % (
            _word(self.attested_by),
            _text(self.base),
            _digest(self.cached_from),
            _word(self.device),
            _text(self.hashpath_after),
            _text(self.hashpath_before),
            _word(self.implementation),
            _word(self.key),
            _packed([one.fields() for one in self.oracles]) if self.oracles else _NO_ORACLES,
            _digest(self.origin),
            _digest(self.parent),
            _text(self.request),
            _text(self.result),
            _word(self.status),
        )

    @property
    def id(self) -> bytes:
        """The record's ID: SHA-256 of its canonical bytes (32 bytes)."""
        return sha256(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Return the record of canonical bytes.

        Raises:
            CodecError: the bytes are not canonical, not a record, or of another version.
        """
        fields = canonical.decode(data)
        if not isinstance(fields, Message) or frozenset(fields.raw_items()) != _NAMES:
            raise CodecError("not a trail record")
        version = fields.raw("v")
        if type(version) is not int or version != VERSION:
            raise CodecError(f"a trail record of version {version!r}; this hyperpy reads {VERSION}")
        found: dict[str, Any] = {attribute: _read_text(fields, name) for name, attribute in _TEXTS}
        for name, attribute in _DIGESTS:
            found[attribute] = _read_digest(fields, name)
        return cls(**found, oracles=_read_oracles(fields.raw("oracles")))


class Trail:
    """The records of a store, and what finds them.

    Args:
        first: a result's ID goes on naming the first record of that result, not the newest. So a trail
            that is not public cannot be closed to its owner by whoever has the same result later.
    """

    def __init__(self, store: Store, *, first: bool = False) -> None:
        self.store = store
        self._first = first
        self._lock = threading.Lock()
        self._last = 0
        self._recent = Recent(store)

    def append(self, record: Record, batch: Batch, *, slot: tuple[str, int] | None = None) -> bytes:
        """Add a record to a batch and return its ID (32 bytes).

        An equal record is kept once: the same request of the same client, answered the same. Whether an old one
        is in the store is not asked: writing it again costs less than looking.

        Args:
            slot: process ID and slot number, if the step computed a slot.
        """
        data = record.encode()
        name = sha256(data)
        batch.watch(self.store)
        if batch.has("trail", name):
            return name
        put = partial(self._put, record, name, data, batch, slot)
        if name in self._recent:
            batch.rely("trail", name, put, self.store)
        else:
            put()
            batch.learn(self._recent, name, self.store)
        return name

    def _put(self, record: Record, name: bytes, data: bytes, batch: Batch, slot: tuple[str, int] | None) -> None:
        """Put a record and what finds it."""
        batch.put("trail", name, data)
        if record.result:
            key = native(record.result)
            if not self._first or not (batch.has("by-result", key) or self.store.get("by-result", key) is not None):
                batch.put("by-result", key, name)
        age = self._age()
        if record.hashpath_after:
            newest_first = (_AGES - age).to_bytes(8, "big")
            batch.put("by-hashpath", hashpath_key(record.hashpath_after) + newest_first, name)
        if record.parent:
            batch.put("by-parent", record.parent + age.to_bytes(8, "big"), name)
        if slot is not None:
            batch.put("by-slot", slot_key(*slot), name)

    def put_origin(self, data: bytes, batch: Batch) -> bytes:
        """Keep a raw request as cleaned at ingress; return its digest (32 bytes)."""
        digest = sha256(data)
        batch.watch(self.store)
        if batch.has("origins", digest):
            return digest
        if digest in self._recent:
            batch.rely("origins", digest, partial(batch.put, "origins", digest, data), self.store)
        else:
            batch.put("origins", digest, data)
            batch.learn(self._recent, digest, self.store)
        return digest

    def origin(self, digest: bytes) -> bytes | None:
        """Return the raw request of that digest, or None.

        Raises:
            Corrupt: the stored bytes have another digest.
        """
        data = self.store.get("origins", digest)
        if data is not None and sha256(data) != digest:
            raise Corrupt("a stored request was damaged", expected=b64u(digest), got=b64u(sha256(data)))
        return data

    def read(self, name: bytes) -> Record | None:
        """Return the record of that ID, or None.

        Raises:
            Corrupt: the stored bytes have another ID.
        """
        data = self.store.get("trail", name)
        if data is None:
            return None
        got = sha256(data)
        if got != name:
            raise Corrupt("a trail record was damaged", expected=b64u(name), got=b64u(got))
        return Record.decode(data)

    def by_result(self, result: str) -> Record | None:
        """Return the newest record with that result ID (unsigned), or None."""
        name = self.store.get("by-result", native(result))
        return None if name is None else self.read(name)

    def by_hashpath(self, hashpath: str) -> Record | None:
        """Return the newest record whose step led to that hashpath, or None."""
        return next(self.all_by_hashpath(hashpath), None)

    def all_by_hashpath(self, hashpath: str) -> Iterator[Record]:
        """Yield every record whose step led to that hashpath, newest first: the same path recurs."""
        for record in self._each("by-hashpath", hashpath_key(hashpath)):
            if record.hashpath_after == hashpath:
                yield record

    def by_slot(self, process: str, slot: int) -> Record | None:
        """Return the record of the step that computed a process's slot, or None."""
        name = self.store.get("by-slot", slot_key(process, slot))
        return None if name is None else self.read(name)

    def slots(self, process: str, after: int = -1) -> Iterator[tuple[int, bytes]]:
        """Yield slot numbers greater than ``after``, in order, with their record IDs."""
        prefix = slot_key(process, 0)[:-8]
        start = slot_key(process, after) if after >= 0 else None
        for key, name in self.store.scan("by-slot", prefix, start):
            yield int.from_bytes(key[-8:], "big"), name

    def children(self, parent: bytes) -> Iterator[Record]:
        """Yield the records of a step's recorded sub-steps, oldest first."""
        yield from self._each("by-parent", parent)

    def _each(self, table: str, prefix: bytes) -> Iterator[Record]:
        """Yield the records an index names under a prefix, each once: one that recurs has several entries."""
        seen: set[bytes] = set()
        for _, name in self.store.scan(table, prefix):
            if name not in seen:
                seen.add(name)
                record = self.read(name)
                if record is not None:
                    yield record

    def _age(self) -> int:
        """Return a number greater than all before."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last


def hashpath_key(hashpath: str) -> bytes:
    """Return what an entry of the hashpath index begins with (16 bytes)."""
    return sha256(key_bytes(hashpath))[:16]


def slot_key(process: str, slot: int) -> bytes:
    """Return the key of a slot in the index: the process's ID and 8 bytes."""
    return native(process) + slot.to_bytes(8, "big")


def _text(item: str) -> bytes:
    """Return canonical bytes of a text, or of null for the empty one."""
    if not item:
        return _NULL
    data = item.encode("utf-8", "surrogateescape")
    size = len(data)
    return _SHORT[size] + data if size < 256 else _packed(data)


_word = lru_cache(256)(_text)


def _digest(item: bytes) -> bytes:
    return _SHORT[len(item)] + item if item else _NULL


def _packed(item: Any) -> bytes:
    return bytes(msgpack.packb(item, use_bin_type=True))


def _read_text(fields: Message, name: str) -> str:
    item = fields.raw(name)
    if item is None:
        return ""
    if not isinstance(item, bytes) or not item:
        raise CodecError(f"a trail record's '{name}' must be text or null")
    return key_text(item)


def _read_digest(fields: Message, name: str) -> bytes:
    item = fields.raw(name)
    if item is None:
        return b""
    if not isinstance(item, bytes) or len(item) != 32:
        raise CodecError(f"a trail record's '{name}' must be 32 bytes or null")
    return item


def _read_oracles(items: Value | None) -> tuple[Oracle, ...]:
    if not isinstance(items, tuple):
        raise CodecError("a trail record's 'oracles' must be a list")
    found = []
    for item in items:
        if not isinstance(item, Message) or sorted(item.raw_items()) != sorted(_ORACLE):
            raise CodecError("an oracle of a trail record has the wrong fields")
        found.append(Oracle(**{name: _read_text(item, name) for name in _ORACLE}))
    return tuple(found)
