"""Turns steps into trail records (design 3).

A sub-step's record names its parent's, and a parent's record is known only when the parent is
done. So sub-steps leave drafts; the top-level step writes its own record, then theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hyperpy import commitments
from hyperpy.cache import Batch, Cache
from hyperpy.message import Message, Value, list_to_map
from hyperpy.trail import Oracle, Record, Trail


@dataclass(slots=True)
class Draft:
    """A step as it will be recorded, without its parent's ID."""

    base: Message
    request: Message
    result: Message
    status: str
    device: str
    key: str
    implementation: str
    before: str
    after: str
    cached_from: bytes = b""
    attested_by: str = ""
    oracles: list[Oracle] = field(default_factory=list)
    children: list[Draft] = field(default_factory=list)


class Recorder:
    """Writes drafts, and the messages they name, into a batch."""

    def __init__(self, cache: Cache, trail: Trail) -> None:
        self._cache = cache
        self._trail = trail

    def write(
        self, draft: Draft, batch: Batch, origin: bytes, parent: bytes = b"", *, slot: tuple[str, int] | None = None
    ) -> bytes:
        """Record one step and its sub-steps; return the record's ID (32 bytes).

        Args:
            slot: process ID and slot number, if the step computed a slot.
        """
        self._cache.put(draft.result, batch)
        record = Record(
            parent=parent,
            origin=origin,
            base=self._cache.reference(draft.base, batch),
            request=self._cache.reference(draft.request, batch),
            result=commitments.unsigned_id(draft.result),
            status=draft.status,
            device=draft.device,
            key=draft.key,
            implementation=draft.implementation,
            hashpath_before=draft.before,
            hashpath_after=draft.after,
            cached_from=draft.cached_from,
            oracles=tuple(draft.oracles),
            attested_by=draft.attested_by,
        )
        own = self._trail.append(record, batch, slot=slot)
        for child in draft.children:
            self.write(child, batch, origin, own)
        return own

    def oracle(self, draft: Draft, batch: Batch) -> Oracle:
        """Return what the enclosing step's record says of a sub-step that cannot be made again."""
        self._cache.put(draft.result, batch)
        return Oracle(
            device=draft.device,
            key=draft.key,
            request=self._cache.reference(draft.request, batch),
            result=commitments.unsigned_id(draft.result),
            status=draft.status,
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
