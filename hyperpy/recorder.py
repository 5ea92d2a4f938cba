"""Turns steps into trail records (design 3).

A sub-step's record names its parent's, and a parent's record is known only when the parent is
done. So sub-steps are left to the frame they ran in; the top-level step writes its own record, then theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperpy import commitments, hashpath
from hyperpy.cache import Batch, Cache
from hyperpy.encoding import key_text
from hyperpy.errors import (
    DeviceError,
    DeviceReentered,
    Forbidden,
    HyperpyError,
    KeyNotFound,
    MessageNotFound,
    ParameterError,
    SizeError,
    TooManyRequests,
    UpstreamError,
)
from hyperpy.message import NOT_FOUND, Atom, Message, Value, list_to_map
from hyperpy.trail import Oracle, Record, Trail

if TYPE_CHECKING:
    from hyperpy.context import Step


class Recorder:
    """Writes steps that are done, and the messages they name, into a batch."""

    def __init__(self, cache: Cache, trail: Trail) -> None:
        self._cache = cache
        self._trail = trail

    def write(self, step: Step, batch: Batch) -> bytes:
        """Record a top-level step and its sub-steps; return the record's ID (32 bytes)."""
        chain = step.frame.chain
        return self._write(step, batch, chain.origin, b"", chain.slot)

    def _write(
        self, step: Step, batch: Batch, origin: bytes, parent: bytes, slot: tuple[str, int] | None = None
    ) -> bytes:
        device, inner = step.found.device, step.inner
        self._cache.put(step.result, batch)
        record = Record(
            parent=parent,
            origin=origin,
            base=self._cache.reference(step.base, batch),
            request=self._cache.reference(step.request, batch),
            result=commitments.content_id(step.result),
            status=step.status,
            device=device.spec.name,
            key=step.found.name,
            implementation=device.implementation,
            hashpath_before=hashpath.start(step.base),
            hashpath_after=step.after,
            cached_from=step.cached_from,
            oracles=tuple(inner.oracles) if step.found.spec.deterministic else (),
        )
        own = self._trail.append(record, batch, slot=slot)
        if not parent:
            step.frame.chain.last = (own, record)
        for child in (*step.before, *inner.substeps):
            self._write(child, batch, origin, own)
        return own

    def oracle(self, step: Step, batch: Batch) -> Oracle:
        """Return what the enclosing step's record says of a sub-step that cannot be made again."""
        self._cache.put(step.result, batch)
        return Oracle(
            device=step.found.device.spec.name,
            key=step.found.name,
            request=self._cache.reference(step.request, batch),
            result=commitments.content_id(step.result),
            status=step.status,
        )


def wrap(item: Value) -> Message:
    """Return a result as the message that stands for it: literals under ``body`` (design 3)."""
    if isinstance(item, Message):
        return item
    if isinstance(item, tuple):
        return Message.make(list_to_map(item))
    return Message.make({"ao-result": b"body", "body": item})


def unwrap(item: Value) -> Value:
    """Return the literal that :func:`wrap` wrapped; other values as they are."""
    if isinstance(item, Message) and len(item) == 2 and item.get("ao-result") == b"body" and "body" in item:
        return item["body"]
    return item


def failure(error: HyperpyError) -> Message:
    """Return the message that stands for an error as the result of a step."""
    body: Value = NOT_FOUND if isinstance(error, KeyNotFound) else error.message.encode()
    return Message.make({"status": error.status, "body": body})


def status_word(error: HyperpyError) -> str:
    """Return the status word of a step that ended in an error."""
    return "not_found" if error.status == 404 else "error"


def recorded_error(status: str, kept: Message) -> HyperpyError | None:
    """Return the error that a recorded outcome stands for; None if it is a result. See :func:`failure`."""
    number, body = kept.raw("status"), kept.raw("body")
    if status not in ("not_found", "error") or len(kept) != 2 or type(number) is not int:
        return None
    if body == NOT_FOUND and isinstance(body, Atom):
        return KeyNotFound("the key was not found")
    kind = _KINDS.get(number)
    return kind(key_text(body)) if kind is not None and isinstance(body, bytes) else None


_KINDS: dict[int, type[HyperpyError]] = {
    400: ParameterError,
    403: Forbidden,
    404: MessageNotFound,
    413: SizeError,
    429: TooManyRequests,
    500: DeviceError,
    502: UpstreamError,
    508: DeviceReentered,
}
"""The commonest error of a status."""
