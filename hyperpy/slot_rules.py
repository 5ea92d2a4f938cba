"""How a process's state becomes the base of a slot, and what the slot gives the next state (devices/01-process).

A slot is one step: the state as the execution device, and the assignment as the request. The rules are here,
without a node around them, because three must agree: who computes a process, who makes its slots again, and
who judges whether a signed state follows from the one before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from hyperpy import hashpath
from hyperpy.errors import (
    Busy,
    CommitmentError,
    ConfigError,
    DeviceError,
    DeviceNotFound,
    DeviceReentered,
    DeviceTimeout,
    HyperpyError,
    KeyNotFound,
    MessageError,
    NotCached,
    ParameterError,
)
from hyperpy.message import Link, Message, Value, as_text
from hyperpy.sdk import Result

NAME: Final = b"process@1.0"
DEFAULTS: Final = {"scheduler": b"scheduler@1.0", "push": b"push@1.0", "execution": b"genesis-wasm@1.0"}
"""The devices of a process that names none, by role."""
LASTING: Final = (MessageError, KeyNotFound, DeviceError)
"""Failures that every node meets alike: they are a slot's result, unless they are :data:`PASSING`."""
PASSING: Final = (Busy, DeviceTimeout, NotCached, CommitmentError, DeviceNotFound, ConfigError)
"""Failures for lack of time, room or a message: the slot is tried again."""
_NOT_ENOUGH: Final = "(MemoryError)"

COMPUTE: Final = b"compute"
_SIGNED: Final = b"confidential@1.0"

_SIMPLE: Final = re.compile(rb"[A-Za-z0-9_.-]{1,200}")
_RESERVED: Final = frozenset(
    (
        # a device's life, and what shows or replaces the whole state
        b"init normalize snapshot restore terminate import functions info keys set set-path get remove path "
        b"id commit commitments committers committed verify index encode decode transform patches all device process "
        # what a guest of WebAssembly asks of wasi@1.0 and wasi-nn@1.0
        b"stdout path-open fd-read fd-write clock-time-get random-get load-by-name load-by-name-with-config "
        b"init-execution-context set-input get-output run-inference"
    ).split()
)


_GENERAL: Final = frozenset((b"lua@5.3a", b"stack@1.0", b"wasm-64@1.0", b"genesis-wasm@1.0"))
"""Devices that answer with the state's own keys before their own, or whose parts may."""


# -- roles ----------------------------------------------------------------------------------


def definition(base: Message) -> Message:
    """Return the definition of an ensured message.

    Raises:
        ParameterError: ``process`` is no message.
    """
    found = base.get("process")
    if not isinstance(found, Message):
        raise ParameterError("'process' must hold the process's definition", name="process")
    return found


def as_role(base: Message, role: str, *without: str) -> Message:
    """Return an ensured message as the device of a role: a plain merge, no step of its own.

    Args:
        without: keys to be left out.

    Raises:
        ParameterError: the role is unknown and the process names no device for it.
    """
    name = f"{role}-device"
    device = base.get(name) or definition(base).get(name) or DEFAULTS.get(role)
    if device is None:
        raise ParameterError(
            f"the process has no '{role[:60]}-device'", name="as", hint="Use execution, scheduler or push."
        )
    items = dict(base.raw_items())
    for one in without:
        items.pop(one, None)
    items["device"] = device
    items.setdefault("input-prefix", b"process")
    prefixes = base.raw(f"{role}-output-prefixes")
    if prefixes is not None:
        items["output-prefixes"] = prefixes
    return Message.make(items, {}, base.private)


def as_before(result: Value, role_base: Message, base: Message) -> Value:
    """Return a role's result under the process's own device again, if it still has the role's."""
    if not isinstance(result, Message):
        return result
    device, before = role_base.get("device"), base.get("device")
    if result.raw("device") is None or result.get("device") != device or before is None:
        return result
    return result.with_commitments({}) | {"device": before}


# -- the request ------------------------------------------------------------------------------


def only_read(assignment: Message, state: Message, made: Message) -> bool:
    """Say whether a slot's result is no new state, but the value of a state's key that the path named."""
    path = assignment.raw("path")
    if path == COMPUTE or not isinstance(path, bytes):
        return False
    found = state.get(path.decode("utf-8", "surrogateescape"))
    return isinstance(found, Message) and found == made


def ordered(assignment: Message, state: Message) -> Message:
    """Return an assignment as the request of its slot: ``compute`` where its path may not be called.

    Not called are keys that begin, end or store a state (init, snapshot, set and the like), what is no plain
    key, and, where the execution device is one for any code, the state's own keys. Another path drops the
    scheduler's signature: ``confidential@1.0``, which verifies it, gets such an assignment whole, as ``assignment``.

    Args:
        state: the state as the execution device gets it.
    """
    path = assignment.raw("path")
    if path == COMPUTE:
        return assignment
    if isinstance(path, bytes) and _SIMPLE.fullmatch(path):
        name = path.lower().replace(b"_", b"-")
        text = path.decode("ascii")
        own = state.get("device") in _GENERAL and (
            text in state or text.lower() in state or name.decode("ascii") in state
        )
        if name not in _RESERVED and not name.startswith((b"priv", b"-", b".")) and not own:
            return assignment
    if state.get("device") == _SIGNED:
        return Message({"path": COMPUTE, "assignment": assignment})
    return assignment | {"path": COMPUTE}


def asked(assignment: Message, state: Message) -> tuple[Message, Message]:
    """Return base and request of the slot that an assignment takes a process's state to."""
    if assignment.get("path") is None:
        assignment = assignment | {"path": COMPUTE}
    base = as_role(state, "execution", "results")
    return base, ordered(assignment, base)


# -- the first state, and the next -------------------------------------------------------------


def begun(given: Message, process: Value, init: Callable[[Message], Value]) -> Message:
    """Return the state before the first slot.

    Args:
        given: the process's definition.
        process: what stands for it in the state: a link to it, or itself.
        init: returns what the execution device's ``init`` makes of a base; the state itself where it has none.
    """
    base = Message.make({**given.raw_items(), "process": process})
    made = init(as_role(base, "execution"))
    return own(made, process, -1, {"initialized": b"true"})


def own(
    made: Value,
    process: Value,
    slot: int,
    more: Mapping[str, Value] | None = None,
    private: Mapping[str, object] | None = None,
) -> Message:
    """Return what the execution device made as a state of the process.

    Args:
        process: what stands for the definition, where the device left none: a link to it, or itself.
        more: keys to be added.
        private: entries of the private part.

    Raises:
        DeviceError: it made no message.
    """
    if not isinstance(made, Message):
        raise DeviceError("the execution device returned no message")
    items = {**made.raw_items(), "device": NAME, "at-slot": slot, **(more or {})}
    if not isinstance(items.get("process"), Link):
        items["process"] = process
    return Message.make(items, {}, {**made.private, **(private or {})})


def after(
    result: Result, state: Message, base: Message, assignment: Message, process: Value, slot: int, **private: object
) -> Message:
    """Return the state after a slot, from the step's outcome; an error leaves all but ``results`` as it was.

    Args:
        state: the one before.
        base, assignment: what :func:`asked` gave.
        process, private: see :func:`own`.
    """
    if result.status == "ok" and isinstance(result.value, Message) and not only_read(assignment, base, result.value):
        return own(result.value, process, slot, None, private)
    private["hashpath"] = hashpath.extend(base, assignment)
    return own(state, process, slot, {"results": Message({"error": error_text(result)})}, private)


def lasting(error: HyperpyError) -> Result:
    """Return a failure that every node meets alike as the slot's result; raise any other."""
    if not isinstance(error, LASTING) or isinstance(error, PASSING):
        raise error
    if isinstance(error, DeviceReentered) and error.message.startswith("waiting would never end"):
        raise Busy("another computation waits for this one", hint=error.hint) from error
    if _NOT_ENOUGH in error.message:
        raise error
    text = error.message
    if error.incident:
        text = text.replace(f"; incident {error.incident}", "")
    return Result("error", text.encode("utf-8", "replace"))


def error_text(result: Result) -> Value:
    """Return what a slot's ``results/error`` says."""
    item = result.value
    if result.status == "ok":
        return b"the execution device returned no message"
    if isinstance(item, Message):
        return bare(item)
    if isinstance(item, (tuple, bytes)):
        return item
    return as_text(item).encode() if not isinstance(item, Link) else item.id.encode()


def bare(item: Message) -> Message:
    return Message.make(dict(item.raw_items()), item.commitments)
