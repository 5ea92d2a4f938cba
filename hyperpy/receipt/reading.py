"""A receipt's file as its content: strict, bounded, and nothing believed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final, cast

from hyperpy.codecs import canonical, whole
from hyperpy.encoding import b64u, key_text, native, sha256
from hyperpy.errors import HyperpyError
from hyperpy.message import Link, Message, Value
from hyperpy.receipt.content import (
    KEYS,
    MAX_BYTES,
    REASONS,
    VERSION,
    Absent,
    Receipt,
    ReceiptError,
    Schedule,
    Slot,
    Snapshot,
    joined,
    lasting,
    name_of,
)

_SLOTS: Final = 1 << 64
_SIZE: Final = 1 << 50


def decode(data: bytes) -> Receipt:
    """Return the receipt of a file. Nothing it says is checked here but its form.

    Raises:
        ReceiptError: it is none: another digest, other bytes than :func:`encode` gives, another version, entries of
            the wrong form, out of order or twice.
    """
    if len(data) > MAX_BYTES:
        raise ReceiptError("form", f"a receipt of more than {MAX_BYTES} bytes")
    if len(data) < 64 or sha256(data[:-32]) != data[-32:]:
        raise ReceiptError("digest", "the file does not end with the SHA-256 of what stands before it")
    try:
        made = parsed(data[:-32])
        _check_order(made)
        _check_ids(made)
    except ReceiptError:
        raise
    except (HyperpyError, TypeError, ValueError, AttributeError, KeyError, RecursionError, OverflowError) as error:
        raise ReceiptError("form", f"an entry has the wrong form: {error!s:.200}") from None
    return made


def parsed(body: bytes) -> Receipt:
    """Return the receipt whose map has these canonical bytes; order and digest are not looked at.

    Raises:
        ReceiptError, HyperpyError: they are not what is written for any receipt.
    """
    try:
        found = canonical.unpacked(body)
    except HyperpyError as error:
        raise ReceiptError("canonical", error.message) from None
    if type(found) is not Message or tuple(sorted(found.raw_items())) != KEYS:
        rule = "form" if canonical.encode(found) == body else "canonical"
        raise ReceiptError(rule, "not a receipt: other keys")
    fields = dict(found.raw_items())
    pieces = joined(fields)
    if b"".join(pieces) != body:
        raise ReceiptError("canonical", "the bytes are not in canonical form")
    version = fields["v"]
    if type(version) is not int or version != VERSION:
        raise ReceiptError("version", f"a receipt of version {version!r:.20}; this hyperpy reads {VERSION}")
    made = _receipt(fields)
    at = 2 * KEYS.index("signature") + 2
    made.__dict__["digest"] = sha256(b"".join([*pieces[:at], b"\xc0", *pieces[at + 1 :]]))
    return made


def _receipt(fields: dict[str, Any]) -> Receipt:
    signature = fields["signature"]
    signed = None if signature is None else whole.restored(signature)
    if signed is not None and type(signed) is not Message:
        raise ReceiptError("form", "the signature is no message")
    part = fields["part"]
    return Receipt(
        roots=tuple(map(_id, _items(fields["roots"]))),
        records=tuple(map(_bytes, _items(fields["records"]))),
        messages=tuple(map(_message, _items(fields["messages"]))),
        origins=tuple(map(_bytes, _items(fields["origins"]))),
        schedules=tuple(map(_schedule, _items(fields["schedules"]))),
        slots=tuple(Slot(_id(one[0]), _number(one[1], _SLOTS), _id(one[2])) for one in _rows(fields["slots"], 3)),
        snapshots=tuple(map(_snapshot, _rows(fields["snapshots"], 5))),
        part="" if part is None else _text(part),
        evidence=tuple(map(_bytes, _items(fields["evidence"]))),
        absent=tuple(map(_absent, _rows(fields["absent"], 3))),
        signature=signed,
    )


def _items(item: Any) -> tuple[Any, ...]:
    if type(item) is not tuple:
        raise ReceiptError("form", "a list is expected")
    return item


def _rows(item: Any, size: int) -> list[tuple[Any, ...]]:
    rows = [_items(one) for one in _items(item)]
    if any(len(one) != size for one in rows):
        raise ReceiptError("form", f"a row has not {size} members")
    return rows


def _bytes(item: Any) -> bytes:
    if type(item) is not bytes:
        raise ReceiptError("form", "bytes are expected")
    return item


def _id(item: Any) -> bytes:
    if len(_bytes(item)) != 32:
        raise ReceiptError("form", "an ID has not 32 bytes")
    return cast(bytes, item)


def _text(item: Any) -> str:
    if not _bytes(item):
        raise ReceiptError("form", "an empty text")
    return key_text(item)


def _number(item: Any, limit: int) -> int:
    if type(item) is not int or not 0 <= item < limit:
        raise ReceiptError("form", "a number is out of range")
    return item


def _message(item: Any) -> Value:
    """Return an entry of ``messages``: one layer, with nothing nested but commitments' fields."""
    found = item if type(item) is bytes else whole.restored(item)
    held = _held(found)
    if type(found) not in (Message, tuple, bytes) or any(type(one) in (Message, tuple) for one in held):
        raise ReceiptError("form", "an entry of messages is not one layer with links")
    if any(one is None for one in held):
        raise ReceiptError("form", "null is no message value")
    if type(found) is Message and found.commitments and not lasting(found):
        raise ReceiptError("form", "a message's only commitments are those that everybody can compute")
    return found


def _schedule(item: Any) -> Schedule:
    process, assignments = item
    found = tuple(map(_bytes, _items(assignments)))
    if not found:
        raise ReceiptError("form", "an empty schedule")
    return Schedule(_id(process), found)


def _snapshot(item: Any) -> Snapshot:
    process, slot, state, path, mark = item
    return Snapshot(_id(process), _number(slot, _SLOTS), _id(state), key_text(_bytes(path)), key_text(_bytes(mark)))


def _absent(item: Any) -> Absent:
    name, reason, size = item
    if _text(reason) not in REASONS:
        raise ReceiptError("form", "something is absent for an unknown reason")
    return Absent(_id(name), _text(reason), None if size is None else _number(size, _SIZE))


def _check_ids(receipt: Receipt) -> None:
    """Refuse records that write an ID in another way than it is computed: base64 has more than one."""
    for record in receipt.steps.values():
        names = [record.base, record.request, record.hashpath_before[:43], record.hashpath_after[:43]]
        names += [record.result] if record.result else []
        names += [name for one in record.oracles for name in (one.request, one.result) if name]
        if any(len(name) != 43 or b64u(native(name)) != name for name in names):
            raise ReceiptError("form", "a record names something by what is no ID, or not the one way to write it")


def _held(item: Value) -> Iterable[Value]:
    return item.raw_items().values() if type(item) is Message else item if type(item) is tuple else ()


def _check_order(receipt: Receipt) -> None:
    """Refuse lists that are not sorted, or name something twice."""
    if any(Link in map(type, _held(part)) for _, part in receipt.scheduled):
        raise ReceiptError("form", "an assignment in a receipt holds all of its parts")
    lists: dict[str, list[Any]] = {
        "roots": list(receipt.roots),
        "records": list(receipt.steps),
        "messages": [name_of(item) for item in receipt.messages],
        "origins": [sha256(data) for data in receipt.origins],
        "schedules": [one.process for one in receipt.schedules],
        "slots": [one[:2] for one in receipt.slots],
        "snapshots": [one[:2] for one in receipt.snapshots],
        "absent": [one.id for one in receipt.absent],
    }
    if len(receipt.steps) != len(receipt.records):
        raise ReceiptError("order", "records: one stands twice")
    for name, keys in lists.items():
        if any(before >= after for before, after in pairwise(keys)):
            raise ReceiptError("order", f"{name} are not sorted, or one stands twice")
