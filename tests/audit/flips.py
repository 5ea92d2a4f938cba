"""Receipts with one byte changed, and what keeps their digests and record IDs in step with it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Final

from hyperpy.encoding import sha256
from hyperpy.errors import HyperpyError
from hyperpy.receipt import Receipt, Slot, encode
from hyperpy.receipt.reading import parsed
from hyperpy.trail import Record

WAYS: Final = ("as it is", "digest again", "records linked again")


def flipped(data: bytes, at: int, seed: int = 0) -> bytes:
    """Return the file with one byte changed."""
    mask = random.Random(seed * 1_000_003 + at).randrange(1, 256)
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def changed(data: bytes, at: int, way: str, seed: int = 0) -> bytes | None:
    """Return the file with one byte changed, made consistent in some way; None if that cannot be."""
    made = flipped(data, at, seed)
    if way == "as it is":
        return made
    if at >= len(data) - 32:
        return None
    body = made[:-32]
    if way == "digest again":
        return body + sha256(body)
    return linked_again(data, body)


def linked_again(original: bytes, body: bytes) -> bytes | None:
    """Return the file with each record that was changed named by its new ID; None if it does not read."""
    try:
        before, after = parsed(original[:-32]), parsed(body)
        return encode(_renamed(before, after))
    except (HyperpyError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _renamed(before: Receipt, after: Receipt) -> Receipt:
    """Return the receipt with the records' new IDs where the old ones stand, and the lists in order again."""
    names = {sha256(old): sha256(new) for old, new in zip(before.records, after.records, strict=True) if old != new}
    records = list(after.records)
    todo = dict(names)
    while todo:  # a record's new ID changes those that name it
        fresh: dict[bytes, bytes] = {}
        for at, data in enumerate(records):
            record = Record.decode(data)
            new = replace(
                record,
                parent=todo.get(record.parent, record.parent),
                cached_from=todo.get(record.cached_from, record.cached_from),
            ).encode()
            if new != data:
                records[at] = new
                fresh[sha256(data)] = sha256(new)
        names = {old: fresh.get(new, new) for old, new in names.items()} | fresh
        todo = fresh
    return replace(
        after,
        records=tuple(sorted(records, key=sha256)),
        roots=tuple(sorted(names.get(one, one) for one in after.roots)),
        slots=tuple(Slot(one.process, one.slot, names.get(one.record, one.record)) for one in after.slots),
    )
