"""One running guest: a store with limits, calls that end at a step count or a deadline, and its memory.

Python exceptions never cross the engine: the binding keeps them in one place for the whole process, where
another thread could pick them up. A host function that fails notes the error here, takes away the guest's
fuel and answers zero; the guest stops at its next check, and the caller raises what was noted.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from types import FrameType
from typing import Any

from hyperpy.codecs.wasm import GLOBAL, MEMORY
from hyperpy.errors import Busy, DeviceReentered, DeviceTimeout

from . import emscripten
from .engine import CLOCK, Compiled, Import
from .places import Places
from .values import Failure, address, from_bits, shaped, to_bits

PAGE = 65536
ZERO = bytes(PAGE)
_TABLE = 1_000_000  # elements of a guest's tables
_FRAMES = 250  # Python frames below which a guest runs on its caller's thread
_INSIDE = 3  # guests that may wait for each other on one thread; each has a stack of its own
_PLACES = Places()
_here = threading.local()

Host = Callable[[Import, tuple[Any, ...]], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may use: ``fuel`` steps, ``memory`` bytes."""

    fuel: int
    memory: int


def called(entry: Import, args: tuple[Any, ...]) -> Any:
    """Answer a call of an imported function for the guest that runs on this thread."""
    running: Running = _here.running
    return running.imported(entry, args)


class Running:
    """A guest with its own memory. Used by one thread at a time.

    Args:
        deadline: monotonic seconds at which its start function is ended.

    Raises:
        Failure: it cannot be started within the limits.
    """

    def __init__(self, compiled: Compiled, limits: Limits, deadline: float) -> None:
        from wasmtime import Store

        self.compiled, self.limits = compiled, limits
        self.store = Store(compiled.engine)
        self.store.set_limits(memory_size=limits.memory, table_elements=_TABLE, instances=1, memories=1, tables=10)
        self.ended: BaseException | None = None
        self.host: Host | None = None
        self.invoked = 0
        self.exports: Any = {}
        self._memory: Any = None
        instance = self._guarded(lambda: compiled.linker.instantiate(self.store, compiled.module), deadline)
        self.exports = instance.exports(self.store)
        self._memory = self.exports[MEMORY] if compiled.has_memory else None

    def close(self) -> None:
        """Free the guest's memory now."""
        self.store.close()

    # -- calling -----------------------------------------------------------------------------

    def call(self, name: str, values: Sequence[int | float], deadline: float, host: Host | None = None) -> list[Any]:
        """Call an exported function and return its results.

        Raises:
            Failure: it trapped, ran out of steps, or an import failed in a way that every node sees.
            DeviceTimeout: the deadline passed; that is never a result.
            HyperpyError: what an import raised.
        """
        self.host = host
        try:
            out = self._guarded(lambda: self.exports[name](self.store, *values), deadline)
        finally:
            self.host = None
        return [] if out is None else out if isinstance(out, list) else [out]

    def _guarded(self, work: Callable[[], Any], deadline: float) -> Any:
        """Run guest code with full fuel until a deadline; raise what ended it."""
        depth: int = getattr(_here, "depth", 0)
        if depth >= _INSIDE:
            raise DeviceReentered(
                "WebAssembly guests call each other too deeply", hint="Call fewer inside one another."
            )
        place = _PLACES.take(deadline) if depth == 0 else None
        try:
            if _deep():
                return _apart(lambda: self._run(work, deadline, depth))
            return self._run(work, deadline, depth)
        finally:
            if place is not None:
                _PLACES.give(place)

    def _run(self, work: Callable[[], Any], deadline: float, depth: int) -> Any:
        outer: Running | None = getattr(_here, "running", None)
        self.store.set_fuel(self.limits.fuel)
        self.store.set_epoch_deadline(CLOCK.ticks(deadline))
        self.ended = None
        _here.running, _here.depth = self, depth + 1
        try:
            with CLOCK:
                out = self.entered(work)
        finally:
            _here.running, _here.depth = outer, depth
        if self.ended is not None:
            raise self.ended
        if time.monotonic() > deadline:  # what came late may have been stopped, unseen, in an import
            raise DeviceTimeout("the WebAssembly call ended after its deadline")
        return out

    def entered(self, work: Callable[[], Any]) -> Any:
        """Run guest code; note in ``ended`` why it stopped, if it did."""
        from wasmtime import Trap, WasmtimeError

        try:
            return work()
        except (Trap, WasmtimeError) as error:
            if self.ended is None:
                self.ended = self._reason(error)
        except RecursionError:
            self.end(Busy("the guest and its imports call each other too deeply for this node"))
        except Exception as error:
            if self.ended is None:
                self.ended = Busy(f"the call was lost ({type(error).__name__})")
        return None

    def _reason(self, error: Any) -> BaseException:
        from wasmtime import Trap, TrapCode

        code = error.trap_code if isinstance(error, Trap) else None
        if code is TrapCode.INTERRUPT:
            return DeviceTimeout("the WebAssembly call was stopped at its deadline")
        if code is TrapCode.OUT_OF_FUEL:
            return Failure(f"the call needs more than {self.limits.fuel} steps")
        if code is not None:
            return Failure(f"the guest trapped: {code.name.lower().replace('_', ' ')}")
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "0x" not in line]
        return Failure(f"the guest cannot run: {lines[-1][:200] if lines else 'no reason given'}")

    # -- imports -----------------------------------------------------------------------------

    def imported(self, entry: Import, args: tuple[Any, ...]) -> Any:
        """Answer an imported function: by the host of this call, or with zeros while the guest starts."""
        values: Sequence[Any] = ()
        if self.ended is None:
            try:
                native = emscripten.function(self.compiled, entry)
                if native is not None:
                    values = native(self, args)
                elif self.host is not None:
                    values = self.host(entry, args)
                values = [shaped(kind, values, n) for n, kind in enumerate(entry.results)]
            except RecursionError:
                self.end(Busy("the guest and its imports call each other too deeply for this node"))
            except BaseException as error:
                self.end(error)
        if self.ended is not None:
            values = [shaped(kind, (), 0) for kind in entry.results]
        return None if not entry.results else values[0] if len(values) == 1 else values

    def end(self, error: BaseException) -> None:
        """Stop the guest at its next check, because of an error."""
        self.ended = error
        self.store.set_fuel(0)

    # -- memory ------------------------------------------------------------------------------

    def peek(self, at: int, size: int) -> bytes:
        """Return bytes of the memory. Raises Failure outside of it."""
        self._within(at, size)
        return ctypes.string_at(self._address() + at, size)

    def poke(self, at: int, data: bytes) -> None:
        """Write bytes into the memory. Raises Failure outside of it."""
        self._within(at, len(data))
        ctypes.memmove(self._address() + at, data, len(data))

    def grow(self, size: int) -> bool:
        """Make the memory at least ``size`` bytes long; say whether that was possible."""
        from wasmtime import WasmtimeError

        missing = -(-size // PAGE) - (0 if self._memory is None else self._memory.size(self.store))
        if missing <= 0:
            return True
        if self._memory is None or size > self.limits.memory:
            return False
        try:
            self._memory.grow(self.store, missing)
        except WasmtimeError:
            return False
        return True

    def put(self, data: bytes, deadline: float) -> int:
        """Copy bytes and a NUL into memory that the guest's ``malloc`` gives; return where."""
        if "malloc" not in self.compiled.functions:
            raise Failure("the guest exports no malloc")
        found = self.call("malloc", [len(data) + 1], deadline)
        at = address(found[0]) if found else 0
        self.poke(at, data + b"\0")
        return at

    def lend(self, data: bytes) -> int:
        """Copy bytes and a NUL into memory that the guest's ``malloc`` gives while it waits for an import.

        Raises:
            Failure: it has no ``malloc``, or that failed.
            HyperpyError: what ended it.
        """
        if "malloc" not in self.compiled.functions:
            raise Failure("the guest exports no malloc")
        found = self.entered(lambda: self.exports["malloc"](self.store, len(data) + 1))
        if self.ended is not None:
            raise self.ended
        at = address(found) if isinstance(found, int) else 0
        self.poke(at, data + b"\0")
        return at

    def left(self) -> int:
        """Return how many steps the call has left."""
        return int(self.store.get_fuel())

    def spend(self, steps: int) -> None:
        """Take steps from a call for work that an import did. Raises Failure if there are not so many."""
        left = self.left() - steps
        if left <= 0:
            raise Failure(f"the call needs more than {self.limits.fuel} steps")
        self.store.set_fuel(left)

    def pages(self, before: Sequence[bytes]) -> tuple[bytes, ...]:
        """Return the memory as pages; those equal to ``before`` are the same objects."""
        if self._memory is None:
            return ()
        base, found = self._address(), []
        for number in range(self._memory.size(self.store)):
            at = base + number * PAGE
            old = before[number] if number < len(before) else ZERO
            if not _same(at, old):
                old = ZERO if _same(at, ZERO) else ctypes.string_at(at, PAGE)
            found.append(old)
        return tuple(found)

    def restore(self, pages: Sequence[bytes], numbers: Sequence[int]) -> None:
        """Bring a guest that has just started to a former state."""
        initial = self.compiled.initial or ()
        if not self.grow(len(pages) * PAGE):
            raise Failure(f"the guest's memory does not fit into {self.limits.memory} bytes")
        if pages:
            base = self._address()
            for number, page in enumerate(pages):
                if page is not (initial[number] if number < len(initial) else ZERO):
                    ctypes.memmove(base + number * PAGE, page, PAGE)
        for (index, kind), number in zip(self.compiled.globals.items(), numbers, strict=False):
            self.exports[f"{GLOBAL}{index}"].set_value(self.store, from_bits(kind, number))

    def numbers(self) -> tuple[int, ...]:
        """Return the mutable globals: integers, and floats as the integer of their bits."""
        return tuple(
            to_bits(kind, self.exports[f"{GLOBAL}{index}"].value(self.store))
            for index, kind in self.compiled.globals.items()
        )

    def _within(self, at: int, size: int) -> None:
        if self._memory is None or at < 0 or size < 0 or at + size > self._memory.data_len(self.store):
            raise Failure("an address outside the guest's memory")

    def _address(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self.store).contents)


def _deep() -> bool:
    """Say whether this thread's Python stack is too full for a guest, its imports and its longjmp targets.

    Past Python's recursion limit the binding would fail before any code of ours runs, and the guest would
    take that for an answer.
    """
    frame: FrameType | None = sys._getframe()
    left = _FRAMES
    while frame is not None and left:
        frame, left = frame.f_back, left - 1
    return frame is not None


def _apart(work: Callable[[], Any]) -> Any:
    """Run something on a thread of its own, in the same context; return or raise what it does."""
    done: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,), name="hyperpy-wasm", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def _same(at: int, page: bytes) -> bool:
    """Say whether the page at an address holds these bytes."""
    return bool(_memcmp(at, page, PAGE) == 0)


_memcmp = ctypes.PyDLL(None).memcmp  # keeps the interpreter: a thousand short calls would hand it on a thousand times
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
_memcmp.restype = ctypes.c_int
