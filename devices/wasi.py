"""wasi@1.0: the system calls of WebAssembly guests, answered from the state message alone.

Files are keys of ``vfs``, open ones keys of ``file-descriptors``; so they are part of the state and of its ID.
Time stands still, and random bytes are the same for everybody: both follow from the state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, cast

from hyperpy import Message, device, key
from hyperpy.errors import KeyNotFound, ParameterError
from hyperpy.message import Value, as_text

_STDIO = {"0": "/dev/stdin", "1": "/dev/stdout", "2": "/dev/stderr"}
_VECTORS = 1024
_BYTES = 16 << 20
"""Bytes that one call may move, and that one file may have."""


class _Memory(Protocol):
    """What a waiting guest lends to the devices that answer its imports."""

    memory64: bool

    def peek(self, at: int, size: int) -> bytes: ...
    def poke(self, at: int, data: bytes) -> None: ...


@device("wasi@1.0")
class Wasi:
    """Files, clock and random bytes for WebAssembly guests; its calls take ``state`` and ``args``.

    Calls that are not here are answered with 0 by wasm-64@1.0.
    """

    @key
    def init(self, base: Message) -> Message:
        """Become the library ``wasi_snapshot_preview1`` of the image, with empty standard streams."""
        where = [*_prefix(base), "stdlib", "wasi_snapshot_preview1"]
        made = _put(base, where, Message({"device": "wasi@1.0"}))
        files = {number: {"filename": name, "offset": 0} for number, name in _STDIO.items()}
        streams = {"stdin": b"", "stdout": b"", "stderr": b""}
        return made | {"file-descriptors": Message(files), "vfs": Message({"dev": streams})}

    @key
    def compute(self, base: Message) -> Message:
        """Return the base."""
        return base

    @key
    def stdout(self, base: Message) -> bytes:
        """Return what the guest wrote to its standard output."""
        return _file(base, "/dev/stdout")

    @key
    def path_open(self, base: Message, request: Message) -> Message:
        """Open a file; answer its number."""
        state, args = _state(base), _args(request, 3)
        name = _name(_text(_memory(state), args[2]))
        files = _table(state)
        for number in files:
            entry = files.get(number)
            if isinstance(entry, Message) and entry.text("filename", "") == name:
                return _answer(state, 0, int(number))
        number = str(len(files) + 1)
        return _answer(
            _put(state, ["file-descriptors", number], Message({"filename": name, "offset": 0})), 0, len(files) + 1
        )

    @key
    def fd_write(self, base: Message, request: Message) -> Message:
        """Write the guest's vectors to a file at its offset; answer 0."""
        state, args = _state(base), _args(request, 4)
        memory = _memory(state)
        data = b"".join(memory.peek(at, size) for at, size in _vectors(memory, args[1], args[2]))
        name, offset = _opened(state, args[0])
        old = _file(state, name)
        if offset + len(data) > _BYTES:
            raise ParameterError(f"wasi: a file may have {_BYTES} bytes", name="args")
        new = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]
        state = _moved(_put(state, _place(name), new), args[0], offset + len(data))
        _return(memory, args[3], len(data))
        return _answer(state, 0)

    @key
    def fd_read(self, base: Message, request: Message) -> Message:
        """Read from a file at its offset into the guest's vectors; answer 0."""
        state, args = _state(base), _args(request, 4)
        memory = _memory(state)
        name, offset = _opened(state, args[0])
        data, start = _file(state, name), offset
        for at, size in _vectors(memory, args[1], args[2]):
            part = data[offset : offset + size]
            memory.poke(at, part)
            offset += len(part)
        _return(memory, args[3], offset - start)
        return _answer(_moved(state, args[0], offset), 0)

    @key
    def clock_time_get(self, base: Message) -> Message:
        """Answer 1 and write nothing: time stands still."""
        return _answer(_state(base), 1)

    @key
    def random_get(self, base: Message, request: Message) -> Message:
        """Fill memory with bytes that follow from how many were asked for before; answer 0. No secrets from these."""
        state, args = _state(base), _args(request, 2)
        at, size = args[0], args[1] & 0xFFFFFFFF
        if size > _BYTES:
            raise ParameterError(f"wasi: a guest may ask for {_BYTES} random bytes at a time", name="args")
        before = state.get("random-calls", 0)
        count = before + 1 if isinstance(before, int) else 1
        _memory(state).poke(at, hashlib.shake_256(b"hyperpy wasi random %d" % count).digest(size))
        return _answer(state | {"random-calls": count}, 0)


def _answer(state: Message, *results: int) -> Message:
    return Message.make({"state": state, "results": results})


def _state(base: Message) -> Message:
    found = base.get("state")
    if not isinstance(found, Message):
        raise KeyNotFound("wasi: this is an import of a running guest; 'state' is missing")
    return found


def _args(request: Message, count: int) -> list[int]:
    found = request.get("args", ())
    if not isinstance(found, tuple) or len(found) < count or not all(isinstance(item, int) for item in found):
        raise ParameterError(f"wasi: 'args' must be a list of {count} integers", name="args")
    return [cast(int, item) for item in found]


def _memory(state: Message) -> _Memory:
    found: Any = state.private.get("/".join([*_prefix(state), "instance"]))
    if not hasattr(found, "poke"):
        raise KeyNotFound("wasi: no guest is waiting for this call")
    return cast(_Memory, found)


def _text(memory: _Memory, at: int) -> str:
    found = bytearray()
    while len(found) < 4096:
        byte = memory.peek(at + len(found), 1)
        if byte == b"\0":
            return found.decode("utf-8", "surrogateescape")
        found += byte
    raise ParameterError("wasi: a file name may have 4096 bytes", name="args")


def _vectors(memory: _Memory, at: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield address and size of the memory that a list of vectors names: 16 bytes each, or 8 with 32-bit memory."""
    half = 8 if memory.memory64 else 4
    if not 0 <= count <= _VECTORS:
        raise ParameterError(f"wasi: a call may have {_VECTORS} vectors", name="args")
    left = _BYTES
    for number in range(count):
        raw = memory.peek(at + number * 2 * half, 2 * half)
        size = int.from_bytes(raw[half:], "little")
        left -= size
        if left < 0:
            raise ParameterError(f"wasi: a call may move {_BYTES} bytes", name="args")
        yield int.from_bytes(raw[:half], "little"), size


def _return(memory: _Memory, at: int, count: int) -> None:
    memory.poke(at, count.to_bytes(8 if memory.memory64 else 4, "little"))


# -- files -----------------------------------------------------------------------------------


def _table(state: Message) -> Message:
    found = state.get("file-descriptors")
    return found if isinstance(found, Message) else Message()


def _opened(state: Message, number: int) -> tuple[str, int]:
    """Return the name and the offset of an open file."""
    entry = _table(state).get(str(number))
    if not isinstance(entry, Message):
        raise ParameterError(f"wasi: no file is open under number {number}", name="args")
    offset = entry.get("offset", 0)
    return entry.text("filename"), offset if isinstance(offset, int) else 0


def _moved(state: Message, number: int, offset: int) -> Message:
    return _put(state, ["file-descriptors", str(number), "offset"], offset)


def _name(text: str) -> str:
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or len(parts) > 16:
        raise ParameterError("wasi: a file name must be a path below '/'", name="args")
    return "/" + "/".join(parts)


def _place(name: str) -> list[str]:
    return ["vfs", *[part for part in name.split("/") if part]]


def _file(state: Message, name: str) -> bytes:
    found: Value | None = state
    for part in _place(name):
        found = found.get(part) if isinstance(found, Message) else None
    return found if isinstance(found, bytes) else b""


def _prefix(base: Message) -> list[str]:
    found = base.get("output-prefix")
    return [] if found is None else [part for part in as_text(found, "output-prefix").split("/") if part]


def _put(base: Message, parts: list[str], item: Value) -> Message:
    """Return the base with a value at a path of plain keys."""
    if len(parts) == 1:
        return base | {parts[0]: item}
    inner = base.get(parts[0])
    return base | {parts[0]: _put(inner if isinstance(inner, Message) else Message(), parts[1:], item)}
