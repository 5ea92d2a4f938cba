"""Read a GGUF v3 file (metadata and tensor table), trusting nothing in it.

Every count, length and offset is compared with what is left of the file before anything is allocated. Only
little-endian version 3 is read. Tensor bytes stay in the memory map.

The format: magic, version, counts; key-value pairs with typed values; one record a tensor (name, dimensions
fastest first, block type, offset); padding to ``general.alignment``; the tensors.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpy.errors import CodecError, SizeError

MAX_PAIRS, MAX_TENSORS, MAX_ITEMS, MAX_STRING, MAX_NAME = 4096, 16384, 1 << 20, 1 << 20, 64
"""Most key-value pairs, tensors, items of an array, bytes of a string, bytes of a tensor's name."""

_SCALARS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

BLOCKS: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    30: ("BF16", 1, 2),
}
"""Block type number to (name, values a block, bytes a block)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of the file: ``shape`` is rows first (a vector has one entry), ``data`` its raw blocks."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Gguf:
    """A file's metadata and tensors; ``halves``: RoPE turns pairs half a head apart, whatever the architecture."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    halves: bool = False


class _Cursor:
    """A position in the file that never reads past its end."""

    def __init__(self, view: memoryview) -> None:
        self.view, self.at = view, 0

    def take(self, count: int, what: str) -> memoryview:
        if count > len(self.view) - self.at:
            raise CodecError(f"GGUF: the file ends inside {what}", hint="Fetch the file again; it is cut short.")
        self.at += count
        return self.view[self.at - count : self.at]

    def scalar(self, code: str, what: str) -> Any:
        raw = self.take(struct.calcsize(code), what)
        if code == "?" and raw[0] > 1:
            raise CodecError(f"GGUF: {what} is a boolean of {raw[0]}")
        return struct.unpack(code, raw)[0]

    def count(self, most: int, what: str) -> int:
        number = int(self.scalar("<Q", what))
        if number > most:
            raise SizeError(f"GGUF: {what} is {number}, more than {most}", hint="This is no model file we can read.")
        return number

    def string(self, what: str, most: int = MAX_STRING) -> str:
        raw = self.take(self.count(most, f"the length of {what}"), what)
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError:
            raise CodecError(f"GGUF: {what} is not UTF-8") from None

    def value(self, kind: int, what: str) -> Any:
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind], what)
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            raise CodecError(f"GGUF: {what} has the unknown type {kind}")
        inner = self.scalar("<I", what)
        count = self.count(MAX_ITEMS, f"the length of {what}")
        if inner == _STRING:
            return [self.string(what) for _ in range(count)]
        if inner not in _SCALARS:
            raise CodecError(f"GGUF: {what} is an array of the type {inner}; arrays of arrays are not read")
        code = _SCALARS[inner].lstrip("<")
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}"), what)))


def read(path: Path) -> Gguf:
    """Map a file and read its tables.

    Raises:
        CodecError: the file is not GGUF v3, or contradicts itself; the text says where.
        SizeError: a count or length is beyond what a model has.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise CodecError(f"'{path.name}' is too short for a GGUF file")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return parse(memoryview(mapped))


def parse(view: memoryview) -> Gguf:
    """Read the tables of a GGUF file held in memory; see :func:`read`."""
    cursor = _Cursor(view)
    if bytes(cursor.take(4, "the magic")) != b"GGUF":
        raise CodecError("this is not a GGUF file: its first four bytes are others")
    version = cursor.scalar("<I", "the version")
    if version != 3:
        raise CodecError(f"GGUF version {version} is not read, only 3", hint="Convert the file with a current tool.")
    tensors = cursor.count(MAX_TENSORS, "the number of tensors")
    metadata = _metadata(cursor, cursor.count(MAX_PAIRS, "the number of pairs"))
    records = [_record(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 65536 or alignment & (alignment - 1):
        raise CodecError("GGUF: general.alignment is not a power of two between 8 and 65,536")
    start = -(-cursor.at // alignment) * alignment
    return Gguf(metadata, _tensors(view, records, start, alignment))


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in range(count):
        key = cursor.string(f"the key of pair {number}", 65535)
        if key in found:
            raise CodecError(f"GGUF: the key '{key[:80]}' comes twice")
        found[key] = cursor.value(cursor.scalar("<I", f"the type of '{key[:80]}'"), f"'{key[:80]}'")
    return found


def _record(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Return (name, dimensions fastest first, block type, offset) of the next tensor."""
    name = cursor.string("a tensor's name", MAX_NAME)
    dimensions = cursor.scalar("<I", f"the dimensions of '{name}'")
    if not 1 <= dimensions <= 4:
        raise CodecError(f"GGUF: '{name}' has {dimensions} dimensions")
    sizes = tuple(cursor.count(1 << 32, f"a dimension of '{name}'") for _ in range(dimensions))
    return name, sizes, cursor.scalar("<I", f"the type of '{name}'"), cursor.scalar("<Q", f"the offset of '{name}'")


def _tensors(
    view: memoryview, records: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int
) -> dict[str, Tensor]:
    """Return the tensors by name; each lies inside the file, aligned, and none overlaps another."""
    found: dict[str, Tensor] = {}
    ends, last = start, ""
    for name, sizes, kind, offset in sorted(records, key=lambda record: record[3]):
        if kind not in BLOCKS:
            raise CodecError(f"GGUF: '{name}' has the block type {kind}, which is not read")
        if name in found:
            raise CodecError(f"GGUF: the tensor '{name}' comes twice")
        label, values, size = BLOCKS[kind]
        total = 1
        for dimension in sizes:
            total *= dimension
        if total == 0 or sizes[0] % values:
            raise CodecError(f"GGUF: '{name}' of shape {sizes} is not whole blocks of {values}")
        first, length = start + offset, total // values * size
        if offset % alignment or first + length > len(view):
            raise CodecError(f"GGUF: '{name}' lies outside the file or is not aligned")
        if first < ends:
            raise CodecError(f"GGUF: '{name}' overlaps '{last}'")
        ends, last = first + length, name
        found[name] = Tensor(name, label, tuple(reversed(sizes)), view[first : first + length])
    return found
