"""lua@5.3a: a device made of Lua functions (devices/07-wasm-lua).

Any key is a call of the global function of that name. The interpreter runs in a child process, within
limits that are part of the result: see docs/lua.md.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from hyperpy import Message, Result, commitments, default, device, key
from hyperpy.encoding import is_id, key_text, number_keys, sha256
from hyperpy.errors import DeviceError, MessageNotFound, NotFound, ParameterError
from hyperpy.lua.outside import Outside, meter
from hyperpy.lua.pool import Pool
from hyperpy.lua.states import Answer, Boot, Call, Interpreters, State
from hyperpy.lua.values import Exchange
from hyperpy.message import Atom, Value, as_text
from hyperpy.sdk import Context

SNAPSHOT_TYPE: Final = b"application/x-hyperpy-lua-snapshot"
LUA_TYPES: Final = frozenset({b"application/lua", b"text/x-lua"})
MAX_CODE: Final = 16 * 1024 * 1024

_UNSAFE = ("io", "file", "os.execute", "os.exit", "os.getenv", "os.remove", "os.rename", "os.tmpname")
_CODE = ("loadfile", "dofile", "loadstring")
_SAFE_HERE = ("package", "require", "load")
"""Paths that ``sandbox: true`` replaces too. Here they cannot reach outside: text only, no files."""

_FAILED: Final = 400
"""Status of a script's own failure: whoever named the script or its arguments can mend it, the node cannot (S: 500)."""


@device(
    "lua@5.3a",
    excludes=("keys", "set", "encode", "decode", "id", "commitments", "committers", "path", "remove", "verify"),
    uses=("hyperpy.lua",),
)
class Lua:
    """Runs Lua functions: ``module`` names the code, a key the function.

    ``function`` and ``parameters`` of the request (or its body, or the base) override name and arguments. In a
    process only those of the base do: what a stranger schedules does not choose what runs. A definition with
    ``message-calls: true`` lets messages choose all the same.
    ``sandbox`` and ``device-sandbox`` say what the code may not use.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: Pool | None = None

    def stop(self) -> None:
        """End the child processes."""
        if self._pool is not None:
            self._pool.stop()

    @default
    def call(self, key: str, base: Message, request: Message, ctx: Context) -> Result:
        """Call the function named by the request, the base or the key."""
        if key in base and not _assigned(request):
            return Result("ok", base[key])
        name = (_function(base, request) or key).encode("utf-8", "surrogateescape")
        exchange = Exchange()
        arguments = exchange.pack(*_parameters(base, request))
        call = Call(name, arguments, _seconds(request), _seed(request), own=_assigned(request))
        answer = self._run(base, call, exchange, ctx)
        return _result(answer, exchange, _slot(base))

    @key
    def init(self, base: Message, request: Message, ctx: Context) -> Result:
        """Run the modules; the message then holds the Lua state in its private part."""
        if _state(base) is not None:
            return Result("ok", base)
        answer = self._run(base, Call(b"", None, _seconds(request), _seed(request)), Exchange(), ctx)
        if answer.state is None:
            return _failure(answer, Exchange())
        return Result("ok", base.with_private(**{_slot(base): answer.state}))

    @key
    def functions(self, base: Message, ctx: Context) -> Result:
        """Return the names of the functions that can be called; ``not_found`` before the first call."""
        state = _state(base)
        if state is None:
            return Result("error", Atom("not_found"))
        names = self._interpreters().functions(state, deadline=ctx.deadline)
        return Result("ok", tuple(msgpack.unpackb(names, raw=True)))

    @key
    def snapshot(self, base: Message, ctx: Context) -> Message:
        """Return the Lua state as bytes in ``body``; fails where it cannot be written down."""
        state = _state(base)
        if state is None:
            raise DeviceError("there is no Lua state to take a snapshot of", hint="Resolve init first.")
        body = self._interpreters().snapshot(state, deadline=ctx.deadline)
        return Message({"body": body, "content-type": SNAPSHOT_TYPE})

    @key
    def normalize(self, base: Message, ctx: Context) -> Message:
        """Restore the Lua state from ``snapshot`` unless it is there already."""
        if _state(base) is not None:
            return base.without("snapshot")
        body = _stored(base)
        if body is None:
            raise DeviceError("no_lua_state_snapshot_found", hint="The process is computed again from its first slot.")
        state = State(_boot(base, ctx), body)
        exchange = Exchange()
        outside = Outside(ctx, exchange, None)
        answer = self._interpreters().call(
            state, Call(b"", None), deadline=ctx.deadline, asked=outside.answer, logged=outside.log
        )
        if answer.state is None:
            raise DeviceError("the Lua snapshot cannot be used")
        made = answer.state
        made.snapshot, made.log = body, None
        return base.without("snapshot").with_private(**{_slot(base): made})

    # -- running -------------------------------------------------------------------------------

    def _interpreters(self) -> Interpreters:
        with self._lock:
            if self._pool is None:
                self._pool = Pool()
            return Interpreters(self._pool)

    def _run(self, base: Message, call: Call, exchange: Exchange, ctx: Context) -> Answer:
        state = _state(base)
        if state is None:
            state = State(_boot(base, ctx))
        paying = meter(ctx)
        if paying is not None:
            call = replace(call, instructions=paying.left)
        outside = Outside(ctx, exchange, _allowed(base), metered=ctx.strict and (call.own or paying is not None))
        answer = self._interpreters().call(state, call, deadline=ctx.deadline, asked=outside.answer, logged=outside.log)
        if paying is not None:
            paying.left -= min(paying.left, answer.used)
            paying.used += answer.used
        return answer


# -- what is called ------------------------------------------------------------------------------


def _slot(base: Message) -> str:
    """Return the private key of the Lua state; entries of a stack have one each."""
    entry = base.get("device-key")
    return f"lua-{key_text(entry)}" if isinstance(entry, bytes) else "lua"


def _state(base: Message) -> State | None:
    found = base.private.get(_slot(base))
    return found if isinstance(found, State) else None


def _assigned(request: Message) -> bool:
    """Say whether a request is a process's assignment, whose body may be anybody's."""
    return request.get("type") == b"Assignment" or ("slot" in request and "body" in request)


def _open(base: Message) -> bool:
    """Say whether a process's definition lets messages name functions and their arguments."""
    process = base.get("process")
    return (process if isinstance(process, Message) else base).get("message-calls") in (True, b"true")


def _sources(base: Message, request: Message) -> list[Message]:
    if _assigned(request) and not _open(base):
        return [base]
    body = request.get("body")
    return [*([body] if isinstance(body, Message) else []), request, base]


def _function(base: Message, request: Message) -> str | None:
    for source in _sources(base, request):
        found = source.get("function")
        if found is not None:
            return as_text(found, "function")
    return None


def _parameters(base: Message, request: Message) -> list[Value]:
    for source in _sources(base, request):
        found = source.get("parameters")
        if isinstance(found, tuple):
            return list(found)
        if isinstance(found, Message):
            return [found[name] for name in number_keys(found)]
        if found is not None:
            raise ParameterError("'parameters' must be a list", name="parameters")
    return [base, request, Message()]


def _seconds(request: Message) -> int:
    """Return the time of the message that is worked on, in whole seconds since 1970, 0 if it has none."""
    for name in ("timestamp", "block-timestamp"):
        found = request.get(name)
        if isinstance(found, bytes) and found.isdigit() and len(found) < 18:
            found = int(found)
        if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 60:
            return found // 1000 if found > 100_000_000_000 else found
    return 0


def _seed(request: Message) -> int | None:
    found = request.get("hash-chain")
    return int.from_bytes(sha256(found)[:8], "big", signed=True) if isinstance(found, bytes) else None


def _allowed(base: Message) -> Collection[str] | None:
    found = base.get("device-sandbox")
    if found is None or found is False:
        return None
    members = found if isinstance(found, tuple) else tuple(found.values()) if isinstance(found, Message) else (found,)
    return [as_text(name, "device-sandbox") for name in members]


# -- what it is called on --------------------------------------------------------------------------


def _boot(base: Message, ctx: Context) -> Boot:
    modules = _modules(base, ctx)
    if sum(len(text) for _, text in modules) > MAX_CODE:
        raise ParameterError("the Lua modules are too long", name="module")
    return Boot(
        msgpack.packb([[name, text] for name, text in modules], use_bin_type=True),
        msgpack.packb(_sandbox(base.get("sandbox")), use_bin_type=True),
    )


def _modules(base: Message, ctx: Context) -> list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    if base.get("content-type") in LUA_TYPES and ("body" in base or "data" in base):
        found.append(_code(base, None))
    given = base.get("module")
    if given is not None:
        members = _members(given)
        found += [_module(member, ctx) for member in members]
    if not found:
        raise ParameterError("no-modules-found", name="module", hint="Set 'module' to the ID of a Lua file.")
    return found


def _members(given: Value) -> tuple[Value, ...]:
    if isinstance(given, tuple):
        return given
    if isinstance(given, Message) and given.get("content-type") not in LUA_TYPES:
        inner = tuple(given[name] for name in given)
        if inner and all(isinstance(item, Message) or (isinstance(item, bytes) and is_id(item)) for item in inner):
            return inner
    return (given,)


def _module(item: Value, ctx: Context) -> tuple[bytes, bytes]:
    if isinstance(item, Message):
        return _code(item, None)
    if not isinstance(item, bytes) or not is_id(item):
        raise ParameterError("'module' must be an ID, a message with Lua code, or a list of these", name="module")
    name = key_text(item)
    try:
        found = ctx.resolve(name)
    except NotFound:
        raise MessageNotFound(f"Lua module '{name}' not found.") from None
    if isinstance(found, bytes):
        return item, found
    if isinstance(found, Message):
        return _code(found, item)
    raise ParameterError(f"Lua module '{name}' is no text", name="module")


def _code(item: Message, ref: bytes | None) -> tuple[bytes, bytes]:
    """Return a module's name and text."""
    for name in ("body", "data"):
        text = item.get(name)
        if isinstance(text, bytes):
            given = item.get("name")
            if isinstance(given, bytes):
                return given[:200], text
            return ref or commitments.signed_id(item).encode(), text
    raise MessageNotFound(
        "a Lua module has no code" if ref is None else f"Lua module '{key_text(ref)}' has no code",
        hint="Put the text into 'body' or 'data'.",
    )


def _sandbox(given: Value | None) -> list[list[Any]]:
    """Return what is replaced in the globals before any code runs: paths and values."""
    if given is None:
        names: tuple[str, ...] = (*_UNSAFE, *_CODE)
    elif given is True or given == b"true":
        names = (*_UNSAFE, *_CODE, *_SAFE_HERE)
    elif given is False or given == b"false":
        names = ()
    elif isinstance(given, tuple):
        names = tuple(as_text(name, "sandbox") for name in given)
    elif isinstance(given, Message):
        exchange = Exchange()
        packed = exchange.pack(*given.values())
        values = msgpack.unpackb(packed, raw=True, strict_map_key=False)
        return [[name.encode(), item] for name, item in zip(given, values, strict=True)]
    else:
        raise ParameterError("'sandbox' must be true, false, a list of paths, or a map", name="sandbox")
    return [[name.encode(), b"sandboxed"] for name in names]


def _stored(base: Message) -> bytes | None:
    found = base.get("snapshot")
    entry = base.get("device-key")
    if isinstance(found, Message) and isinstance(entry, bytes) and isinstance(found.get(key_text(entry)), Message):
        found = found.get(key_text(entry))
    body = found.get("body") if isinstance(found, Message) else None
    return body if isinstance(body, bytes) else None


# -- what it came to -------------------------------------------------------------------------------


def _result(answer: Answer, exchange: Exchange, slot: str) -> Result:
    if answer.word != "ok" or answer.state is None:
        return _failure(answer, exchange)
    values = exchange.unpack(answer.packed)
    if len(values) == 1 and values[0] is not None:
        status, value = "ok", values[0]
    elif len(values) == 2 and isinstance(values[0], bytes) and values[1] is not None:
        status, value = key_text(values[0]), values[1]
    else:
        text = "a Lua function must return a value, or a status and a value"
        return Result("error", Message({"status": _FAILED, "body": text}))
    if isinstance(value, Message):
        value = value.with_private(**{slot: answer.state})
    return Result(status, value)


def _failure(answer: Answer, exchange: Exchange) -> Result:
    """Return what an error of Lua, or a limit that it passed, is as a result."""
    body, detail = exchange.unpack(answer.packed)
    if answer.word == "limit":
        return Result("error", Message({"status": _FAILED, "body": detail, "limit": body}))
    made: dict[str, Any] = {"status": _FAILED, "body": b"nil" if body is None else body}
    if isinstance(detail, tuple):
        made["trace"] = detail
    return Result("error", Message(made))
