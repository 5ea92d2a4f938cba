"""The process that runs Lua. Started as a script of its own, it imports nothing of hyperpy.

Frames on the standard input and output are four bytes of length and a msgpack list. The host sends
``run``, ``snapshot``, ``functions`` and ``drop``; while Lua runs, the child may send ``ask`` and
``log``, and the host may answer an ``ask`` after further frames of any kind. The process ends when
the host's end of the pipe closes, whatever it is doing.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import threading
from collections import OrderedDict
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

MAX_FRAME = 256 * 1024 * 1024
CPU_S = 5
"""Seconds of processor time for one call; ten times what so many plain instructions take. Passing it kills
the process, and that is never a result."""
STATE_CPU_S = 20
"""The same for writing a state down and taking it up."""
ADDRESS_SPACE = 1536 * 1024 * 1024
CALL_BYTES = 160 * 1024 * 1024
"""What the allocator grants a call beyond what the interpreter held before; the rule itself is in
``engine/limits.lua`` and lower."""
SMALL_BYTES = 64 * 1024 * 1024
"""What a smaller interpreter counts as, garbage and all; a larger one is rid of garbage before each call. As in
``engine/limits.lua``."""
STATE_BYTES = 256 * 1024 * 1024
"""The most that an interpreter may hold between calls."""
TOTAL_BYTES = 768 * 1024 * 1024
"""What all interpreters may hold before the longest unused go."""
GARBAGE = 8 * 1024 * 1024
LARGE = 65536
"""Bytes from which a frame is not copied once more only to be written in one go."""
MOST = 64
"""Interpreters kept; the longest unused goes first, and is made again when it is asked for."""
_MEMORY = msgpack.packb([b"memory", b"memory limit exceeded"], use_bin_type=True)
FILES = ("limits", "order", "codec", "patterns", "strings", "guards", "snapshot", "base")


class Engine:
    """One interpreter, with the library of ``engine/`` around it."""

    def __init__(self, lua: Any, parts: list[bytes], host: Host) -> None:
        self.runtime = lua.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_no_attributes,
            max_memory=1 << 40,
        )
        start = self.runtime.execute(
            b"local S = { G = _G } local load = load S.host_ask, S.host_log, S.host_guard = ... "
            b"return S, function(code) load(code, '=hyperpy', 'b')(S) end",
            host.ask,
            host.log,
            host.guard,
        )
        self.state, load = start
        for part in parts:
            load(part)
        self._live = self.used()

    def sealed(self, sandbox: bytes) -> None:
        """Apply the sandbox, and remember what the library brings along."""
        self.state.sandbox(sandbox)
        self.state.seal()

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the library within the memory limit, on which garbage of earlier calls has no say."""
        used = self.used()
        if used > 2 * self._live + GARBAGE or used > SMALL_BYTES:
            self._collect()
        self.runtime.set_max_memory(max(self.used(), SMALL_BYTES) + CALL_BYTES)
        return self.state[name.encode()](*arguments)

    def used(self) -> int:
        """Return the bytes that the interpreter holds."""
        return int(self.runtime.get_memory_used())

    def too_large(self) -> bool:
        """Say whether the interpreter holds more than it may between calls."""
        if self.used() > STATE_BYTES:
            self._collect()
        return self.used() > STATE_BYTES

    def _collect(self) -> None:
        self.state.collect()
        self._live = self.used()


class Host:
    """The pipe to the host, and the interpreters kept for it."""

    def __init__(self, lua: Any, parts: list[bytes], guards: Any) -> None:
        self._lua = lua
        self._parts = parts
        self._engines: OrderedDict[int, Engine] = OrderedDict()
        self._guards = guards
        self._packer = msgpack.Packer(use_bin_type=True)

    def read(self) -> list[Any]:
        """Return the next frame; end the process when there is none."""
        size = int.from_bytes(_exactly(4), "big")
        if size > MAX_FRAME:
            os._exit(3)
        frame: list[Any] = msgpack.unpackb(_exactly(size), raw=False, strict_map_key=False, max_bin_len=MAX_FRAME)
        return frame

    def write(self, *frame: Any) -> None:
        """Send a frame; end the process when nobody reads."""
        data = self._packer.pack(frame)
        head = len(data).to_bytes(4, "big")
        try:
            for part in (head, data) if len(data) > LARGE else (head + data,):
                view = memoryview(part)
                while view:
                    view = view[os.write(1, view) :]
        except OSError:
            os._exit(0)

    def ask(self, kind: bytes, request: bytes, left: int) -> tuple[bytes | None, int]:
        """Send what Lua asks for and the instructions left; return the answer and those that it took.

        None says that the call is given up. Never raises: Lua would see the error.
        """
        try:
            self.write("ask", kind, request, left)
            while True:
                frame = self.read()
                if frame[0] == "reply":
                    return frame[1], frame[2]
                self.serve(frame)
        except BaseException:
            os._exit(4)

    def guard(self, code: bytes) -> Any:
        """Return compiled code with guards, or None and why there is none. Never raises."""
        try:
            return self._guards.guarded(code)
        except BaseException:
            os._exit(4)

    def log(self, text: bytes) -> None:
        """Send a line for the node's log."""
        try:
            self.write("log", text)
        except BaseException:
            os._exit(4)

    def serve(self, frame: list[Any]) -> None:
        """Answer one frame of the host."""
        kind, *rest = frame
        _cpu_limit(CPU_S if kind == "run" else STATE_CPU_S)
        if kind == "run":
            self.write("done", *self._run(*rest))
        elif kind == "snapshot":
            self.write("done", *self._snapshot(*rest))
        elif kind == "functions":
            engine = self._engines.get(rest[0])
            self.write("done", "lost" if engine is None else "ok", engine and engine.call("functions"), 0)
        elif kind == "drop":
            for number in rest[0]:
                self._engines.pop(number, None)

    def _run(
        self,
        number: int,
        setup: list[Any] | None,
        name: bytes,
        arguments: bytes | None,
        seconds: int,
        seed: int | None,
        own: bool,
        instructions: int | None,
    ) -> tuple[Any, ...]:
        used = 0
        if setup is not None:
            made, answer = self._made(setup, seconds, seed, instructions)
            if answer[0] != "ok":
                return answer
            used = answer[2]
            self._engines[number] = made
        engine = self._engines.get(number)
        if engine is None:
            return "lost", None, 0
        self._engines.move_to_end(number)
        while len(self._engines) > 1 and (len(self._engines) > MOST or self._total() > TOTAL_BYTES):
            self._engines.popitem(last=False)
        if arguments is None:
            return "ok", b"\xdd\0\0\0\0", used
        left = None if instructions is None else max(0, instructions - used)
        word, packed, more = self._guarded(engine, "call", name, arguments, seconds, seed, own, left)
        return word, packed, used + more

    def _made(
        self, setup: list[Any], seconds: int, seed: int | None, instructions: int | None
    ) -> tuple[Engine, tuple[Any, ...]]:
        modules, sandbox, snapshot = setup
        engine = Engine(self._lua, self._parts, self)
        engine.sealed(sandbox)
        if snapshot is None:
            return engine, self._guarded(engine, "boot", modules, seconds, seed, instructions)
        _cpu_limit(STATE_CPU_S)
        found = engine.call("restore", snapshot)
        _cpu_limit(CPU_S)
        if found is True:
            return engine, ("ok", b"", 0)
        return engine, ("refused", _text(found[1]), 0)

    def _snapshot(self, number: int) -> tuple[Any, ...]:
        engine = self._engines.get(number)
        if engine is None:
            return "lost", None, 0
        try:
            fine, data = engine.call("snapshot")
        except self._lua.LuaError:
            fine, data = False, b"the state is too large"
        return ("ok", data, 0) if fine else ("refused", _text(data), 0)

    def _guarded(self, engine: Engine, name: str, *arguments: Any) -> tuple[Any, ...]:
        try:
            word, packed, used = engine.call(name, *arguments)
        except self._lua.LuaError:  # memory ran out where the library itself works
            word, packed, used = b"limit", _MEMORY, arguments[-1] or 0
        if word == b"ok" and engine.too_large():
            word, packed = b"limit", _MEMORY
        if word == b"limit" and self._total() > TOTAL_BYTES + SMALL_BYTES + CALL_BYTES:
            os._exit(5)  # others may have used up the process's memory: this is no result
        return word.decode(), packed, used

    def _total(self) -> int:
        return sum(engine.used() for engine in self._engines.values())


def _text(item: Any) -> bytes:
    return item if isinstance(item, bytes) else str(item).encode()


def _exactly(size: int) -> bytes | bytearray:
    """Return ``size`` bytes of the standard input; end the process where it ends."""
    part = os.read(0, size) if size <= LARGE else b""
    if len(part) == size:
        return part
    made = bytearray(size)
    made[: len(part)] = part
    at = len(part)
    while at < size:
        got = os.readv(0, [memoryview(made)[at:]])
        if not got:
            os._exit(0)
        at += got
    return made


def _no_attributes(*_: Any) -> Any:
    raise AttributeError("not for Lua")


def _cpu_limit(seconds: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, resource.RLIM_INFINITY))


def _end_with_host() -> None:
    """Wait until nobody holds the other end of the pipe, then end the process, whatever it does."""
    poll = select.poll()
    poll.register(0, 0)
    while True:
        for _, event in poll.poll():
            if event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                os._exit(0)


def compiled(lua: Any) -> list[bytes]:
    """Return the library's files as machine code of this interpreter, without line numbers."""
    runtime = lua.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    make = runtime.execute(b"return function(t, n) return string.dump(assert(load(t, n)), true) end")
    folder = Path(__file__).parent / "engine"
    return [make((folder / f"{name}.lua").read_bytes(), b"=hyperpy") for name in FILES]


def beside(name: str) -> Any:
    """Return the module in the file of that name beside this one."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def main() -> None:
    """Serve until the host goes away."""
    from lupa import lua53  # type: ignore[import-untyped]

    host = Host(lua53, compiled(lua53), beside("guards").Guards())
    threading.Thread(target=_end_with_host, daemon=True).start()
    for kind, value in (
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
    ):
        resource.setrlimit(kind, (value, value))
    sys.setrecursionlimit(2000)
    host.write("ready")
    while True:
        host.serve(host.read())


if __name__ == "__main__":
    main()
