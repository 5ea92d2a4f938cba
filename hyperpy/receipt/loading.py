"""A receipt's content in a store, so that whatever reads a store reads a receipt."""

from __future__ import annotations

from hyperpy import commitments, hashpath
from hyperpy.cache import Batch, Cache
from hyperpy.codecs import canonical
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.message import Message
from hyperpy.receipt.content import Receipt
from hyperpy.receipt.order import computed
from hyperpy.receipt.rules import algorithm_of
from hyperpy.store.memory import MemoryStore
from hyperpy.store.schedule import backwards, slot_bytes, state_row, write_assignment
from hyperpy.trail import Trail


def load(receipt: Receipt) -> MemoryStore:
    """Return a store in memory with a receipt's content.

    Every ID is computed anew, and a message is found under a signed ID only if its signatures verify. What
    :mod:`hyperpy.verify` checks beyond that is not checked here: verify first.

    Raises:
        HyperpyError: an entry cannot be kept in a store.
    """
    store = MemoryStore()
    cache, batch = Cache(store), Batch()
    for _, item in receipt.items[: len(receipt.messages)]:
        if isinstance(item, Message):
            cache.reference(item, batch)
        else:
            cache.put(item, batch)
    for process, assignments in receipt.assignments.items():
        _put_schedule(receipt, process, assignments, cache, batch)
    for one in receipt.snapshots:
        row = state_row(b64u(one.state), one.hashpath, one.mark)
        batch.put("heads", one.process + backwards(one.slot), row)
        batch.put("states", one.process + backwards(one.slot), row)
    _put_trail(receipt, Trail(store), batch)
    batch.commit(store)
    return store


def _put_schedule(
    receipt: Receipt, process: bytes, assignments: tuple[Message, ...], cache: Cache, batch: Batch
) -> None:
    """Put a schedule's rows, its messages, and where it ends."""
    chain, path, slot, stamp = b"", b64u(process), -1, 0
    algorithm = algorithm_of(receipt.index.get(process))
    for one in assignments:
        cache.put(one, batch)
        slot, stamp = _whole(one, "slot"), _whole(one, "timestamp")
        told = one.get("hash-chain")
        chain = b64u_decode(told) if isinstance(told, bytes) else b""
        before = one.text("base-hashpath", path)
        path = hashpath.combine(before, commitments.signed_id(one), algorithm)
        batch.put("assignments", process + slot_bytes(slot), write_assignment(one, chain))
    batch.put("heads", process, canonical.encode((slot, chain, path, stamp)))


def _whole(item: Message, name: str) -> int:
    """Return a whole number of an assignment; 0 if it is none."""
    found = item.get(name)
    if isinstance(found, bytes) and found.isdigit() and len(found) < 19:
        found = int(found)
    return found if type(found) is int and 0 <= found < 1 << 63 else 0


def _put_trail(receipt: Receipt, trail: Trail, batch: Batch) -> None:
    """Put the records, each after the one it is a part of, and what finds them."""
    for data in receipt.origins:
        trail.put_origin(data, batch)
    slots = {one.record: (b64u(one.process), one.slot) for one in receipt.slots}
    for name in dict.fromkeys((*computed(receipt), *receipt.steps)):
        trail.append(receipt.steps[name], batch, slot=slots.get(name))
