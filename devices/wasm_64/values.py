"""Numbers that cross between messages and a guest, and the error that is a call's result."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any


class Failure(Exception):
    """A call ended with an error that every node finds alike; it is the call's result."""


def address(found: int) -> int:
    """Return a pointer that arrived as a signed number."""
    return found if found >= 0 else found + (1 << 32) if found >= -(1 << 31) else found + (1 << 64)


def shaped(kind: str, values: Sequence[Any], number: int) -> int | float:
    """Return one result in its WebAssembly type; a missing one is zero."""
    item = values[number] if number < len(values) else 0
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise Failure("an imported function answered something that is no number")
    return fit(kind, item)


def fit(kind: str, item: int | float) -> int | float:
    """Return a number in a WebAssembly type: integers wrap around. Raises Failure for other types."""
    if kind in ("f32", "f64"):
        return float(item)
    bits = {"i32": 32, "i64": 64}.get(kind)
    if bits is None or item != item or item in (float("inf"), float("-inf")):
        raise Failure(f"a value of type {kind} cannot be passed")
    low = int(item) & ((1 << bits) - 1)
    return low - (1 << bits) if low >> (bits - 1) else low


def to_bits(kind: str, item: Any) -> int:
    if kind in ("i32", "i64"):
        return int(item)
    (found,) = struct.unpack("<i" if kind == "f32" else "<q", struct.pack("<f" if kind == "f32" else "<d", item))
    return int(found)


def from_bits(kind: str, bits: int) -> int | float:
    if kind in ("i32", "i64"):
        return fit(kind, bits)
    form = ("<i", "<f", "i32") if kind == "f32" else ("<q", "<d", "i64")
    (found,) = struct.unpack(form[1], struct.pack(form[0], fit(form[2], bits)))
    return float(found)
