"""Making room: removes the oldest steps that nothing needs (design 4).

What goes first: trail records, and the unsigned messages only they name, oldest first. What goes if that
is not enough: signed messages that nothing names, with their aliases and commitments, oldest first. What
stays: everything an assignment, a snapshot, a name, a setting, a task or a pin mentions; and what
something kept links to or names. Index entries, cached results, commitments and claims go with what they
belong to.

A client may meanwhile rely on a message that is about to go. So what goes is first declared
absent, in one moment in which nobody writes; whoever misses it puts it again
(:meth:`hyperpy.store.batch.Batch.commit`), and only then is the rest removed from the disk, in an order
in which what is left is sound after each part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

from hyperpy.encoding import b64u_decode
from hyperpy.store.base import TABLES
from hyperpy.store.lmdb import LmdbStore
from hyperpy.store.overlay import Change

_IDS = re.compile(rb"[A-Za-z0-9_-]{43,}")
_P = {name: place.prefix for name, place in TABLES.items()}
_UNSIGNED = (_P["messages"], _P["trail"], _P["origins"])
_SIGNED = (*_UNSIGNED, _P["aliases"])
"""What a pass may remove. A message with an alias is signed: while the alias stays, so does the message."""
_NAMING = ("messages", "trail", "aliases")
_POINTING = ("by-result", "by-hashpath", "by-slot", "by-parent")
_HASHPATH = _P["by-hashpath"]
_AGES = (1 << 64) - 1
"""What an entry of the hashpath index ends with is this less the moment, nanoseconds since 1970."""
_LOW = 0.9
_MORE = 4
_PURGE = 2000
_ROUNDS = 3
_RUN = 43

_Pointer = tuple[bytes, bytes, tuple[bytes, ...]]
"""An entry that goes with another: its key, its value, and the keys of which one goes."""

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


def collect(
    store: LmdbStore,
    target: int | None = None,
    progress: Progress = lambda what, count: None,
    *,
    older_ns: int | None = None,
) -> Collected:
    """Remove old steps until cache and trail use at most ``target`` bytes (default 90 % of the quota).

    Args:
        older_ns: steps recorded before that moment (nanoseconds since 1970) go first, whatever the target.

    Raises:
        StoreError: the store failed; what was declared absent and not yet removed is back.
    """
    store.collecting = True
    try:
        return _collect(store, int(store.quota * _LOW) if target is None else target, progress, older_ns)
    finally:
        store.collecting = False


def _collect(store: LmdbStore, goal: int, progress: Progress, older_ns: int | None) -> Collected:
    store.flush()
    before = store.used
    gone: Counter[bytes] = Counter()
    if older_ns is not None:
        gone.update(key[:1] for key in _remove(store, _older(store, older_ns, progress), progress))
    for going in (_UNSIGNED, _SIGNED):
        share = 1
        at: bytes | None = b""
        while store.used > goal and at is not None:  # on with what is younger, and with more of it each time
            doomed, at = _oldest(store, (store.used - goal) * share, at, going, progress)
            gone.update(key[:1] for key in _remove(store, doomed, progress))
            share *= _MORE
    store.crowded = store.used > int(store.quota * _LOW)
    return Collected(
        records=gone[_P["trail"]],
        messages=gone[_P["messages"]],
        others=gone.total() - gone[_P["trail"]] - gone[_P["messages"]],
        before=before,
        after=store.used,
        target=goal,
    )


def _remove(store: LmdbStore, doomed: set[bytes], progress: Progress) -> set[bytes]:
    """Remove those of the entries that nothing needs; return all that is gone."""
    tables = store.tables
    start = tables.sequence
    claims = _claims(store)
    _spare(doomed, _roots(store), store, claims)
    _spare(doomed, _named_by_kept(store, doomed, claims, progress), store, claims)
    for _ in range(_ROUNDS):  # what was written meanwhile, so that little is left for the moment all wait
        batches, start = tables.since(start)
        _spare(doomed, _named_by(batches), store, claims)
    _spare(doomed, _roots(store, besides="assignments"), store, claims)
    if not doomed:
        return doomed
    tables.condemn(doomed, lambda batches: _spare(doomed, _named_by(batches), store, claims), start)
    pointers = _pointers(store, doomed, progress)
    tables.condemn_rows(pointers)
    _purge(store, doomed, pointers)
    doomed.update(key for key, _, _ in pointers)
    _tidy(store, doomed)
    store.flush()
    return doomed


def _oldest(
    store: LmdbStore, excess: int, after: bytes, going: tuple[bytes, ...], progress: Progress
) -> tuple[set[bytes], bytes | None]:
    """Return what the oldest batches put, until that is their share of ``excess`` bytes; and where to go on.

    Args:
        after: the number of the batch after which to begin.
    """
    total = sum(_size(store, packed) for _, packed in store.scan("age"))
    left = total * min(1.0, excess / max(1, store.used))
    found: set[bytes] = set()
    for count, (number, packed) in enumerate(store.scan("age", after=after or None)):
        if left <= 0:
            return found, after
        left -= _size(store, packed)
        kept, others = msgpack.unpackb(packed, raw=True)
        found.update(key for key in (*kept, *others) if key[:1] in going)
        after = number
        if not count % 1000:
            progress("oldest", count)
    return found, None


def _older(store: LmdbStore, moment_ns: int, progress: Progress) -> set[bytes]:
    """Return what batches put whose steps were recorded before a moment, and what lies between these."""
    found: set[bytes] = set()
    for count, (_, packed) in enumerate(store.scan("age")):
        kept, others = msgpack.unpackb(packed, raw=True)
        keys = (*kept, *others)
        moment = max((_AGES - int.from_bytes(key[17:], "big") for key in keys if key[:1] == _HASHPATH), default=0)
        if moment >= moment_ns:
            return found
        found.update(key for key in keys if key[:1] in _SIGNED)
        if not count % 1000:
            progress("older", count)
    return found


def _size(store: LmdbStore, packed: bytes) -> int:
    """Return the bytes of a batch, those of long values included, which do not lie in it."""
    _, others = msgpack.unpackb(packed, raw=True)
    return len(packed) + sum(len(store.tables.get(key) or b"") for key in others if key[:1] in _SIGNED)


def _claims(store: LmdbStore) -> dict[bytes, list[bytes]]:
    """Return, for each message that needs claims, what they name."""
    found: dict[bytes, list[bytes]] = {}
    for key, value in store.scan("claims"):
        found.setdefault(_P["messages"] + key[:32], []).append(value)
    return found


def _spare(doomed: set[bytes], names: Iterable[bytes], store: LmdbStore, claims: Mapping[bytes, list[bytes]]) -> None:
    """Take out of ``doomed`` what is named, and what that names."""
    left = [name for name in names if name in doomed]
    while left:
        name = left.pop()
        if name not in doomed:
            continue
        doomed.discard(name)
        left.extend(one for value in claims.get(name, ()) for one in _both(value) if one in doomed)
        value = store.get(_table(name), name[1:])
        if value is not None:
            left.extend(one for one in _names(name, value) if one in doomed)


def _roots(store: LmdbStore, besides: str = "") -> Iterator[bytes]:
    """Yield what the synced tables mention, but one."""
    for table, place in TABLES.items():
        if place.synced and table != besides:
            for key, value in store.scan(table):
                yield from _mentioned(key)
                yield from _mentioned(value)
                yield from (prefix + key[:32] for prefix in _SIGNED)


def _named_by_kept(
    store: LmdbStore, doomed: set[bytes], claims: Mapping[bytes, list[bytes]], progress: Progress
) -> Iterator[bytes]:
    for parent, values in claims.items():
        if parent not in doomed:
            for value in values:
                yield from _both(value)
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
        yield from _both(value)


def _mentioned(data: bytes) -> Iterator[bytes]:
    """Yield the messages whose ID stands in the bytes as text, perhaps beside a byte that looks like text."""
    for found in _IDS.findall(data):
        yield from _both(b64u_decode(found[:_RUN]))
        if len(found) > _RUN:
            yield from _both(b64u_decode(found[-_RUN:]))


def _both(ident: bytes) -> tuple[bytes, bytes]:
    """Return the entries that an ID may name: a message under its unsigned ID, and an alias."""
    return _P["messages"] + ident, _P["aliases"] + ident


def _content(store: LmdbStore, name: bytes) -> bytes:
    """Return the unsigned ID of what an ID names."""
    alias = store.get("aliases", name)
    return name if alias is None else msgpack.unpackb(alias, raw=True)[0]


def _pointers(store: LmdbStore, doomed: set[bytes], progress: Progress) -> list[_Pointer]:
    """Return what goes with what is doomed: index entries, results, commitments, claims."""
    found: list[_Pointer] = []

    def point(key: bytes, value: bytes, *owners: bytes) -> None:
        if not doomed.isdisjoint(owners):
            found.append((key, value, owners))

    for table in _POINTING:
        for key, value in store.scan(table):
            point(_P[table] + key, value, _P["trail"] + value)
        progress("pointers", len(found))
    for key, value in store.scan("attested"):
        point(_P["attested"] + key, value, _P["trail"] + key)
    for key, value in _kept(store, ("results", "states", "commitments")):
        if key[:1] == _P["commitments"]:
            point(key, value, _P["messages"] + key[1:33])
        elif key[:1] == _P["states"]:
            ident = b64u_decode(value[:43])
            point(key, value, *_both(ident), _P["messages"] + _content(store, ident))
        else:
            name, _, record, _ = msgpack.unpackb(value, raw=True)
            point(key, value, *_both(name), _P["trail"] + record)
    progress("pointers", len(found))
    for table, at in (("ambiguous", 0), ("claims", 0), ("unindexed", 0), ("by-word", 16)):
        for key, value in store.scan(table):
            point(_P[table] + key, value, _P["messages"] + key[at : at + 32])
    return found


def _purge(store: LmdbStore, doomed: set[bytes], pointers: list[_Pointer]) -> None:
    """Remove entries, but nothing that was put again meanwhile; what is left after each part is sound.

    A record goes together with its index entries, a message with its claims; both after what points to them.
    """
    beside: dict[bytes, list[bytes]] = {}
    first: list[list[bytes]] = []
    signed: list[list[bytes]] = []
    for key, _, owners in pointers:
        if key[:1] == _P["commitments"]:
            signed.append([key])
        elif len(owners) == 1:
            beside.setdefault(owners[0], []).append(key)
        else:
            first.append([key])
    by_table = {prefix: [key for key in doomed if key[:1] == prefix] for prefix in _SIGNED}
    records, messages = (
        [[key, *beside.get(key, ())] for key in sorted(by_table[_P[table]])] for table in ("trail", "messages")
    )
    aliases, origins = ([[key] for key in sorted(by_table[_P[table]])] for table in ("aliases", "origins"))
    part: list[bytes] = []
    for group in (*first, *records, *aliases, *signed, *messages, *origins):
        part += group
        if len(part) >= _PURGE:
            store.tables.purge(part)
            part = []
    if part:
        store.tables.purge(part)
    store.flush()


def _tidy(store: LmdbStore, doomed: set[bytes]) -> None:
    """Remove entries from the batches they lie in, but nothing that was put again meanwhile."""
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
