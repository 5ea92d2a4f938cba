"""genesis-wasm@1.0: runs aos processes here, as the stack they would name themselves.

It is what ``@permaweb/aoconnect`` names as the execution device of every process it spawns. The process's
``module`` is the ID of the message whose data is the image.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hyperpy import Context, Message, device, key
from hyperpy.encoding import key_bytes
from hyperpy.errors import DeviceError
from hyperpy.message import NULL, UNSET, Value

_NAME: Final = "genesis-wasm@1.0"
_WASM: Final = b"wasm-64@1.0"
_STACK: Final = (b"wasi@1.0", b"json-iface@1.0", _WASM, b"patch@1.0", b"multipass@1.0")
_BUILT_IN: Final[dict[str, Value]] = {
    "device": b"stack@1.0",
    "device-stack": _STACK,
    "passes": 2,
    "input-prefix": b"process",
    "output-prefix": b"wasm",
    "patch-from": b"/results/outbox",
    "snapshot-form": b"sparse",
    "stack-keys": (b"init", b"compute", b"snapshot", b"normalize"),
}
_TRACES: Final = ("previous-device", "previous-input-prefix", "previous-output-prefix", "device-key")
_DEPTH: Final = 32


@device(_NAME)
class GenesisWasm:
    """The stack wasi, json-iface, wasm-64, patch, multipass, with ``results/raw`` as the clients read it."""

    @key
    def init(self, base: Message, ctx: Context) -> Message:
        """Load the process's module.

        A module that this node does not hold is a 404 that names its ID.
        """
        return self._run(base, "init", Message({"path": "init"}), ctx)

    @key
    def compute(self, base: Message, request: Message, ctx: Context) -> Message:
        """Let the module handle the assignment's message, or, without one, the request itself (a dry run).

        ``results`` gets ``data``, ``outbox``, and ``raw``: the guest's ``Output``, ``Messages``, ``Spawns``,
        ``Assignments`` and ``Error``.
        """
        ready = base.with_private(**{"json-iface/keep-errors": True, "json-iface/response": None})
        made = self._run(ready, "compute", request | {"path": "compute"}, ctx)
        response: Any = made.private.get("json-iface/response")
        results = made.get("results")
        results = results if isinstance(results, Message) else Message()
        raw = _raw(response if isinstance(response, dict) else {})
        made = made | {"results": results | {"raw": raw}}
        return made.with_private(**{"json-iface/keep-errors": None, "json-iface/response": None})

    @key
    def snapshot(self, base: Message, ctx: Context) -> Value:
        """Return the guest's memory and globals."""
        return ctx.resolve(_as_wasm(base), Message({"path": "snapshot"}))

    @key
    def normalize(self, base: Message, ctx: Context) -> Message:
        """Take the guest's state from ``snapshot`` if there is none; remove ``snapshot``."""
        made = ctx.resolve(_as_wasm(base), Message({"path": "normalize"}))
        return _restored(_message(made), base)

    def _run(self, base: Message, name: str, request: Message, ctx: Context) -> Message:
        made = ctx.resolve(base | _BUILT_IN, request)
        return _restored(_message(made), base)


def _as_wasm(base: Message) -> Message:
    return base | {**_BUILT_IN, "device": _WASM}


def _message(made: Value) -> Message:
    if not isinstance(made, Message):
        raise DeviceError("genesis-wasm: the stack returned no message")
    return made


def _restored(made: Message, base: Message) -> Message:
    """Return the state with the keys that only the built-in stack needs as they were."""
    before: dict[str, Value] = {name: base.raw(name) or UNSET for name in (*_BUILT_IN, *_TRACES, "pass")}
    return made | before | {"device": base.raw("device") or _NAME.encode()}


def _raw(response: dict[str, Any]) -> Message:
    """Return the guest's answer as it stands, with every field that clients read."""
    made: dict[str, Value] = {"Output": _value(response.get("Output", {}))}
    for name in ("Messages", "Assignments", "Spawns"):
        found = response.get(name)
        made[name] = _value(found) if isinstance(found, list) else ()
    if response.get("Error") is not None:
        made["Error"] = _value(response["Error"])
    return Message.make(made)


def _value(item: Any, depth: int = 0) -> Value:
    """Return a piece of JSON as a message value; what is nested too deeply stays text."""
    if depth > _DEPTH:
        return key_bytes(json.dumps(item)[:1000])
    if isinstance(item, dict):
        fine = {name: part for name, part in item.items() if not name.startswith("priv") and name != "commitments"}
        return Message.make({name: _value(part, depth + 1) for name, part in fine.items()})
    if isinstance(item, list):
        return tuple(_value(part, depth + 1) for part in item)
    if isinstance(item, str):
        return key_bytes(item)
    return NULL if item is None else item
