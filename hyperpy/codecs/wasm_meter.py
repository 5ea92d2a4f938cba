"""What a WebAssembly image may hold, and what its costliest operators cost.

An engine counts a step for each operator. Some take as long as hundreds of others: those that the engine's
own code does (growing a memory, copying, making references), and above all exceptions. :func:`metered` puts
a call in front of each of them, of a function that does nothing but take so many steps. Numbers are
deterministic: they follow from the image.
"""

from __future__ import annotations

import re
from typing import Final

from hyperpy.errors import CodecError

LIGHT, HEAVY = 100, 500
"""Steps that an operator of the engine's own takes beyond its one, and throwing an exception."""

_MOST: Final = {
    1: ("types", 20_000),
    2: ("imports", 1_000),
    3: ("functions", 50_000),
    4: ("tables", 10),
    6: ("globals", 10_000),
    7: ("exports", 20_000),
    9: ("element segments", 10_000),
    11: ("data segments", 50_000),
    13: ("tags", 1_000),
}
"""Members of a section that an image may have. Compiling takes long for many, however small they are."""
BODY: Final = 1 << 20
"""Bytes of one function."""
LOCALS: Final = 10_000
"""Local variables of one function."""
LOOKS: Final = 1_000_000
"""Operators, local variables' groups and the like that are looked at one by one, in one image."""
_SECTION: Final = 1 << 20
"""Bytes of those sections that are."""
_SPREAD: Final = 1 << 30
"""Locals times bytes of one function: what a compiler that follows each of them has to look at."""

_LEB: Final = rb"[\x80-\xff]{0,9}+[\x00-\x7f]"
_ONE: Final = rb"\x0c\x0d\x10\x12\x14\x15\x20-\x26\x3f\x41\x42\xd0\xd5\xd6"
_PLAIN: Final = re.compile(
    rb"(?:[\x00\x01\x05\x0b\x0f\x1a\x1b\x45-\xc4\xd1\xd3\xd4]"  # nothing behind the operator
    rb"|[" + _ONE + rb"]" + _LEB + rb"|[\x11\x13\x28-\x3e]" + _LEB + _LEB +  # one number, or two
    rb"|[\x02\x03\x04](?:[\x63\x64]" + _LEB + rb"|" + _LEB + rb")"  # a block's type
    rb"|\x43.{4}|\x44.{8}|\xfc[\x00-\x07]|\xfc[\x09\x0d\x10]" + _LEB +
    rb"|\xfd(?:[\x00-\x0b\x5c\x5d]" + _LEB + _LEB + rb"|[\x0c\x0d].{16}|[\x15-\x22]."
    rb"|[\x54-\x5b]" + _LEB + _LEB + rb".|(?:[\x0e-\x14\x23-\x53\x5e-\x7f]|[\x80-\xff][\x01-\x7f])))*+",
    re.DOTALL,
)  # fmt: skip
"""Operators that cost what they should; it ends in front of any other."""
_LEBS: Final = 64
_MANY: Final = re.compile(_LEB * _LEBS)
_LEGACY: Final = frozenset({0x06, 0x07, 0x09, 0x18, 0x19})
_COSTLY: Final = {0x40: (1, LIGHT), 0xD2: (1, LIGHT), 0x08: (1, HEAVY), 0x0A: (0, HEAVY)}
"""Operators: how many numbers follow, and what they cost."""
_BULK: Final = {8: 2, 10: 2, 11: 1, 12: 2, 14: 2, 15: 1, 17: 1}
"""The same of those behind 0xFC, all of them costly."""
_GC: Final = (1, 1, 2, 2, 2, 2, 1, 1, 2, 2, 2, 1, 1, 1, 1, 0, 1, 2, 2, 2, 1, 1, 1, 1, 4, 4, 0, 0, 0, 0, 0)
"""Numbers that follow each of those behind 0xFB."""
_GC_COSTLY: Final = frozenset({0, 1, 6, 7, 8, 9, 10, 16, 17, 18, 19})
_SHORT: Final = "the WebAssembly module ends too early"


Sections = list[tuple[int, bytes]]


def check(sections: Sections) -> None:
    """Refuse an image that no node should compile.

    Raises:
        CodecError: it has more of something than images may have.
        IndexError: it ends too early.
    """
    for number, body in sections:
        if number in _MOST:
            (name, most), count = _MOST[number], leb(body, 0)[0]
            if count > most:
                raise CodecError(f"the module has {count} {name}; an image may have {most}")
            if number in (1, 2, 6, 13) and len(body) > _SECTION:
                raise CodecError(f"the {name} of the module have {len(body)} bytes; they may have {_SECTION}")


def metered(sections: Sections) -> Sections:
    """Return the sections with every costly operator paid for; without any, the same ones.

    An image with the older exception operators comes back as it is: the engine refuses it.

    Raises:
        CodecError: a function is too large, or holds an operator that is not known.
        IndexError: it ends too early.
    """
    bodies = dict(sections)
    if 10 not in bodies or 3 not in bodies or 1 not in bodies:
        return sections
    first = _functions(bodies.get(2, b"\0")) + leb(bodies[3], 0)[0]
    kind = _types(bodies[1])
    code = _code(bodies[10], {LIGHT: b"\x10" + number(first), HEAVY: b"\x10" + number(first + 1)})
    if code is None:
        return sections
    changed = {
        1: _longer(bodies[1], [b"\x60\0\0"]),
        3: _longer(bodies[3], [number(kind)] * 2),
        10: _longer(code, [_sized(b"\0" + b"\x41\0\x1a" * steps + b"\x0b") for steps in (LIGHT, HEAVY)]),
    }
    return [(id_, changed.get(id_, body)) for id_, body in sections if id_]  # custom sections point into the code


class _Looks:
    """What is left of :data:`LOOKS`."""

    def __init__(self) -> None:
        self._left = LOOKS

    def spend(self, looks: int) -> None:
        self._left -= looks
        if self._left < 0:
            raise CodecError(f"the module takes more than {LOOKS} looks to read; build it with fewer operators")


def _code(body: bytes, calls: dict[int, bytes]) -> bytes | None:
    """Return the code section with the calls in it; None where there is nothing to change."""
    count, at = leb(body, 0)
    out, same, looks = [number(count)], True, _Looks()
    for _ in range(count):
        size, start = leb(body, at)
        at = start + size
        if at > len(body):
            raise IndexError(_SHORT)
        if size > BODY:
            raise CodecError(f"a function of the module has {size} bytes; it may have {BODY}")
        sites = _sites(body, _past_locals(body, start, size, looks), at, looks)
        if sites is None:
            return None
        if sites:
            same = False
            parts, last = [], start
            for site, steps in sites:
                parts += [body[last:site], calls[steps]]
                last = site
            out.append(_sized(b"".join([*parts, body[last:at]])))
        else:
            out.append(_sized(body[start:at]))
    return None if same else b"".join(out)


def _sites(body: bytes, at: int, end: int, looks: _Looks) -> list[tuple[int, int]] | None:
    """Return where the costly operators of a function stand and what they cost; None if it is of the older kind."""
    found: list[tuple[int, int]] = []
    while True:
        plain = _PLAIN.match(body, at, end)
        site = at = plain.end() if plain is not None else at
        if at >= end:
            return found
        operator = body[at]
        at += 1
        steps = 0
        looks.spend(1)
        if operator in _COSTLY:
            numbers, steps = _COSTLY[operator]
        elif operator == 0xFC:
            kind, at = leb(body, at)
            numbers, steps = _BULK.get(kind, -1), LIGHT
        elif operator == 0xFB:
            kind, at = leb(body, at)
            numbers, steps = _GC[kind] if kind < len(_GC) else -1, LIGHT if kind in _GC_COSTLY else 0
        elif operator == 0x0E:  # br_table
            count, at = leb(body, at)
            numbers = count + 1
            looks.spend(count // _LEBS)
        elif operator == 0x1C:  # select of a type
            count, at = leb(body, at)
            looks.spend(count)
            for _ in range(count):
                at = _past_type(body, at)
            numbers = 0
        elif operator == 0x1F:  # try_table
            at = _past_catches(body, at, looks)
            numbers = 0
        elif operator in _LEGACY:
            return None
        else:
            numbers = -1
        if numbers > end - at:
            raise IndexError(_SHORT)
        if numbers < 0:
            raise CodecError(f"a function of the module holds an operator that is not known: 0x{operator:02x}")
        while numbers >= _LEBS and (many := _MANY.match(body, at, end)) is not None:
            at, numbers = many.end(), numbers - _LEBS
        for _ in range(numbers):
            at = leb(body, at)[1]
        if at > end:
            raise IndexError(_SHORT)
        if steps:
            found.append((site, steps))


def _past_catches(body: bytes, at: int, looks: _Looks) -> int:
    at = _past_type(body, at)
    count, at = leb(body, at)
    looks.spend(count)
    for _ in range(count):
        kind = body[at]
        for _ in range(1 if kind in (2, 3) else 2):
            at = leb(body, at + 1)[1] - 1
        at += 1
    return at


def _past_locals(body: bytes, start: int, size: int, looks: _Looks) -> int:
    groups, at = leb(body, start)
    looks.spend(groups)
    total = 0
    for _ in range(groups):
        count, at = leb(body, at)
        at = _past_type(body, at)
        total += count
    if total > LOCALS or total * size > _SPREAD:
        raise CodecError(
            f"a function of the module has {total} local variables in {size} bytes; it may have {LOCALS}, "
            f"and fewer where it is long"
        )
    return at


def _past_type(body: bytes, at: int) -> int:
    """Return where a value's, a field's or a block's type ends."""
    return leb(body, at + 1)[1] if body[at] in (0x63, 0x64) else leb(body, at)[1]


def _functions(imports: bytes) -> int:
    """Return how many functions there are among imports; they are all functions."""
    return leb(imports, 0)[0]


def _types(body: bytes) -> int:
    """Return how many types a section defines; a group of types holds several."""
    count, at = leb(body, 0)
    total = 0
    for _ in range(count):
        inside = 1
        if body[at] == 0x4E:
            inside, at = leb(body, at + 1)
        for _ in range(inside):
            at = _past_definition(body, at)
        total += inside
    return total


def _past_definition(body: bytes, at: int) -> int:
    if body[at] in (0x4F, 0x50):  # a subtype
        above, at = leb(body, at + 1)
        for _ in range(above):
            at = leb(body, at)[1]
    form, at = body[at], at + 1
    if form == 0x60:
        for _ in range(2):
            count, at = leb(body, at)
            for _ in range(count):
                at = _past_type(body, at)
    elif form in (0x5E, 0x5F):
        count, at = (1, at) if form == 0x5E else leb(body, at)
        for _ in range(count):
            at = _past_type(body, at) + 1
    else:
        raise CodecError(f"the module defines a type of an unknown form: 0x{form:02x}")
    return at


def _longer(body: bytes, more: list[bytes]) -> bytes:
    count, at = leb(body, 0)
    return number(count + len(more)) + body[at:] + b"".join(more)


def _sized(body: bytes) -> bytes:
    return number(len(body)) + body


def leb(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number and where it ends; signed ones are only skipped with it."""
    found = shift = 0
    while True:
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
        shift += 7
        if shift > 70:
            raise CodecError("a number in the WebAssembly module is too long")


def number(item: int) -> bytes:
    """Return a number as unsigned LEB128."""
    out = bytearray()
    while True:
        item, low = item >> 7, item & 0x7F
        if not item:
            out.append(low)
            return bytes(out)
        out.append(low | 0x80)
