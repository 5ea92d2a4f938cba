"""Which process a message means, and how it acts as one of its three devices (devices/01-process)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hyperpy import Message, commitments
from hyperpy.errors import HyperpyError, ParameterError
from hyperpy.message import Value

NAME: Final = b"process@1.0"
DEFAULTS: Final = {"scheduler": b"scheduler@1.0", "push": b"push@1.0", "execution": b"genesis-wasm@1.0"}
"""The devices of a process that names none, by role."""


def ensured(base: Message, read: Callable[[str], Value]) -> Message:
    """Return the message with the key ``process``: its definition, committed keys only.

    The result carries no commitments; the base's hashpath stays.

    Args:
        read: returns a stored message by its ID; asked where the base lost its signers.
    """
    if "process" in base:
        return base
    return base.with_commitments({}) | {"process": _committed(base, read)}


def _committed(base: Message, read: Callable[[str], Value]) -> Message:
    if not commitments.committers(base):
        try:
            found = read(commitments.content_id(base))
        except HyperpyError:
            found = base
        if isinstance(found, Message) and commitments.committers(found):
            base = found
    plain = commitments.only_committed(base) if base.commitments else base
    return Message.make(dict(plain.raw_items()), plain.commitments)


def definition(base: Message) -> Message:
    """Return the definition of an ensured message.

    Raises:
        ParameterError: ``process`` is no message.
    """
    found = base.get("process")
    if not isinstance(found, Message):
        raise ParameterError("'process' must hold the process's definition", name="process")
    return found


def process_id(base: Message, request: Message) -> str:
    """Return the process's ID: the definition's signed ID, or the unsigned one where asked for."""
    found = definition(base)
    if request.get("commitments") == b"none":
        return commitments.unsigned_id(found)
    return commitments.signed_id(found)


def proven(process: str, base: Message, read: Callable[[str], Value]) -> Message:
    """Return the definition that really has this ID: the stored one, else the given one if it verifies.

    Raises:
        InvalidSignature: the given definition does not verify.
    """
    return commitments.proven(process, definition(base), read)


def trusted(process: str, base: Message, read: Callable[[str], Value]) -> Message:
    """Return an ensured message of the proven definition alone: nothing that a caller put beside it counts.

    Raises:
        InvalidSignature: the given definition does not verify.
    """
    found = proven(process, base, read)
    return Message.make({**found.raw_items(), "process": found})


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
