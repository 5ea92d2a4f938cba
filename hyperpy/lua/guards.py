"""Guards in compiled Lua: comparisons that charge for long texts where an instruction may meet one.

``<``, ``<=``, ``==``, arithmetic and keys of tables take a text of any length in one instruction. In front
of each such instruction stands ``MARK < operand``. For a number that is nothing; for anything else Lua calls
the metamethod of numbers in ``engine/guards.lua``, which charges the length. The input is what
``string.dump`` of this very interpreter gives (Lua 5.3, 64 bits, little-endian). Imports nothing of hyperpy.
"""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from typing import Final

EVERY: Final = -0x7A3C5E19D2B48F61
"""The mark in front of what works on every byte of a text: order, arithmetic."""
SOME: Final = -0x7A3C5E19D2B48F62
"""The mark in front of what compares memory: equality, keys."""
_MARKS: Final = struct.pack("<BqBq", 19, EVERY, 19, SOME)
_HEADER: Final = 4 + 1 + 1 + 6 + 5 + 8 + 8 + 1
_LONG: Final = 64
_MOST_INDEX: Final = 255
_MOST_REGISTERS: Final = 250
_REACH: Final = 131071
_NEXT: Final = 30 | _REACH << 14
"""JMP to the instruction behind it."""
_LOADK, _LOADKX, _LT, _EXTRAARG = 1, 2, 32, 46
_MOST_LOADED: Final = (1 << 18) - 1
_MOST_EXTRA: Final = (1 << 26) - 1
_JUMPS: Final = frozenset({30, 39, 40, 42})
_KEY_B, _KEY_C, _NUMBER, _NUMBERS, _PAIR, _LOOP = 1, 2, 3, 4, 5, 6
_HOW: Final = {
    **dict.fromkeys((6, 7, 12), _KEY_C),  # GETTABUP GETTABLE SELF
    **dict.fromkeys((8, 10), _KEY_B),  # SETTABUP SETTABLE
    **dict.fromkeys(range(13, 25), _NUMBERS),  # ADD to SHR
    **dict.fromkeys((25, 26), _NUMBER),  # UNM BNOT
    **dict.fromkeys((31, 32, 33), _PAIR),  # EQ LT LE
    40: _LOOP,  # FORPREP
}
_KEPT_BYTES: Final = 8 << 20


class TooLarge(Exception):
    """The code with its guards would be more than Lua can hold; the text says what."""


class Guards:
    """Puts guards into compiled code, and remembers the last ones made."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def guarded(self, code: bytes) -> bytes | tuple[None, bytes]:
        """Return the code with guards, or None and why there is none. Never raises."""
        found = self._kept.get(code)
        if found is not None:
            self._kept.move_to_end(code)
            return found
        try:
            made = guarded(code)
        except TooLarge as error:
            return None, str(error).encode()
        self._kept[code] = made
        self._size += len(code) + len(made)
        while self._size > _KEPT_BYTES:
            old, new = self._kept.popitem(last=False)
            self._size -= len(old) + len(new)
        return made


def guarded(code: bytes) -> bytes:
    """Return compiled code with its guards.

    Raises:
        TooLarge: a jump, or a function's registers or constants, are beyond what Lua can hold.
    """
    out = [code[:_HEADER]]
    at = _function(code, _HEADER, out)
    assert at == len(code)
    return b"".join(out)


def _int(d: bytes, at: int) -> int:
    return int.from_bytes(d[at : at + 4], "little")


def _text_end(d: bytes, at: int) -> int:
    size = d[at]
    if size == 255:
        return at + 8 + int.from_bytes(d[at + 1 : at + 9], "little")
    return at + max(size, 1)


def _function(d: bytes, start: int, out: list[bytes]) -> int:
    """Copy one function with its inner ones; return where it ends."""
    at = _text_end(d, start) + 8
    fixed, registers = d[start : at + 2], d[at + 2]
    n = _int(d, at + 3)
    code = array("I", d[at + 7 : at + 7 + 4 * n])
    at += 7 + 4 * n
    count, first = _int(d, at), at + 4
    at, long = _constants(d, first, count)
    spare = None
    if count + 1 > _MOST_INDEX:
        spare, registers = registers, registers + 1
        if registers > _MOST_REGISTERS:
            raise TooLarge(
                "function or expression needs too many registers: "
                f"beside {_MOST_INDEX} constants or more it may have {_MOST_REGISTERS - 1}"
            )
    new, begin, sources = _inserted(code, long, count, spare)
    out.append(b"%b%c%b" % (fixed, registers, len(new).to_bytes(4, "little")))
    out.append(new.tobytes())
    out.append((count + 2).to_bytes(4, "little") + d[first:at] + _MARKS)
    upvalues = at + 4 + 2 * _int(d, at)
    out.append(d[at : upvalues + 4])
    at = upvalues + 4
    for _ in range(_int(d, upvalues)):
        at = _function(d, at, out)
    return _debug(d, at, out, begin, sources)


def _constants(d: bytes, at: int, count: int) -> tuple[int, set[int]]:
    """Return the end of the constants, and which are long texts, as operands name them."""
    long = set()
    for number in range(count):
        kind = d[at]
        at += 1
        if kind == 1:
            at += 1
        elif kind in (3, 19):
            at += 8
        elif kind:
            after = _text_end(d, at)
            if after - at > _LONG:
                long.add(number + 256)
            at = after
    return at, long


def _operands(word: int, long: set[int]) -> tuple[int, ...]:
    """Return which mark an instruction needs (0 for EVERY), and the operands that may be long texts."""
    how = _HOW[word & 63]
    b, c = word >> 23, word >> 14 & 511
    if how == _LOOP:
        a = word >> 6 & 255
        return 0, a, a + 1, a + 2
    left, right = b < 256 or b in long, c < 256 or c in long
    if how == _PAIR:  # both must be texts for any work: one stands for both
        if not (left and right):
            return ()
        return (1 if word & 63 == 31 else 0), c
    if how == _NUMBERS:
        return (0, *((b,) if left else ()), *((c,) if right and not (left and b == c) else ()))
    if how == _NUMBER:
        return (0, b) if left else ()
    if how == _KEY_B:
        return (1, b) if left else ()
    return (1, c) if right else ()


def _loaded(register: int, constant: int) -> tuple[int, ...]:
    """Return what puts a constant into a register."""
    if constant <= _MOST_LOADED:
        return (_LOADK | register << 6 | constant << 14,)
    if constant > _MOST_EXTRA:
        raise TooLarge("function has too many constants")
    return _LOADKX | register << 6, _EXTRAARG | constant << 6


def _inserted(
    code: array[int], long: set[int], marks: int, spare: int | None
) -> tuple[array[int], list[int], list[int]]:
    """Return the code with guards, where each old instruction begins in it, and which old one each new one is of."""
    out = array("I")
    begin, sources, jumps = [], [], []
    for number, word in enumerate(code):
        begin.append(len(out))
        op = word & 63
        if op in _HOW:
            mark, *operands = _operands(word, long) or (0,)
            for operand in operands:
                if spare is None:
                    out.append(_LT | operand << 14 | (256 + marks + mark) << 23)
                else:
                    out.extend(_loaded(spare, marks + mark))
                    out.append(_LT | operand << 14 | spare << 23)
                out.append(_NEXT)
        if op in _JUMPS:
            jumps.append((number, len(out)))
        out.append(word)
        sources.extend([number] * (len(out) - begin[-1]))
    begin.append(len(out))
    for number, place in jumps:
        word = code[number]
        leap = begin[number + 1 + (word >> 14) - _REACH] - place - 1 + _REACH
        if not 0 <= leap <= 2 * _REACH + 1:
            raise TooLarge(f"control structure too long: a jump over more than {_REACH} instructions")
        out[place] = word & 0x3FFF | leap << 14
    return out, begin, sources


def _debug(d: bytes, at: int, out: list[bytes], begin: list[int], sources: list[int]) -> int:
    """Copy the debug information, with the lines and places of the new code; return where it ends."""
    count = _int(d, at)
    at += 4
    if count:
        lines = array("I", d[at : at + 4 * count])
        new = array("I", [lines[number] for number in sources])
        out.append(len(new).to_bytes(4, "little") + new.tobytes())
        at += 4 * count
    else:
        out.append(bytes(4))
    count = _int(d, at)
    out.append(d[at : at + 4])
    at += 4
    for _ in range(count):
        after = _text_end(d, at)
        out.append(d[at:after] + struct.pack("<II", begin[_int(d, after)], begin[_int(d, after + 4)]))
        at = after + 8
    start = at
    count = _int(d, at)
    at += 4
    for _ in range(count):
        at = _text_end(d, at)
    out.append(d[start:at])
    return at
