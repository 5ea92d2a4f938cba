"""Making room: removes the oldest steps that nothing needs (design 4).

What goes: trail records, and the messages only they name, oldest first. What stays: everything
an assignment, a snapshot, a name, a setting or a pin mentions; every signed message; every
message that something kept links to or names. Index entries and cached results go with what
they point to.

A client may meanwhile rely on a message that is about to go. So what goes is first declared
absent, in one moment in which nobody writes; whoever misses it puts it again
(:meth:`hyperpy.store.batch.Batch.commit`), and only then is the rest removed from the disk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

from hyperpy.encoding import b64u_decode
from hyperpy.store.base import TABLES
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.overlay import Change

_IDS = re.compile(rb"[A-Za-z0-9_-]{43,}")
_P = {name: place.prefix for name, place in TABLES.items()}
_GO = (_P["messages"], _P["trail"], _P["origins"])
_NAMING = ("messages", "trail", "aliases", "claims")
_POINTING = ("by-result", "by-hashpath", "by-slot", "by-parent")
_LOW = 0.9
_PURGE = 2000
_ROUNDS = 3

Progress = Callable[[str, int], None]
"""Called with what is being done and how many entries were looked at."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did.

    Attributes:
        records, messages, others: how many of each were removed.
        before, after: bytes in use.
        target: bytes that were aimed at.
    """

    records: int
    messages: int
    others: int
    before: int
    after: int
    target: int

    @property
    def enough(self) -> bool:
        """Whether the target was reached."""
        return self.after <= self.target


def collect(store: LmdbStore, target: int | None = None, progress: Progress = lambda what, count: None) -> Collected:
    """Remove old steps until cache and trail use at most ``target`` bytes (default 90 % of the quota).

    Raises:
        StoreError: the store failed; what was declared absent and not yet removed is back.
    """
    store.collecting = True
    try:
        return _collect(store, int(store.quota * _LOW) if target is None else target, progress)
    finally:
        store.collecting = False


def _collect(store: LmdbStore, goal: int, progress: Progress) -> Collected:
    tables = store.tables
    store.flush()
    before = store.used
    start = tables.sequence
    doomed = set(_oldest(store, before - goal, progress))
    if doomed:
        _spare(doomed, _roots(store), store)
        _spare(doomed, _named_by_kept(store, doomed, progress), store)
        for _ in range(_ROUNDS):  # what was written meanwhile, so that little is left for the moment all wait
            batches, start = tables.since(start)
            _spare(doomed, _named_by(batches), store)
        tables.condemn(doomed, lambda batches: _spare(doomed, _named_by(batches), store), start)
        pointers = _pointers(store, doomed, progress)
        tables.condemn_rows(pointers)
        doomed.update(key for key, _ in pointers)
        _purge(store, doomed)
        store.flush()
    return Collected(
        records=sum(key[:1] == _P["trail"] for key in doomed),
        messages=sum(key[:1] == _P["messages"] for key in doomed),
        others=sum(key[:1] not in (_P["trail"], _P["messages"]) for key in doomed),
        before=before,
        after=store.used,
        target=goal,
    )


def _oldest(store: LmdbStore, excess: int, progress: Progress) -> Iterator[bytes]:
    """Yield what the oldest batches put, until that is their share of ``excess`` bytes."""
    if excess <= 0:
        return
    total = sum(len(packed) for _, packed in store.scan("age"))
    left = total * min(1.0, excess / max(1, store.used))
    for count, (_, packed) in enumerate(store.scan("age")):
        if left <= 0:
            return
        left -= len(packed)
        kept, others = msgpack.unpackb(packed, raw=True)
        yield from (key for key in (*kept, *others) if key[:1] in _GO)
        if not count % 1000:
            progress("oldest", count)


def _spare(doomed: set[bytes], names: Iterable[bytes], store: LmdbStore) -> None:
    """Take out of ``doomed`` what is named, and what that names."""
    left = [name for name in names if name in doomed]
    while left:
        name = left.pop()
        if name not in doomed:
            continue
        doomed.discard(name)
        value = store.get(_table(name), name[1:])
        if value is not None:
            left.extend(one for one in _names(name, value) if one in doomed)


def _roots(store: LmdbStore) -> Iterator[bytes]:
    """Yield what the synced tables mention."""
    for table, place in TABLES.items():
        if place.synced:
            for key, value in store.scan(table):
                yield from _mentioned(key)
                yield from _mentioned(value)
                yield from (prefix + key[:32] for prefix in _GO)


def _named_by_kept(store: LmdbStore, doomed: set[bytes], progress: Progress) -> Iterator[bytes]:
    for count, (key, value) in enumerate(_kept(store, _NAMING)):
        if key not in doomed:
            yield from _names(key, value)
        if not count % 1000:
            progress("what is still needed", count)


def _kept(store: LmdbStore, tables: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of what the batches put into these tables, in order of age: faster than by key.

    Values that were replaced since may be among them.
    """
    prefixes = frozenset(_P[table] for table in tables)
    for _, packed in store.scan("age"):
        kept, others = msgpack.unpackb(packed, raw=True)
        for key, value in kept.items():
            if key[:1] in prefixes:
                yield key, value
        for key in others:
            if key[:1] in prefixes:
                value = store.tables.get(key)
                if value is not None:
                    yield key, value


def _named_by(batches: Iterable[Iterable[Change]]) -> Iterator[bytes]:
    for batch in batches:
        for key, value in batch:
            if value is not None:
                yield key
                yield from _names(key, value)


def _names(key: bytes, value: bytes) -> Iterator[bytes]:
    """Yield the entries that one entry names."""
    kind = key[:1]
    if kind == _P["trail"]:
        fields: dict[bytes, Any] = msgpack.unpackb(value, raw=True)
        for field, prefix in ((b"parent", "trail"), (b"cached-from", "trail"), (b"origin", "origins")):
            if fields.get(field):
                yield _P[prefix] + fields[field]
        yield from _mentioned(value)
    elif kind == _P["messages"]:
        yield from _mentioned(value)
    elif kind == _P["aliases"]:
        content, pairs = msgpack.unpackb(value, raw=True)
        yield _P["messages"] + content
        yield from (_P["messages"] + owner for owner, _ in pairs)
    elif kind == _P["claims"]:
        yield _P["messages"] + value


def _mentioned(data: bytes) -> Iterator[bytes]:
    """Yield the messages whose ID stands in the bytes as text."""
    for found in _IDS.findall(data):
        if len(found) == 43:
            yield _P["messages"] + b64u_decode(found)


def _content(store: LmdbStore, name: bytes) -> bytes:
    """Return the unsigned ID of what an ID names."""
    alias = store.get("aliases", name)
    return name if alias is None else msgpack.unpackb(alias, raw=True)[0]


def _pointers(store: LmdbStore, doomed: set[bytes], progress: Progress) -> list[tuple[bytes, bytes]]:
    """Return index entries and results that point to what goes."""
    found = []
    for table in _POINTING:
        prefix = _P[table]
        found += [(prefix + key, value) for key, value in store.scan(table) if _P["trail"] + value in doomed]
        progress("pointers", len(found))
    for key, value in _kept(store, ("results", "states")):
        if key[:1] == _P["states"]:
            gone = _P["messages"] + _content(store, b64u_decode(value[:43])) in doomed
        else:
            name, _, record, _ = msgpack.unpackb(value, raw=True)
            gone = _P["messages"] + name in doomed or _P["trail"] + record in doomed
        if gone:
            found.append((key, value))
    progress("pointers", len(found))
    for key, value in store.scan("ambiguous"):
        if _P["messages"] + key in doomed:
            found.append((_P["ambiguous"] + key, value))
    return found


def _purge(store: LmdbStore, doomed: set[bytes]) -> None:
    """Remove entries, and the batches they lie in; nothing that was put again meanwhile."""
    keys = sorted(doomed)
    for at in range(0, len(keys), _PURGE):
        store.tables.purge(keys[at : at + _PURGE])
    store.flush()
    changes: list[Change] = []
    for number, packed in store.scan("age"):
        kept, others = msgpack.unpackb(packed, raw=True)
        if doomed.isdisjoint(kept) and doomed.isdisjoint(others):
            continue
        kept = {key: value for key, value in kept.items() if key not in doomed or store.tables.lies_in(key, number)}
        others = [key for key in others if key not in doomed or store.tables.get(key) is not None]
        row = msgpack.packb([kept, others], use_bin_type=True) if kept or others else None
        changes.append((_P["age"] + number, row))
        if len(changes) >= _PURGE:
            store.tables.write(changes)
            changes = []
    if changes:
        store.tables.write(changes)


def _table(key: bytes) -> str:
    return _NAMES[key[:1]]


_NAMES = {prefix: name for name, prefix in _P.items()}
