"""The WebAssembly binary format, as far as a host must read it: where a module keeps its state.

A call's state is the memory and every mutable global. Most compilers export the memory alone, so
:func:`instrument` adds exports for the rest, and has costly operators paid for (``wasm_meter``); nothing else in
the image changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperpy.codecs.wasm_meter import Sections, check, leb, metered, number
from hyperpy.errors import CodecError

MAGIC = b"\0asm\x01\0\0\0"
MEMORY = "hyperpy:memory"
"""Name under which :func:`instrument` exports the memory."""
GLOBAL = "hyperpy:global:"
"""Prefix of the names under which it exports mutable globals; their index follows."""

_NUMBERS = {0x7F: "i32", 0x7E: "i64", 0x7D: "f32", 0x7C: "f64"}
_KINDS = {1: "table", 2: "memory", 3: "global", 4: "tag"}
_EXPORT = 7
_LATER = frozenset({8, 9, 10, 11, 12})  # sections that come after the exports
_IMMEDIATE = {0x41: 1, 0x42: 1, 0x23: 1, 0xD0: 1, 0xD2: 1}  # operators followed by so many LEB numbers
_FIXED = {0x43: 4, 0x44: 8}  # operators followed by so many bytes
_BARE = frozenset({0x6A, 0x6B, 0x6C, 0x7C, 0x7D, 0x7E})


@dataclass(frozen=True, slots=True)
class Instrumented:
    """An image that exports its whole state.

    Attributes:
        image: the changed bytes.
        globals: type (``i32``, ``i64``, ``f32``, ``f64``) of each mutable global, by its index. Mutable
            globals of other types are left out: they begin anew at every call.
        memory: whether the image has a memory.
    """

    image: bytes
    globals: dict[int, str]
    memory: bool


def instrument(image: bytes) -> Instrumented:
    """Return the image with its memory and mutable globals exported, and its costly operators paid for.

    Raises:
        CodecError: no WebAssembly module, one that is too large in some way, or it imports anything but functions.
    """
    if image[:8] != MAGIC:
        raise CodecError(
            "this is no WebAssembly module", hint="An image begins with the bytes 00 61 73 6d 01 00 00 00."
        )
    try:
        sections = _sections(image)
        check(sections)
        bodies = dict(sections)
        _check_imports(bodies.get(2, b"\0"))
        mutable = _mutable(bodies.get(6, b"\0"))
        memory = bodies.get(5, b"\0")[:1] != b"\0"
        sections = metered(sections)
    except IndexError:
        raise CodecError("the WebAssembly module ends too early") from None
    extra = [_export(MEMORY, 2, 0)] if memory else []
    extra += [_export(f"{GLOBAL}{index}", 3, index) for index in mutable]
    return Instrumented(_with_exports(sections, extra), mutable, memory)


def _sections(image: bytes) -> Sections:
    found: Sections = []
    at = 8
    while at < len(image):
        size, start = leb(image, at + 1)
        if start + size > len(image):
            raise CodecError("a section of the WebAssembly module is longer than the module")
        found.append((image[at], image[start : start + size]))
        at = start + size
    return found


def _check_imports(body: bytes) -> None:
    count, at = leb(body, 0)
    for _ in range(count):
        names = []
        for _ in range(2):
            size, at = leb(body, at)
            names.append(body[at : at + size].decode("utf-8", "replace"))
            at += size
        if body[at] != 0:
            kind = _KINDS.get(body[at], "thing of an unknown kind")
            raise CodecError(
                f"the module imports the {kind} {names[0][:80]!a}.{names[1][:80]!a}; only functions can be imported",
                hint="Build it so that it defines and exports its own memory and table.",
            )
        _, at = leb(body, at + 1)


def _mutable(body: bytes) -> dict[int, str]:
    """Return the index and type of each mutable global of a number type."""
    count, at = leb(body, 0)
    found: dict[int, str] = {}
    for index in range(count):
        kind = body[at]
        at += 1
        if kind in (0x63, 0x64):  # a reference to a heap type
            _, at = leb(body, at)
        if body[at] & 1 and kind in _NUMBERS:
            found[index] = _NUMBERS[kind]
        at = _past_expression(body, at + 1)
    return found


def _past_expression(body: bytes, at: int) -> int:
    """Return where a constant expression ends."""
    while body[at] != 0x0B:
        operator = body[at]
        at += 1
        if operator in _IMMEDIATE:
            _, at = leb(body, at)
        elif operator in _FIXED:
            at += _FIXED[operator]
        elif operator == 0xFD:  # v128.const
            _, at = leb(body, at)
            at += 16
        elif operator not in _BARE:
            raise CodecError(f"a global of the module begins with operator 0x{operator:02x}, which is not supported")
    return at + 1


def _with_exports(sections: Sections, extra: list[bytes]) -> bytes:
    out = bytearray(MAGIC)
    done = False
    for kind, body in sections:
        if kind == _EXPORT:
            count, at = leb(body, 0)
            body = number(count + len(extra)) + body[at:] + b"".join(extra)
            done = True
        elif kind in _LATER and not done and extra:
            out += _section(_EXPORT, number(len(extra)) + b"".join(extra))
            done = True
        out += _section(kind, body)
    if not done and extra:
        out += _section(_EXPORT, number(len(extra)) + b"".join(extra))
    return bytes(out)


def _export(name: str, kind: int, index: int) -> bytes:
    text = name.encode()
    return number(len(text)) + text + bytes([kind]) + number(index)


def _section(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + number(len(body)) + body
