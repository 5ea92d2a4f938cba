"""Signed messages by key and value: an index made from what is stored, and made again from it when its form changes.

One row for each key of each message that somebody signed: a digest of key and value, and the message's
unsigned ID. Unsigned messages have none. Writing a signed message only notes that it is not in the index yet
(the table ``unindexed``), so that schedules cost no more where nobody searches: who searches takes in a part at
a time, what older versions stored too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Final, TypeAlias

from hyperpy.codecs import canonical
from hyperpy.commitments import committer_of, content_id, signed_id
from hyperpy.encoding import key_bytes, sha256
from hyperpy.errors import CodecError, SizeError, StoreError
from hyperpy.message import As, Link, Message, Resolve, Value, as_text
from hyperpy.store.base import Delete, Put, Store

TABLE: Final = "by-word"
PENDING: Final = "unindexed"
LONGEST: Final = 3072
"""Bytes of a value that is in the index; longer ones are found by looking at every message."""

Row: TypeAlias = tuple[bytes, bool, bool]
"""An unsigned ID, whether it fits, and whether the search ends there."""

_OWNER: Final = "\x00owner"
_STATE: Final = b"state"
_FORM: Final = b"1 "
"""Begins the row that says how far the index is; to be changed when rows change."""
_DONE: Final = _FORM + b"done"
_DIGEST: Final = 16
_SHORT: Final = 64
_SAMPLE: Final = 256
_PART: Final = 2000
_MOST: Final = 500


def digest(key: str, text: str) -> bytes:
    """Return what a row begins with; most keys and short values come again and again."""
    return _remembered(key, text) if len(text) <= _SHORT else _digest(key, text)


def _digest(key: str, text: str) -> bytes:
    name = key_bytes(key)
    return sha256(len(name).to_bytes(4, "big") + name + key_bytes(text))[:_DIGEST]


_remembered = lru_cache(maxsize=2048)(_digest)


def text_of(found: Value) -> str | None:
    """Return the text by which a value is found, that of a nested message being its ID; None if there is none."""
    if type(found) is bytes:
        return as_text(found)
    if isinstance(found, Link):
        return found.id
    if isinstance(found, Message):
        return signed_id(found) if found.commitments else content_id(found)
    if isinstance(found, tuple):
        return content_id(found)
    return None if isinstance(found, (As, Resolve)) else as_text(found)


def begin(store: Store) -> None:
    """Note that a store without signatures has nothing that is not in the index; called when it is opened."""
    if store.get(TABLE, _STATE) is None and next(store.scan("commitments"), None) is None:
        with suppress(StoreError):  # it is open for reading only
            store.write([(TABLE, _STATE, _DONE)])


def ready(store: Store, until: float) -> bool:
    """Say whether everything that was stored is in the index; take a part of it in until that time (monotonic)."""
    state = store.get(TABLE, _STATE)
    try:
        if state != _DONE:
            known = state is not None and state.startswith(_FORM)
            if state is not None and not known and not _cleared(store, until):
                return False
            if not _filled(store, state[len(_FORM) :] if state is not None and known else b"", until):
                return False
        return _caught_up(store, until)
    except StoreError:
        return False  # it cannot be written now


def _cleared(store: Store, until: float) -> bool:
    """Remove the rows of another form; say whether none is left."""
    while time.monotonic() <= until:
        rows: list[Delete] = [(TABLE, key) for key, _ in islice(store.scan(TABLE), _PART) if key != _STATE]
        if not rows:
            return True
        store.write([], rows)
    return False


def _filled(store: Store, after: bytes, until: float) -> bool:
    rows: list[Put] = []
    for key, value in store.scan("commitments", after=after or None):
        if value[:1] == b"\x01":
            _take(store, key[:32], value[1:], rows)
        after = key
        late = time.monotonic() > until
        if late or len(rows) >= _PART:
            store.write([*rows, (TABLE, _STATE, _FORM + after)])
            rows = []
        if late:
            return False
    store.write([*rows, (TABLE, _STATE, _DONE)])
    return True


def _caught_up(store: Store, until: float) -> bool:
    """Take in what was written since; say whether that is all. What goes with its message is left to that."""
    rows: list[Put] = []
    taken: list[Delete] = []
    for key, _ in store.scan(PENDING):
        found = store.get("commitments", key)
        if found is None or not _take(store, key[:32], found[1:], rows):
            continue
        taken.append((PENDING, key))
        late = time.monotonic() > until
        if late or len(rows) >= _PART:
            store.write(rows, taken)
            rows, taken = [], []
        if late:
            return False
    if taken:
        store.write(rows, taken)
    return True


def _take(store: Store, content: bytes, packed: bytes, rows: list[Put]) -> bool:
    """Add the rows of one signature: signer, and each key that it covers; False if the message is not there."""
    try:
        fields = canonical.decode(packed)
        item = canonical.decode(store.get("messages", content) or b"")
    except (CodecError, SizeError):
        return False
    if type(item) is not Message or type(fields) is not Message:
        return False
    owner = committer_of(fields)
    if owner is None:
        return True
    rows.append((TABLE, digest(_OWNER, owner) + content, b"\x01"))
    for name, found in item.raw_items().items():
        text = None if type(found) is bytes and len(found) > LONGEST else text_of(found)
        if text is not None:
            rows.append((TABLE, digest(name, text) + content, b"\x01"))
    return True


def find(
    store: Store, wanted: Mapping[str, frozenset[str]], owners: Sequence[str], after: bytes, until: float
) -> Iterator[Row] | None:
    """Yield unsigned IDs of signed messages with one of the wanted texts under each key, in the order of the IDs.

    With each comes whether it fits, and whether the search ends there because the time (monotonic) is up; one
    that does not fit is only yielded then. None if the index cannot answer: a text is too long for it, or
    nothing or too much is asked for.

    Args:
        owners: addresses of which one must have signed; empty for anybody.
        after: the ID that an earlier search stopped at.
    """
    asked = [text for texts in wanted.values() for text in texts]
    if any(len(key_bytes(text)) > LONGEST for text in asked) or not 0 < len(asked) + len(owners) <= _MOST:
        return None
    groups = [[digest(key, text) for text in sorted(texts)] for key, texts in wanted.items()]
    if owners:
        groups.append([digest(_OWNER, owner) for owner in owners])
    counted = [sum(1 for _ in islice(_rows(store, group, b""), _SAMPLE)) for group in groups]
    best = counted.index(min(counted))
    others = [group for at, group in enumerate(groups) if at != best]
    return _fitting(store, _rows(store, groups[best], after), others, until)


def _rows(store: Store, group: Sequence[bytes], after: bytes) -> Iterator[bytes]:
    """Yield the unsigned IDs under any of some digests, each once, by ID."""
    last = b""
    for content in merge(*(_under(store, one, after) for one in group)):
        if content != last:
            last = content
            yield content


def _under(store: Store, one: bytes, after: bytes) -> Iterator[bytes]:
    for key, _ in store.scan(TABLE, one, after=one + after if after else None):
        yield key[_DIGEST:]


def _fitting(store: Store, rows: Iterator[bytes], others: Sequence[Sequence[bytes]], until: float) -> Iterator[Row]:
    for number, content in enumerate(rows, 1):
        fits = all(any(store.get(TABLE, one + content) is not None for one in group) for group in others)
        late = number % 64 == 0 and time.monotonic() > until
        if fits or late:
            yield content, fits, late
        if late:
            return
