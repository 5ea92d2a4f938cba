"""What images built with emscripten ask of their host and only the host can do: they need the instance itself.

``invoke_*`` calls a table entry and catches a longjmp out of it; the others throw one, grow or copy memory, or
end the guest. All other imports, ``env`` included, go through message resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .values import Failure, address

if TYPE_CHECKING:
    from .engine import Compiled, Import
    from .instance import Running

_DEEP = 60  # longjmp targets inside one another
_TABLE = "__indirect_function_table"
_SAVE = ("emscripten_stack_get_current", "stackSave")
_RESTORE = ("_emscripten_stack_restore", "stackRestore")

Native = Callable[["Running", tuple[Any, ...]], Sequence[Any]]


class LongJump(Failure):
    """The guest threw a longjmp that nothing caught so far."""

    def __init__(self, fuel: int) -> None:
        super().__init__("the guest threw a longjmp that nothing caught")
        self.fuel = fuel


def function(compiled: Compiled, entry: Import) -> Native | None:
    """Return the host's own answer to an import, or None if it goes through message resolution."""
    if entry.module != "env":
        return None
    if entry.name.startswith("invoke_"):
        return _invoke if "setThrew" in compiled.functions else None
    return _NATIVE.get(entry.name)


def _invoke(running: Running, args: tuple[Any, ...]) -> Sequence[Any]:
    from wasmtime import Func

    table = running.exports.get(_TABLE)
    target = table.get(running.store, args[0]) if table is not None else None
    if not isinstance(target, Func):
        raise Failure("the guest invoked a table entry that is no function")
    if running.invoked >= _DEEP:
        raise Failure(f"the guest has more than {_DEEP} longjmp targets inside one another")
    saved = _first(running, _SAVE)
    running.invoked += 1
    try:
        out = running.entered(lambda: target(running.store, *args[1:]))
    finally:
        running.invoked -= 1
    if isinstance(running.ended, LongJump):
        running.store.set_fuel(running.ended.fuel)
        running.ended = None
        if saved:
            _first(running, _RESTORE, *saved)
        _first(running, ("setThrew",), 1, 0)
        return ()
    if running.ended is not None:
        raise running.ended
    return () if out is None else out if isinstance(out, list) else [out]


def _first(running: Running, names: Sequence[str], *args: Any) -> list[Any]:
    """Call the first of some exports that the guest has; return its results."""
    target = next((running.exports[name] for name in names if name in running.compiled.functions), None)
    if target is None:
        return []
    out = running.entered(lambda: target(running.store, *args))
    if running.ended is not None:
        raise running.ended
    return [] if out is None else [out]


def _throw(running: Running, args: tuple[Any, ...]) -> Sequence[Any]:
    raise LongJump(running.store.get_fuel())


def _resize(running: Running, args: tuple[Any, ...]) -> Sequence[Any]:
    return [int(running.grow(address(args[0])))]


def _copy(running: Running, args: tuple[Any, ...]) -> Sequence[Any]:
    to, start, size = map(address, args)
    running.spend(size // 8)
    running.poke(to, running.peek(start, size))
    return ()


def _abort(running: Running, args: tuple[Any, ...]) -> Sequence[Any]:
    raise Failure(f"the guest ended itself{f' with code {args[0]}' if args else ''}")


_NATIVE: dict[str, Native] = {
    "_emscripten_throw_longjmp": _throw,
    "emscripten_resize_heap": _resize,
    "_emscripten_memcpy_js": _copy,
    "_abort_js": _abort,
    "abort": _abort,
    "exit": _abort,
}
