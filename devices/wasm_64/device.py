"""The keys of wasm-64@1.0."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

from hyperpy import Context, Message, device, key
from hyperpy.capabilities import Storage
from hyperpy.codecs import wasm_convert
from hyperpy.encoding import b64u
from hyperpy.errors import DeviceError, KeyNotFound, MessageError, MessageNotFound, ParameterError, SizeError
from hyperpy.message import Link, Value, as_text, list_to_map

from .engine import Compiled, Import, LegacyExceptions, load
from .instance import Limits, called
from .state import Live, Pages, State
from .values import Failure, fit

FUEL, MOST_FUEL = 2_000_000_000, 8_000_000_000
MEMORY, MOST_MEMORY = 256 << 20, 1 << 30
_WHOLE = 1 << 20
"""Bytes of memory that a process's snapshot holds as one piece."""
_ID = re.compile(rb"[A-Za-z0-9_-]{43}")
IMPORTS = 2_000
"""Calls of imports that go through message resolution, in one call."""


@device(
    "wasm-64@1.0",
    needs=("store",),
    uses=("hyperpy.codecs.wasm", "hyperpy.codecs.wasm_convert", "hyperpy.codecs.wasm_meter"),
)
class Wasm64:
    """Runs a WebAssembly image with 32- or 64-bit memory: same image, same calls, same results.

    ``image`` (below ``input-prefix``) is the image, a message whose ``body`` it is, or the ID of one.
    What the image remembers is private to the message and goes into ``snapshot``. ``wasm-fuel`` and
    ``wasm-memory`` beside ``image`` set the steps and the bytes that one call may use.
    """

    def start(self, store: Storage) -> None:
        """Take the store, where converted images are kept."""
        self._store = store

    @key
    def init(self, base: Message, ctx: Context) -> Message:
        """Load the image and return the base with the guest in its first state (private)."""
        return _holding(base, State(self._compiled(base, ctx), _limits(base)))

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Call ``function`` with ``parameters``; put ``type`` and ``output`` into ``results``.

        Both come from the request's ``body``, the request or the base. A process whose state names a function, as
        json-iface@1.0 does, takes both from there: no message chooses otherwise. ``type`` is ``ok`` with a list
        of return values, or ``error`` with the reason; then nothing else has changed. Without a function, and in
        later passes of a stack, the base comes back.
        """
        base = self._normal(base, ctx)
        if base.text("pass", "1") != "1":
            return base
        sources = _sources(base, request)
        name = _first(sources, "function")
        if name is None:
            return base
        state, current = _held(base), [base]
        try:
            values = _values(state, as_text(name, "function"), _first(sources, "parameters"))
            bind = _importer(current, ctx)
            found, state = state.call(as_text(name, "function"), values, ctx.deadline, bind)
        except Failure as error:
            return _with_results(base, b"error", str(error).encode())
        return _holding(_with_results(current[0], b"ok", tuple(found)), state)

    @key(name="import")
    def resolve_import(self, base: Message, request: Message, ctx: Context) -> Message:
        """Answer the guest's call of ``func`` of ``module``: by the device at ``stdlib``, else with 0.

        The device gets the whole state as base key ``state``; it returns ``state`` and ``results``.
        """
        library = _at(base, [*_prefix(base, "output"), "stdlib", request.text("module")])
        if isinstance(library, Message):
            asked = library | {"state": base}
            if base.hashpath is not None:
                asked = asked.with_private(hashpath=base.hashpath)
            try:
                result = ctx.step(asked, request | {"path": request.text("func")})
            except KeyNotFound:
                pass
            else:
                if result.status != "ok" or not isinstance(result.value, Message):
                    raise ParameterError(
                        f"import {request.text('module')}.{request.text('func')} failed", name="import"
                    )
                return result.value
        return _stub(base, request)

    @key
    def snapshot(self, base: Message, request: Message, ctx: Context) -> Message:
        """Return the guest's memory as ``body`` and its mutable globals as ``globals``.

        In the sparse form: ``size``, and ``pages`` of 64 KiB, those that are not zero. ``snapshot-form`` in the
        base says ``sparse`` or ``whole``; without it a process (``mode: Map``) gets more than 1 MiB as sparse.
        """
        state = _held(self._normal(base, ctx))
        try:
            state = state.settled(ctx.deadline)
        except Failure as error:
            raise ParameterError(f"the image cannot be started: {error}", name="image") from None
        found: dict[str, Value] = {}
        size, pages = state.sparse()
        large = size > _WHOLE and request.text("mode", "") == "Map"
        if base.text("snapshot-form", "sparse" if large else "whole") == "sparse":
            found["size"] = size
            found["pages"] = Message.make({str(number): page for number, page in pages.items()})
        else:
            found["body"] = state.body()
        if state.numbers:
            found["globals"] = state.numbers
        return Message.make(found)

    @key
    def normalize(self, base: Message, ctx: Context) -> Message:
        """Take the guest's state from ``snapshot`` if there is none; remove ``snapshot``."""
        return self._normal(base, ctx)

    @key
    def terminate(self, base: Message) -> Message:
        """Let go of the guest's state."""
        return base.with_private(**{_name(base): None})

    # -- images ------------------------------------------------------------------------------

    def _normal(self, base: Message, ctx: Context) -> Message:
        if _name(base) in base.private:
            return base.without("snapshot") if "snapshot" in base else base
        kept = _at(base, ["snapshot", base.text("device-key", "")])
        kept = kept if isinstance(kept, Message) else _at(base, ["snapshot"])
        memory = _memory(kept) if isinstance(kept, Message) else None
        if not isinstance(kept, Message) or memory is None:
            raise DeviceError(
                "no_wasm_instance_or_snapshot: the message holds neither a running image nor its snapshot",
                hint="Call init first, or add the snapshot.",
            )
        numbers = _list(kept.get("globals", ()), "globals")
        whole = [item if isinstance(item, int) else 0 for item in numbers]
        state = State.load(self._compiled(base, ctx), _limits(base), memory, whole)
        return _holding(base.without("snapshot"), state)

    def _compiled(self, base: Message, ctx: Context) -> Compiled:
        ident, image = _image(base, ctx)
        try:
            return load(ident, image, called, ctx.deadline)
        except LegacyExceptions:
            form = wasm_convert.CONVERTER
            return load(ident, image, called, ctx.deadline, form=form, change=lambda data: self._converted(ident, data))

    def _converted(self, ident: str, image: bytes) -> bytes:
        """Return the current form of an image, kept under its own ID and the converter's version."""
        name = wasm_convert.kept_as(ident)
        known = self._store.named(name)
        if known is not None:
            try:
                return _body(self._store.read(known), known)
            except MessageNotFound:
                pass
        made = wasm_convert.convert(image)
        self._store.link(name, self._store.write(Message({"body": made, "converted-from": ident})))
        return made


def _memory(kept: Message) -> bytes | Pages | None:
    """Return the memory of a snapshot, in either form."""
    body, size, pages = kept.get("body"), kept.get("size"), kept.get("pages")
    if isinstance(body, bytes):
        return body
    if not isinstance(size, int) or size < 0:
        return None
    named = pages if isinstance(pages, Message) else Message()
    if not all(name.isdecimal() and len(name) < 7 and isinstance(page, bytes) for name, page in named.items()):
        raise ParameterError("the snapshot's pages must be binaries by number", name="snapshot")
    return size, {int(name): page for name, page in named.items() if isinstance(page, bytes)}


def _image(base: Message, ctx: Context) -> tuple[str, Callable[[], bytes]]:
    """Return the ID of the base's image, and a function that gives its bytes."""
    inputs = _prefix(base, "input")
    if as_text(_at(base, [*inputs, "mode"]) or b"", "mode").upper() == "AOT":
        raise ParameterError("images compiled before (AOT) are not taken: 'mode' must be WASM", name="mode")
    module = _at(base, [*inputs, "module"])
    named = module if isinstance(module, bytes) and _ID.fullmatch(module) else None
    found = _at(base, [*inputs, "image"]) or named or base.get("body")
    if isinstance(found, bytes) and _ID.fullmatch(found):
        ident = found.decode("ascii")
        return ident, lambda: _read(ident, ctx)
    if not isinstance(found, (bytes, Message)):
        where = "/".join([*inputs, "image"])
        raise ParameterError(
            f"wasm_init_error: No viable image found in {where}.",
            name="image",
            hint=f"Put the image, or the ID of the message that holds it, into '{where}'.",
        )
    data = _body(found, "'image'")
    return b64u(hashlib.sha256(data).digest()), lambda: data


def _read(ident: str, ctx: Context) -> bytes:
    try:
        return _body(ctx.resolve(f"/{ident}"), ident)
    except MessageNotFound:
        raise MessageNotFound(
            f"this node does not hold the module {ident}", hint="Upload the message with the image to this node first."
        ) from None


def _body(item: Value, what: str) -> bytes:
    found = (item.get("body") or item.get("data")) if isinstance(item, Message) else item
    if not isinstance(found, bytes):
        raise ParameterError(f"the message {what} holds no image in 'body' or 'data'", name="image")
    return found


def _limits(base: Message) -> Limits:
    inputs = _prefix(base, "input")
    return Limits(
        _number(_at(base, [*inputs, "wasm-fuel"]), "wasm-fuel", FUEL, MOST_FUEL),
        _number(_at(base, [*inputs, "wasm-memory"]), "wasm-memory", MEMORY, MOST_MEMORY),
    )


def _number(item: Value | None, name: str, default: int, most: int) -> int:
    if item is None:
        return default
    text = as_text(item, name)
    if not text.isdecimal() or len(text) > 18:
        raise ParameterError(f"'{name}' must be a whole number", name=name)
    return min(int(text), most)


# -- calls ---------------------------------------------------------------------------------


def _sources(base: Message, request: Message) -> tuple[Message, ...]:
    """Return where a call's function and parameters are looked for, in order."""
    body = request.get("body")
    assigned = request.get("type") == b"Assignment" or ("slot" in request and body is not None)
    if assigned and "function" in base:
        return (base,)
    return (body, request, base) if isinstance(body, Message) else (request, base)


def _values(state: State, name: str, given: Value | None) -> list[int | float]:
    """Return a call's parameters as the function takes them. Raises Failure if it does not."""
    signature = state.compiled.functions.get(name)
    if signature is None:
        raise Failure(f"the image exports no function '{name[:100]}'")
    items = _list(() if given is None else given, "parameters")
    if len(items) != len(signature[0]):
        raise Failure(f"'{name[:100]}' takes {len(signature[0])} parameters, not {len(items)}")
    return [_argument(kind, item) for kind, item in zip(signature[0], items, strict=True)]


def _argument(kind: str, item: Value) -> int | float:
    if isinstance(item, bytes):
        text = item.decode("ascii", "replace").strip()
        try:
            item = int(text) if text.removeprefix("-").isdecimal() and len(text) < 30 else float(text)
        except ValueError:
            raise Failure(f"a parameter must be a number, not {text[:40]!a}") from None
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise Failure("a parameter must be a number")
    if kind in ("i32", "i64") and isinstance(item, float) and not item.is_integer():
        raise Failure(f"a parameter must be a whole number, not {item}")
    return fit(kind, item)


def _importer(current: list[Message], ctx: Context) -> Callable[[Live], Callable[[Import, tuple[Any, ...]], Any]]:
    """Return what answers a guest's imports by resolving ``import`` on the state, which it keeps in ``current``."""

    def bind(live: Live) -> Callable[[Import, tuple[Any, ...]], Sequence[Any]]:
        left = IMPORTS

        def host(entry: Import, args: tuple[Any, ...]) -> Sequence[Any]:
            nonlocal left
            left -= 1
            if left < 0:
                raise Failure(f"the call uses more than {IMPORTS} imports")
            asked = {"path": b"import", "module": entry.module, "func": entry.name, "args": args}
            request = Message({**asked, "func-sig": entry.letters[:-1]})
            found = _resolved(_holding(current[0], live), request, ctx)
            state, results = found.get("state"), found.get("results")
            if not isinstance(state, Message):
                raise Failure(f"import {entry.module}.{entry.name} returned no state")
            current[0] = state
            return _list(() if results is None else results, "results")

        return host

    return bind


def _resolved(state: Message, request: Message, ctx: Context) -> Message:
    """Resolve an import; an error that every node meets alike is the call's result.

    Raises:
        HyperpyError: another node may have the answer, a device or a message for one.
    """
    try:
        found = ctx.resolve(state, request)
    except SizeError:
        raise
    except (MessageError, KeyNotFound) as error:
        raise Failure(f"import {request.text('module')}.{request.text('func')}: {error.message}") from None
    if not isinstance(found, Message):
        raise Failure(f"import {request.text('module')}.{request.text('func')} returned no message")
    return found


def _stub(base: Message, request: Message) -> Message:
    """Answer an import nobody provides with 0, and remember the call in ``undefined-calls``."""
    where = ["results", *_prefix(base, "output"), "undefined-calls"]
    before = _list(_at(base, where) or (), "undefined-calls")
    call = Message.make(dict(request.raw_items()))
    return Message({"state": _put(base, where, (call, *before)), "results": [0]})


# -- messages ------------------------------------------------------------------------------


def _prefix(base: Message, side: str) -> list[str]:
    return [part for part in base.text(f"{side}-prefix", "").split("/") if part]


def _name(base: Message) -> str:
    return "/".join([*_prefix(base, "output"), "instance"])


def _holding(base: Message, state: State | Live) -> Message:
    return base.with_private(**{_name(base): state})


def _held(base: Message) -> State:
    found = base.private.get(_name(base))
    if not isinstance(found, State):
        raise ParameterError("a call of this image is in progress", name="path", hint="Wait until it has ended.")
    return found


def _at(base: Message, parts: Sequence[str]) -> Value | None:
    """Return what stands at a path of plain keys, or None."""
    found: Value | None = base
    for part in parts:
        if isinstance(found, tuple):
            found = Message.make(list_to_map(found))
        if not isinstance(found, Message):
            return None
        found = found.get(part)
    return found


def _put(base: Message, parts: Sequence[str], item: Value) -> Message:
    """Return the base with a value at a path of plain keys."""
    return base | {parts[0]: item if len(parts) == 1 else _inside(base.get(parts[0]), parts[1:], item)}


def _inside(found: Value | None, parts: Sequence[str], item: Value) -> Message:
    """Return a message without commitments, a value at a path in it replaced; old and new are not compared."""
    found = found.load() if isinstance(found, Link) else found
    items = dict(found.raw_items()) if isinstance(found, Message) else {}
    items[parts[0]] = item if len(parts) == 1 else _inside(items.get(parts[0]), parts[1:], item)
    return Message.make(items)


def _with_results(base: Message, kind: bytes, output: Value) -> Message:
    where = ["results", *_prefix(base, "output")]
    return _put(_put(base, [*where, "type"], kind), [*where, "output"], output)


def _first(sources: Sequence[Message], name: str) -> Value | None:
    return next((found for source in sources if (found := source.get(name)) is not None), None)


def _list(item: Value, name: str) -> tuple[Value, ...]:
    """Return the members of a list, also of one that arrived as a map of numbers."""
    if isinstance(item, tuple):
        return item
    if isinstance(item, Message):
        return tuple(item[part] for part in sorted(item, key=lambda part: int(part) if part.isdecimal() else 0))
    raise ParameterError(f"'{name}' must be a list", name=name)
