"""Compiled images: one engine for the process, a bounded cache of modules, and the clock that ends late calls."""

from __future__ import annotations

import atexit
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from hyperpy.codecs import wasm
from hyperpy.errors import Busy, CodecError, DeviceStopped, DeviceTimeout, SizeError

from .compile_child import config
from .compiler import COMPILER, Refused

if TYPE_CHECKING:
    from wasmtime import Engine, FuncType, Linker, Module

IMAGE_LIMIT = 32 << 20
"""Bytes of one image."""
_KEPT = 16
_KEPT_BYTES = 256 << 20  # of compiled code
_COMPILING = 64
_CONVERTING = threading.BoundedSemaphore(2)
_KNOWN_S = 600.0
_KNOWN = 1_000
_TICK_S = 0.05
_LETTERS = {"i32": "i", "i64": "I", "f32": "f", "f64": "F"}


class LegacyExceptions(CodecError):
    """The image uses the older exception operators; it must be converted first."""


class Import:
    """One imported function: its names and its signature.

    Attributes:
        letters: parameters and results, ``(iI)F``.
        results: type names of the results.
    """

    __slots__ = ("letters", "module", "name", "params", "results")

    def __init__(self, module: str, name: str, kind: FuncType) -> None:
        self.module, self.name = module, name
        self.params = [str(item) for item in kind.params]
        self.results = [str(item) for item in kind.results]
        letters = ["".join(_LETTERS.get(item, "?") for item in side) for side in (self.params, self.results)]
        self.letters = f"({letters[0]}){letters[1]}"


class Compiled:
    """A module ready to be instantiated. Thread-safe.

    Args:
        key: the ID of the image as messages name it.
        image: the bytes to run; of a converted image, the converted form.
        called: answers a call of an imported function on the calling thread.
    """

    def __init__(self, key: str, image: bytes, called: Callable[[Import, tuple[Any, ...]], Any]) -> None:
        from wasmtime import FuncType, Linker, MemoryType, Module

        made = wasm.instrument(image)
        self.key = key
        self.globals, self.has_memory = made.globals, made.memory
        self.engine = engine()
        try:
            code = COMPILER.compile(made.image)
        except Refused as error:
            raise _refused(str(error)) from None
        self.size = len(code)
        self.module: Module = Module.deserialize(self.engine, code)
        self.linker: Linker = Linker(self.engine)
        for item in self.module.imports:
            if isinstance(item.type, FuncType):  # instrument() lets nothing else through
                entry = Import(item.module, item.name or "", item.type)
                self.linker.define_func(entry.module, entry.name, item.type, _bound(called, entry))
        self.memory64 = False
        self.functions: dict[str, tuple[list[str], list[str]]] = {}
        for export in self.module.exports:
            if isinstance(export.type, FuncType):
                sides = (export.type.params, export.type.results)
                self.functions[export.name] = ([str(kind) for kind in sides[0]], [str(kind) for kind in sides[1]])
            elif isinstance(export.type, MemoryType):
                self.memory64 = export.type.is_64
        self.initial: tuple[bytes, ...] | None = None
        """The memory's pages after instantiation; kept here so that states share them."""


def _bound(called: Callable[[Import, tuple[Any, ...]], Any], entry: Import) -> Callable[..., Any]:
    return lambda *args: called(entry, args)


def _refused(text: str) -> CodecError:
    if "legacy_exceptions" in text:
        return LegacyExceptions("the image uses WebAssembly's older exception operators")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return CodecError(
        f"the image is no module that this node can run: {lines[-1][:200] if lines else 'no reason given'}"
    )


_engine: Engine | None = None
_lock = threading.Lock()
_modules: OrderedDict[tuple[str, str], Compiled] = OrderedDict()
atexit.register(_modules.clear)  # while the binding can still let go of them
_compiling: dict[tuple[str, str], Future[Compiled]] = {}
_stopped: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()
"""Images that took too much to compile: until when that is taken for certain (monotonic seconds), and the text."""


def engine() -> Engine:
    """Return the process's engine: 64-bit memory, counted steps, one NaN, no threads."""
    global _engine
    if _engine is None:
        from wasmtime import Engine

        _engine = Engine(config())
    return _engine


def load(
    key: str,
    image: Callable[[], bytes],
    called: Callable[[Import, tuple[Any, ...]], Any],
    deadline: float,
    *,
    form: str = "",
    change: Callable[[bytes], bytes] | None = None,
) -> Compiled:
    """Return the compiled image of an ID, compiled once however many ask.

    A process of its own does it, within limits; a caller whose time ends leaves it to those who ask later. What
    passed the limits is not tried again for ten minutes.

    Args:
        image: returns the bytes; asked, on this thread, only if they must be compiled.
        deadline: monotonic seconds.
        form: empty for the image as it is, else the name of what changes it.
        change: returns the bytes to compile; runs beside the callers too.

    Raises:
        LegacyExceptions: it must be converted first.
        CodecError, SizeError: it is no module, or too large.
        DeviceTimeout: it is not ready yet.
        DeviceStopped: compiling it takes too much processor time or memory.
        Busy: too many images are being compiled.
    """
    name = (key, form)
    with _lock:
        found = _modules.get(name)
        if found is not None:
            _modules.move_to_end(name)
            return found
        _check_stopped(name)
    data = image()
    if len(data) > IMAGE_LIMIT:
        raise SizeError(f"an image may have {IMAGE_LIMIT} bytes, not {len(data)}")
    with _lock:
        job = _compiling.get(name)
        if job is None:
            if len(_compiling) >= _COMPILING:
                raise Busy("too many WebAssembly images are being compiled")
            job = _compiling[name] = Future()
            args = (name, job, lambda: Compiled(key, _changed(data, change), called))
            threading.Thread(target=_compile, args=args, name="hyperpy-wasm-compile", daemon=True).start()
    try:
        return job.result(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise DeviceTimeout("the image is still being compiled") from None


def _check_stopped(name: tuple[str, str]) -> None:
    until, text = _stopped.get(name, (0.0, ""))
    left = until - time.monotonic()
    if left > 0:
        raise DeviceStopped(
            text, hint=f"Make the image smaller, or its functions. This node tries again in {left:.0f} s."
        )


def _changed(data: bytes, change: Callable[[bytes], bytes] | None) -> bytes:
    if change is None:
        return data
    with _CONVERTING:
        return change(data)


def _compile(name: tuple[str, str], job: Future[Compiled], make: Callable[[], Compiled]) -> None:
    try:
        found = make()
    except BaseException as error:
        with _lock:
            _compiling.pop(name, None)
            if isinstance(error, DeviceStopped):
                _stopped[name] = time.monotonic() + _KNOWN_S, error.message
                while len(_stopped) > _KNOWN:
                    _stopped.popitem(last=False)
        job.set_exception(error)
        return
    with _lock:
        _compiling.pop(name, None)
        _modules[name] = found
        while len(_modules) > 1 and (
            len(_modules) > _KEPT or sum(item.size for item in _modules.values()) > _KEPT_BYTES
        ):
            _modules.popitem(last=False)
    job.set_result(found)


class Clock:
    """Advances the engine's epoch while calls run, so that a call can be ended at its deadline."""

    def __init__(self) -> None:
        self._running = 0
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        with self._change:
            self._running += 1
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._tick, name="hyperpy-wasm-clock", daemon=True)
                self._thread.start()
            self._change.notify()

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._running -= 1

    def _tick(self) -> None:
        own = engine()
        while True:
            with self._change:
                while not self._running:
                    if not self._change.wait(60) and not self._running:
                        self._thread = None
                        return
            time.sleep(_TICK_S)
            own.increment_epoch()

    @staticmethod
    def ticks(deadline: float) -> int:
        """Return how many ticks are left until a deadline (monotonic seconds); at least one."""
        return max(1, int((deadline - time.monotonic()) / _TICK_S) + 1)


CLOCK = Clock()
