"""A receipt for people and programs."""

from __future__ import annotations

from typing import Any

from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, sha256
from hyperpy.message import Link, Message
from hyperpy.receipt.content import VERSION, Receipt, name_of
from hyperpy.trail import Record


def as_json(receipt: Receipt) -> dict[str, Any]:
    """Return the receipt as JSON can hold it. IDs are computed; bytes that are no text are ``{"$b64": ...}``."""
    return {
        "v": VERSION,
        "digest": b64u(receipt.digest),
        "roots": [b64u(one) for one in receipt.roots],
        "records": {b64u(name): _shown_record(record) for name, record in receipt.steps.items()},
        "messages": {b64u(name_of(item)): _shown(item) for item in receipt.messages},
        "origins": {b64u(sha256(data)): _shown(data) for data in receipt.origins},
        "schedules": {b64u(process): [_shown(one) for one in found] for process, found in receipt.assignments.items()},
        "slots": [[b64u(one.process), one.slot, b64u(one.record)] for one in receipt.slots],
        "snapshots": [
            {"process": b64u(one.process), "slot": one.slot, "state": b64u(one.state), "hashpath": one.hashpath}
            for one in receipt.snapshots
        ],
        "part": receipt.part or None,
        "evidence": [_shown(data) for data in receipt.evidence],
        "absent": {b64u(one.id): {"reason": one.reason, "size": one.size} for one in receipt.absent},
        "signature": None if receipt.signature is None else _shown(receipt.signature),
    }


def _shown_record(record: Record) -> dict[str, Any]:
    fields = canonical.decode(record.encode()).raw_items()
    digests = ("parent", "origin", "cached-from")
    return {
        name: (b64u(item) if name in digests and item is not None else _shown(item)) for name, item in fields.items()
    }


def _shown(item: Any) -> Any:
    if isinstance(item, bytes):
        text = item.decode("utf-8", "replace")
        return text if text.encode() == item else {"$b64": b64u(item)}
    if isinstance(item, Message):
        made = {name: _shown(one) for name, one in item.raw_items().items()}
        if item.commitments:
            made["commitments"] = {name: _shown(one) for name, one in item.commitments.items()}
        return made
    if isinstance(item, tuple):
        return [_shown(one) for one in item]
    return {"$link": item.id} if isinstance(item, Link) else item
