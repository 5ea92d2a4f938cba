"""From the journal's batches into the B-tree of ``cache/``; see :mod:`hyperpy.store.tables`."""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]

from hyperpy.store.base import TABLES
from hyperpy.store.environment import Environment
from hyperpy.store.overlay import Overlay

HERE, ELSEWHERE = b"\x00", b"\x01"
"""What a row begins with: its value follows, or the number of the batch that holds it."""

_AGE = TABLES["age"].prefix
_SMALL, _LARGE = 40, 1900
_ROWS = 4096
_PUTS = 500


def pour(cache: Environment, overlay: Overlay, first: int) -> None:
    """Write an overlay into the tables: what each batch put under its number, and rows that find it in key order.

    In several transactions, as each holds its pages in memory; doing it again after a crash has the same effect.

    Raises:
        StoreError: the environment cannot take it; a part of it may be there.
    """
    values, index, gone = _sorted_out(overlay, first)
    for rows in (values, index):
        names = sorted(rows)
        for at in range(0, len(names), _ROWS):
            chunk = [(name, rows[name]) for name in names[at : at + _ROWS]]
            cache.write(lambda txn, chunk=chunk: _put(txn, chunk))  # type: ignore[misc]
    if gone:
        cache.write(lambda txn: [txn.delete(name) for name in sorted(gone)])


def _sorted_out(overlay: Overlay, first: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes], set[bytes]]:
    """Return what goes under batch numbers, the rows by key, and the keys to be deleted."""
    values: dict[bytes, bytes] = {}
    index: dict[bytes, bytes] = {}
    gone: set[bytes] = set()
    pack = msgpack.Packer(use_bin_type=True).pack
    age = _AGE[0]
    for number, batch in enumerate(overlay.batches, first):
        name = number.to_bytes(8, "big")
        place = ELSEWHERE + name
        kept = {}
        others = []
        for key, value in batch:
            if value is None:
                gone.add(key)
            elif key[0] == age:
                index[key] = value
            elif _SMALL < len(value) <= _LARGE:
                kept[key] = value
                index[key] = place
            else:
                others.append(key)
                index[key] = HERE + value
        if kept or others:
            values[_AGE + name] = pack([kept, others])
    if gone:  # what the last batch that says something of a key says is what counts
        gone = {key for key in gone if overlay.changes[key] is None}
        for key in gone:
            index.pop(key, None)
    return values, index, gone


def _put(txn: Any, rows: list[tuple[bytes, bytes]]) -> None:
    with txn.cursor() as cursor:
        for at in range(0, len(rows), _PUTS):
            cursor.putmulti(rows[at : at + _PUTS])  # in one go: other threads wait meanwhile
