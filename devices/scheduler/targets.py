"""Which process a message means, and who schedules it (devices/02-scheduler, 1 and 2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from hyperpy import Message, commitments
from hyperpy.encoding import number_keys
from hyperpy.errors import HyperpyError, KeyNotFound, MessageNotFound, ParameterError
from hyperpy.message import Value, as_text

MAX_REFERENCES: Final = 64
DEFAULT: Final = "default"
"""The name of the node's own key among its identities."""

_ID = re.compile(r"/?([A-Za-z0-9_-]{43})(?:[~/?&].*)?", re.DOTALL)
_HINT = re.compile(r"[?&]hint=(https?://[^&\s\"]{1,2040})")


class Reference(NamedTuple):
    """One scheduler that a process names: address or name, and where it says to look."""

    address: str
    hint: str


def is_process(message: Message) -> bool:
    """Say whether a message defines a process; the case of its type does not matter."""
    found = message.get("type")
    return isinstance(found, bytes) and found.lower() == b"process"


def target_of(base: Message, request: Message) -> str:
    """Return the ID of the process that is meant, with its ``?hint=`` if it came with one.

    Raises:
        ParameterError: the target is no ID.
    """
    asked = request.get("target")
    if isinstance(asked, bytes):
        return as_text(asked)
    if is_process(request):
        return commitments.signed_id(request)
    own = base.get("process")
    if isinstance(own, Message):
        return commitments.signed_id(own)
    if isinstance(own, bytes):
        return as_text(own)
    if is_process(base):
        return commitments.signed_id(base)
    return commitments.signed_id(request)


def split_target(text: str) -> tuple[str, str]:
    """Return the ID and the hint of a target such as ``ID~process@1.0`` or ``ID?hint=URL``.

    Raises:
        ParameterError: it begins with no ID.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise ParameterError(
            f"{text[:60]!a} is no process ID", name="target", hint="Give the process's ID: 43 characters."
        )
    hint = _HINT.search(text)
    return match[1], hint[1] if hint else ""


def references(process: Message, message: Message) -> list[Reference]:
    """Return the schedulers a process names, in order.

    Args:
        message: what is to be scheduled; its ``scheduler-location`` counts if the process has none.

    Raises:
        ParameterError: there are too many.
    """
    found = process.get("scheduler", process.get("scheduler-location", message.get("scheduler-location")))
    texts = list(_texts(found)) if found is not None else []
    if len(texts) > MAX_REFERENCES:
        raise ParameterError(f"the process names more than {MAX_REFERENCES} schedulers", name="scheduler")
    return [_reference(text) for text in texts if text.strip()]


def speakers(process: Message) -> frozenset[str]:
    """Return who answers for a process: the addresses it names as its schedulers and authorities."""
    named = (process.get(name) for name in ("scheduler", "scheduler-location", "authority"))
    return frozenset(_reference(text).address for one in named if one is not None for text in _texts(one))


def _texts(found: Value) -> Iterator[str]:
    if isinstance(found, Message):
        found = tuple(found[key] for key in number_keys(found))
    if isinstance(found, tuple):
        yield from (as_text(one, "scheduler") for one in found if isinstance(one, bytes))
    elif isinstance(found, bytes):
        yield from as_text(found).replace('"', "").split(",")


def _reference(text: str) -> Reference:
    hint = _HINT.search(text)
    return Reference(text.strip().partition("?")[0], hint[1] if hint else "")


def definition(
    process: str, found: Message | None, candidates: tuple[Message | None, ...], read: Callable[[str], Value]
) -> Message:
    """Return the definition of a process: the first candidate that has its ID and verifies, else the stored one.

    Args:
        found: an admitted message that is to be scheduled.

    Raises:
        MessageNotFound: this node does not know the process.
    """
    if found is not None and is_process(found) and commitments.signed_id(found) == process:
        return found
    for one in candidates:
        if one is not None and _is(one, process):
            return commitments.only_committed(one)  # what else a path put there is nobody's word
    try:
        stored = read(process)
    except MessageNotFound:
        stored = None
    if isinstance(stored, Message):
        return stored
    raise MessageNotFound(
        f"this node does not know the process {process}", hint="Send its definition first, or ask its scheduler."
    )


def _is(message: Message, process: str) -> bool:
    """Say whether a message really has an ID: copied signatures do not count."""
    if not commitments.committers(message) or commitments.signed_id(message) != process:
        return False
    try:
        commitments.check(message)
    except HyperpyError:
        return False
    return True


def no_scheduler() -> KeyNotFound:
    """Return the error for a process that names no scheduler."""
    return KeyNotFound(
        "No scheduler information provided.", hint="The process needs the key scheduler: an address, or several."
    )
