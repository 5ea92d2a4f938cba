"""Making a receipt: from a plan of steps and the evidence they lie in (docs/receipts.md).

The same evidence and plan always give the same receipt, and the same bytes unless it is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from hyperpy import commitments, retention
from hyperpy.audit.source import Evidence, Plan
from hyperpy.codecs import canonical, whole
from hyperpy.commitments.combined import combined_id, raw_id
from hyperpy.config.schema import Trail as TrailSettings
from hyperpy.encoding import b64u, key_text, native
from hyperpy.errors import Forbidden, HyperpyError, MessageNotFound
from hyperpy.message import Link, Message, Value
from hyperpy.privacy import Gate
from hyperpy.receipt import Absent, Receipt, Schedule, Slot, Snapshot, decode, encode, name_of, ordered, shallow
from hyperpy.receipt.content import came_with, formed, genuine, signatures_in, walk, written
from hyperpy.receipt.evidence import MAX_ENTRIES
from hyperpy.store.base import Store
from hyperpy.store.schedule import backwards, read_assignment, slot_bytes
from hyperpy.trail import Record

MAX_BYTES: Final = 64 << 20
"""Bytes of messages that a receipt holds, unless it is told otherwise."""
_NEWEST: Final = (1 << 64) - 1

Sign = Callable[[Message], Message]


def build(
    evidence: Evidence,
    plan: Plan,
    *,
    sign: Sign | None = None,
    max_bytes: int = MAX_BYTES,
    part: str = "",
    readers: frozenset[str] | None = None,
) -> bytes:
    """Return a receipt's file.

    Args:
        sign: returns a message signed; None leaves the receipt unsigned.
        max_bytes: of messages; those that would not fit are named as absent, with their size.
        part: keys, joined by ``/``, from the result to the part that is to be proven: nothing else is held.
        readers: addresses that signed the request for it; what is not theirs to read is absent. None is everybody.

    Raises:
        Forbidden: what was asked for is for others to read.
        MessageNotFound: there is no step, or no such part.
    """
    if not plan.roots or not plan.steps:
        raise MessageNotFound(f"no recorded step is meant by {plan.ref[:200]}; looked for in {evidence.where}")
    maker = _Maker(evidence, plan, max_bytes, readers)
    receipt = ordered(maker.of_part(part.strip("/")) if part.strip("/") else maker.all())
    return encode(receipt if sign is None else receipt.signed(sign))


def keep(store: Store, plan: Plan, made: bytes, trail: TrailSettings, now: float) -> int:
    """Have what a receipt needs kept in the store for as long as ``[trail] receipt-days`` says.

    Returns:
        Until when, in seconds since 1970; 0 if it is not kept: no time is set, or ``receipt-records`` are in use.

    Raises:
        StoreError: it cannot be written now.
    """
    if not trail.receipt_days:
        return 0
    names = [one.name for one in plan.steps]
    if plan.schedules:  # a later snapshot takes the place of an older one
        names += [one.state for one in decode(made).snapshots]
    until = int(now + trail.receipt_days * retention.DAY_S)
    return until if retention.pin(store, names, until, trail.receipt_records) else 0


class _Maker:
    def __init__(self, evidence: Evidence, plan: Plan, max_bytes: int, readers: frozenset[str] | None) -> None:
        self._evidence, self._plan, self._left, self._readers = evidence, plan, max_bytes, readers
        self._gate = Gate(evidence.cache, evidence.trail)
        self._records = {one.name: one.record for one in plan.steps if self._gate.may(one.record, readers)}
        self._absent: dict[bytes, Absent] = {}
        self._held: dict[bytes, Value] = {}
        self._scheduled: set[bytes] = set()
        self._sent: set[bytes] = set()
        if not set(plan.roots) & set(self._records):
            raise Forbidden(
                "this node shows results only to the operator and to those who signed the request",
                hint="Sign the request and its path with the key that asked for the result.",
            )

    def all(self) -> Receipt:
        """Return the receipt of the whole plan."""
        slots = tuple(
            Slot(native(one.slot[0]), one.slot[1], one.name)
            for one in self._plan.steps
            if one.slot is not None and one.name in self._records
        )
        schedules, snapshots = self._schedules(slots)
        for schedule in schedules:
            for data in schedule.assignments:
                for item in walk(whole.decode(data)):
                    self._scheduled.add(name_of(item))
                    self._scheduled.add(commitments.content_key(item))
        origins = self._origins()
        records = list(self._records.values())
        named = [ref for one in records for ref in _inputs(one)]
        named += [b64u(one) for one in sorted({one.process for one in schedules} | {one.process for one in slots})]
        named += [b64u(one.state) for one in snapshots]
        self._gather(named)
        self._gather([one.result for one in records if one.result])
        self._name_records()
        return Receipt(
            roots=tuple(one for one in self._plan.roots if one in self._records),
            records=tuple(one.encode() for one in records),
            messages=tuple(self._held.values()),
            origins=origins,
            schedules=schedules,
            slots=slots,
            snapshots=snapshots,
            evidence=self._attestations(),
            absent=tuple(self._absent.values()),
        )

    def of_part(self, part: str) -> Receipt:
        """Return the receipt that proves one part of the result of the only root."""
        root, record = next((name, self._records[name]) for name in self._plan.roots if name in self._records)
        self._records = {root: record}
        at: Value | Link | None = Link(record.result)
        for key in part.split("/"):
            found = self._hold(at)
            at = _member(found, key)
            if at is None:
                raise MessageNotFound(f"the result has no part {part[:200]!a}: nothing is under {key[:60]!a}")
        if isinstance(at, Link):
            self._hold(at)
        if record.origin:
            self._absent[record.origin] = Absent(record.origin, "not asked")
        self._leave_out((*_inputs(record), *(ref for item in self._held.values() for ref in _links(item))))
        self._name_records()
        return Receipt(
            roots=(root,),
            records=(record.encode(),),
            messages=tuple(self._held.values()),
            part=part,
            evidence=self._attestations(),
            absent=tuple(self._absent.values()),
        )

    def _hold(self, at: Value | Link | None) -> Value:
        """Return what a link names, as an entry that the receipt holds."""
        if not isinstance(at, Link):
            raise MessageNotFound("a value that is no message has no parts")
        name = raw_id(at.id)
        entry = self._read(at.id, name) if name is not None else None
        if name is None or entry is None:
            raise MessageNotFound(f"the message {at.id} cannot be part of a receipt")
        self._held[name] = entry
        return entry

    def _leave_out(self, refs: Iterable[str]) -> None:
        """List as not asked for whatever is named and not held."""
        for ref in refs:
            name = raw_id(ref)
            if name is None or name in self._held or name in self._absent:
                continue
            entry = self._read(ref, name)
            if entry is not None:
                self._absent[name] = Absent(name, "not asked", len(canonical.encode(written(entry))))

    # -- schedules -------------------------------------------------------------------------

    def _schedules(self, slots: tuple[Slot, ...]) -> tuple[tuple[Schedule, ...], tuple[Snapshot, ...]]:
        """Return the assignments that the slots were computed from, and where computing began."""
        schedules, snapshots = [], []
        for process in sorted({one.process for one in slots}):
            numbers = [one.slot for one in slots if one.process == process]
            kept = self._snapshot(process, min(numbers))
            first = kept.slot + 1 if kept is not None else 0
            rows = []
            for slot in range(first, max(numbers) + 1):
                data = self._evidence.store.get("assignments", process + slot_bytes(slot))
                if data is None:
                    break
                rows.append(whole.encode(read_assignment(data)[1]))
            if rows:
                schedules.append(Schedule(process, tuple(rows)))
                snapshots += [kept] if kept is not None else []
        return tuple(schedules), tuple(snapshots)

    def _snapshot(self, process: bytes, first: int) -> Snapshot | None:
        """Return the newest snapshot before a slot; None if computing begins at slot 0."""
        if first <= 0:
            return None
        for key, row in self._evidence.store.scan("heads", process, process + backwards(first)):
            if len(key) != 40:
                continue
            name, path, mark, changed = (*key_text(row).split("\n"), "", "", "")[:4]
            state = raw_id(name)
            if state is not None and not changed:
                slot = _NEWEST - int.from_bytes(key[32:], "big")
                return Snapshot(process, slot, state, path, mark)
        return None

    # -- what is named ---------------------------------------------------------------------

    def _origins(self) -> tuple[bytes, ...]:
        found = {}
        for record in self._records.values():
            if record.origin and record.origin not in found and record.origin not in self._absent:
                data = self._evidence.trail.origin(record.origin)
                if data is None:
                    self._absent[record.origin] = Absent(record.origin, "gone")
                elif len(data) > self._left:
                    self._absent[record.origin] = Absent(record.origin, "large", len(data))
                else:
                    self._left -= len(data)
                    found[record.origin] = data
        for data in found.values():
            with suppress(HyperpyError):
                self._sent |= signatures_in(data)
        return tuple(found.values())

    def _attestations(self) -> tuple[bytes, ...]:
        """Return what replies with these steps' results were attested with, while there is room."""
        found: list[bytes] = []
        for name in self._records:
            data = self._evidence.store.get("attested", name)
            if data is not None and len(data) <= self._left and len(found) < MAX_ENTRIES:
                self._left -= len(data)
                found.append(data)
        return tuple(found)

    def _name_records(self) -> None:
        """List the records that are named but not part of the plan."""
        for record in self._records.values():
            for name in (record.parent, record.cached_from):
                if name and name not in self._records:
                    known = any(one.name == name for one in self._plan.steps)
                    stored = self._evidence.store.get("trail", name) is not None
                    reason = "private" if known else "not asked" if stored else "gone"
                    self._absent[name] = Absent(name, reason)

    def _gather(self, refs: Iterable[str]) -> None:
        """Hold what is named and what that names in turn, level by level, while there is room."""
        todo = dict.fromkeys(refs, b"")
        while todo:
            below: dict[str, bytes] = {}
            for ref, parent in todo.items():
                name = raw_id(ref)
                if name is None or name in self._held or name in self._absent or name in self._scheduled:
                    continue
                entry = self._read(ref, name, parent)
                if entry is None:
                    continue
                size = len(canonical.encode(written(entry)))
                if size > self._left:
                    self._absent[name] = Absent(name, "large", size)
                    continue
                self._left -= size
                self._held[name] = entry
                below.update(dict.fromkeys(_links(entry), commitments.content_key(entry)))
            todo = below
        contents = {commitments.content_key(item) for item in self._held.values() if _is_signed(item)}
        for name in contents & self._held.keys():
            del self._held[name]

    def _read(self, ref: str, name: bytes, parent: bytes = b"") -> Value | None:
        """Return an entry; None, listed as absent, if it cannot be one.

        Args:
            parent: ID of what the message that names it says.
        """
        try:
            item = self._evidence.cache.read(ref, exact=True)
            if self._readers is not None:
                self._gate.opened(ref, item, self._readers, self._evidence.cache.read)
            entry = shallow(item)
            if isinstance(item, Message) and isinstance(entry, Message) and entry.commitments:
                self._signed(item, entry, parent)
            if name_of(entry) == name:
                return entry
            reason = "unverifiable"
        except Forbidden:
            reason = "private"
        except MessageNotFound:
            claimed = parent and self._evidence.store.get("claims", parent + name) is not None
            reason = "unverifiable" if claimed else "gone"
        except HyperpyError:
            reason = "unverifiable"
        self._absent[name] = Absent(name, reason)
        return None

    def _signed(self, item: Message, entry: Message, parent: bytes) -> None:
        """Refuse a message whose signatures do not hold, unless they are those of a kept request that it is a part of.

        Raises:
            HyperpyError: they do not.
        """
        try:
            genuine(item)
        except HyperpyError:
            formed(entry)
            if parent or not came_with(entry, self._sent) or raw_id(combined_id(item) or "") != name_of(entry):
                raise


def _is_signed(item: Value) -> bool:
    return isinstance(item, Message) and bool(item.commitments)


def _inputs(record: Record) -> Iterator[str]:
    """Yield the IDs of what making a step again needs."""
    yield from (ref for ref in (record.base, record.request) if ref)
    for one in record.oracles:
        yield from (ref for ref in (one.request, one.result) if ref)


def _links(item: Value) -> list[str]:
    held = item.raw_items().values() if isinstance(item, Message) else item if isinstance(item, tuple) else ()
    return [one.id for one in held if isinstance(one, Link)]


def _member(item: Value, key: str) -> Value | None:
    if isinstance(item, tuple):
        return item[int(key) - 1] if key.isdigit() and len(key) < 10 and 0 < int(key) <= len(item) else None
    return item.raw(key) if isinstance(item, Message) else None
