"""Receipts: a computation in one file, with all that is needed to check it and to make it again (docs/receipts.md).

A receipt holds trail records as they were written, and the messages that they name. The file is the canonical
bytes (:mod:`hyperpy.codecs.canonical`) of one map, then their SHA-256:

    =========  =========================================================================================
    v          1
    roots      IDs of the records it was asked for, sorted
    records    the records' bytes, sorted by their IDs (SHA-256)
    messages   one layer each: the items, with links for what is nested; ``(items, commitments)`` if signed;
               ``("list", ...)`` for a list; sorted by ID, see :func:`name_of`
    origins    raw requests as cleaned at ingress, sorted by SHA-256
    schedules  ``(process, (assignment, ...))``: whole messages as canonical bytes, by slot; sorted by process
    slots      ``(process, slot, record)``: which record computed which slot; sorted
    snapshots  ``(process, slot, state, hashpath, mark)``: where computing began, if not at slot 0; sorted
    part       the keys from the root's result to the part that is proven, joined by ``/``; null: all of it
    evidence   attestation evidence, as it came
    absent     ``(ID, reason, size)``: what is named here but not held; the size in bytes or null; sorted by ID
    signature  null, or a signed message ``{type: receipt, digest}`` over SHA-256 of the map with null here
    =========  =========================================================================================

Record, process and message IDs are 32 bytes. No ID of what the file holds is stored in it: each is computed
from the content. There are no time stamps, so an unsigned receipt of the same steps has the same bytes.
"""

from hyperpy.receipt.content import (
    MAX_BYTES,
    REASONS,
    VERSION,
    Absent,
    Receipt,
    ReceiptError,
    Schedule,
    Slot,
    Snapshot,
    encode,
    name_of,
    ordered,
    shallow,
)
from hyperpy.receipt.reading import decode
from hyperpy.receipt.view import as_json

__all__ = [
    "MAX_BYTES",
    "REASONS",
    "VERSION",
    "Absent",
    "Receipt",
    "ReceiptError",
    "Schedule",
    "Slot",
    "Snapshot",
    "as_json",
    "decode",
    "encode",
    "name_of",
    "ordered",
    "shallow",
]
