"""Which process a message means, proven by its ID (devices/01-process)."""

from __future__ import annotations

from collections.abc import Callable

from hyperpy import Message, commitments
from hyperpy.errors import HyperpyError
from hyperpy.message import Value
from hyperpy.slot_rules import definition


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
