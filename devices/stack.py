"""stack@1.0: runs a list of devices over one message, one after another or side by side.

``device-stack`` names the devices: a list, or a map with keys 1, 2 and so on (in Map mode any keys).
Every device runs through the resolver with the same request; what it returns is the next one's base.
"""

from __future__ import annotations

from collections.abc import Collection

from hyperpy import device, handler
from hyperpy.errors import DeviceError, KeyNotFound, ParameterError
from hyperpy.message import UNSET, Atom, Message, Value, as_text
from hyperpy.sdk import Context, Result

_PREVIOUS = Atom("dev_message")
"""What ``previous-device`` always holds. The reference reads the device of the message after it has set
that to its message device; the value is part of the IDs of stack results (resolve vectors)."""
_NO_ENTRIES = frozenset({"path", "hashpath", "device", "commitments", "ao-types"})


@device("stack@1.0", excludes=("set", "keys"))
class Stack:
    """Answers every key with the devices of ``device-stack``.

    ``mode`` (request, then base) is Fold or Map. ``stack-keys`` limits what the stack answers; other
    keys go to message@1.0. ``input-prefixes`` and ``output-prefixes`` hold a prefix per entry.
    """

    def exports(self, base: Message) -> Collection[str] | None:
        """Return the white list of keys, or None for all."""
        names = base.get("stack-keys")
        if names is None:
            return None
        if not isinstance(names, (tuple, Message)):
            raise ParameterError("'stack-keys' must be a list of keys", name="stack-keys")
        members = names if isinstance(names, tuple) else tuple(names.values())
        return [as_text(name, "stack-keys") for name in members]

    @handler
    def run(self, key: str, base: Message, request: Message, ctx: Context) -> Value:
        """Resolve the request on each device of the stack; ``transform`` lets a caller pick one."""
        if key.lower() == "transform":
            return base | {"device": "stack-transformer@1.0"}
        mode = request.text("mode", base.text("mode", "Fold"))
        if mode == "Fold":
            return _fold(base, request, ctx)
        if mode == "Map":
            return _map(base, request, ctx)
        raise ParameterError(f"stack: 'mode' must be Fold or Map, not {mode[:60]!r}", name="mode")


@device("stack-transformer@1.0", excludes=("set", "keys"))
class StackTransformer:
    """Answers the name of a stack entry with the message, its device set to that entry's."""

    @handler
    def pick(self, key: str, base: Message, ctx: Context) -> Message:
        """Return the base as the named device of its stack."""
        found = _transform(base | {"device": "stack@1.0"}, key, ctx)
        if found is None:
            raise KeyNotFound(f"the stack has no entry '{key}'")
        return found


def _entry(base: Message, name: str, ctx: Context) -> Value | None:
    """Return the device of one entry, or None past the end of the stack."""
    stack = base.get("device-stack")
    if isinstance(stack, tuple):
        return stack[int(name) - 1] if name.isdecimal() and 0 < int(name[:9]) <= len(stack) else None
    if not isinstance(stack, Message):
        raise ParameterError(
            "a stack needs the key 'device-stack': a list of device names",
            name="device-stack",
            hint='For example device-stack+list="message@1.0", "multipass@1.0".',
        )
    if stack.get("device", b"message@1.0") == b"message@1.0":
        return stack.get(name)
    try:
        return ctx.resolve(stack, name)
    except KeyNotFound:
        return None


def _transform(base: Message, name: str, ctx: Context) -> Message | None:
    """Return the base as entry ``name`` sees it, or None past the end."""
    found = _entry(base, name, ctx)
    if found is None:
        return None
    changes: dict[str, Value] = {"device": found, "device-key": name.encode("utf-8", "surrogateescape")}
    changes["previous-device"] = _PREVIOUS
    for side in ("input", "output"):
        _remember(changes, f"previous-{side}-prefix", base.get(f"{side}-prefix"))
        _remember(changes, f"{side}-prefix", _prefix(base.get(f"{side}-prefixes"), name))
    return base | changes


def _remember(changes: dict[str, Value], name: str, item: Value | None) -> None:
    if item is not None:
        changes[name] = item


def _prefix(prefixes: Value | None, name: str) -> Value | None:
    if isinstance(prefixes, tuple):
        return prefixes[int(name) - 1] if name.isdecimal() and 0 < int(name[:9]) <= len(prefixes) else None
    return prefixes.get(name) if isinstance(prefixes, Message) else None


def _fold(base: Message, request: Message, ctx: Context) -> Value:
    """Hand the message from device to device; ``pass`` starts again, ``skip`` ends the stack."""
    state = base | {"pass": 1}
    number = 1
    while True:
        moved = _transform(state, str(number), ctx)
        if moved is None:
            return _clean(base, state)
        state = moved
        try:
            result = ctx.step(state, request)
        except KeyNotFound:
            number += 1
            continue
        found = result.value
        if result.status == "ok":
            if not isinstance(found, Message):
                return found
            state = found
            number += 1
        elif result.status == "skip" and isinstance(found, Message):
            return _clean(base, found)
        elif result.status == "pass" and isinstance(found, Message):
            state = found | {"pass": _number(found.get("pass")) + 1}
            number = 1
        elif type(found) is Atom and found == "not_found":
            number += 1
        else:
            raise _failed(result, state, str(number))


def _map(base: Message, request: Message, ctx: Context) -> Message:
    """Return what each entry answers, by entry; one that does not know the key is left out."""
    stack = base.get("device-stack")
    names = [str(n) for n in range(1, len(stack) + 1)] if isinstance(stack, tuple) else None
    if names is None:
        names = [name for name in stack if name not in _NO_ENTRIES] if isinstance(stack, Message) else ["1"]
    results: dict[str, Value] = {}
    for name in names:
        moved = _transform(base, name, ctx)
        if moved is None:
            continue
        try:
            result = ctx.step(moved, request)
        except KeyNotFound:
            continue
        if result.status == "ok":
            results[name] = result.value
    return Message.make(results)


def _clean(base: Message, state: Message) -> Message:
    """Return a fold's result with the stack's own device, prefixes and ``pass`` put back."""
    changes: dict[str, Value] = {
        "device": base.get("device", UNSET),
        "device-key": UNSET,
        "device-stack-previous": UNSET,
        "pass": base.get("pass", UNSET),
    }
    for side in ("input", "output"):
        _remember(changes, f"{side}-prefix", state.get(f"previous-{side}-prefix"))
    return state | changes


def _number(item: Value | None) -> int:
    return item if isinstance(item, int) else 1


def _failed(result: Result, state: Message, entry: str) -> DeviceError:
    detail = ""
    if isinstance(result.value, Message) and isinstance(result.value.get("body"), bytes):
        detail = ": " + result.value.text("body")[:300]
    return DeviceError(
        f"entry {entry} of the stack ('{state.text('device')}') ended with status '{result.status}'{detail}"
    )
