"""From a reference to the steps it means, backwards to the roots.

A step needs: the step whose result is its base (``next``), its recorded sub-steps (``part``), the record its
result was taken from (``cached``), the step that made a base which came by its ID (``input``), and, where it
is a process's state, the slots that led to it (``slot``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hyperpy import commitments
from hyperpy.audit.source import Evidence, Plan, Planned
from hyperpy.encoding import b64u, is_id, key_text, native
from hyperpy.errors import CodecError, Corrupt, HyperpyError, MessageNotFound, ParameterError, SizeError
from hyperpy.message import Link, Message, Value
from hyperpy.trail import Record, hashpath_key
from hyperpy.verdicts import Edge, Finding

PROCESS: Final = "process@1.0"
STATES: Final = frozenset({"compute", "now"})
"""Keys of a process that answer with its state."""
_ALIKE: Final = 16
"""Records of one hashpath that are looked at."""
_PARTS: Final = 100_000
_NAMED: Final = 100
"""Slots without a record that are named."""
_NEAR: Final = 64
"""Slots before one that are looked up one by one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one audit looks at; more is refused with SizeError."""

    steps: int = 1_000_000
    slots: int = 1_000_000


def collect(
    evidence: Evidence, ref: str = "", *, slots: tuple[int, int] | None = None, limits: Limits | None = None
) -> Plan:
    """Return the plan of a reference.

    Args:
        ref: a message's ID, a hashpath, a record's ID or a process's ID; empty: the evidence's own roots.
        slots: first and last slot of a process, both included.

    Raises:
        MessageNotFound: nothing recorded is meant by it.
        ParameterError: it is no reference, or has no such slots.
        SizeError: it means more than the limits allow.
    """
    return _Collector(evidence, limits or Limits(), slots).collect(ref)


def state_of(evidence: Evidence, record: Record) -> tuple[str, int] | None:
    """Return the process and slot whose state a record of process@1.0 answered with, or None."""
    if record.device != PROCESS or record.key not in STATES or record.status != "ok":
        return None
    try:
        result = evidence.cache.read(record.result, exact=True)
    except HyperpyError:
        return None
    slot = result.raw("at-slot") if isinstance(result, Message) else None
    link = result.raw("process") if isinstance(result, Message) else None
    if type(slot) is not int or slot < 0:
        return None
    if isinstance(link, Link):
        return link.id, slot
    return (commitments.signed_id(link), slot) if isinstance(link, Message) else None


def snapshot_of(evidence: Evidence, record: Record) -> tuple[str, int] | None:
    """Return the process and slot whose live state a record took a snapshot of, or None."""
    if record.key != "snapshot" or record.origin or record.parent or record.status != "ok":
        return None
    try:
        base = evidence.cache.read(record.base, exact=True)
    except HyperpyError:
        return None
    slot = base.raw("at-slot") if isinstance(base, Message) else None
    link = base.raw("process") if isinstance(base, Message) else None
    return (link.id, slot) if isinstance(link, Link) and type(slot) is int and slot >= 0 else None


def slot_of(evidence: Evidence, name: bytes, record: Record) -> tuple[str, int] | None:
    """Return the process and slot that a record computed, if its request is an assignment, or None."""
    if record.origin or record.parent:
        return None
    try:
        asked = evidence.cache.read(record.request, exact=True)
        process, slot = (asked.get("process"), asked.get("slot")) if isinstance(asked, Message) else (None, None)
        if isinstance(slot, bytes) and slot.isdigit() and len(slot) < 19:
            slot = int(slot)
        if not isinstance(process, bytes) or type(slot) is not int or not 0 <= slot < 1 << 62:
            return None
        found = evidence.store.get("by-slot", native(key_text(process)) + slot.to_bytes(8, "big"))
    except HyperpyError:
        return None
    return (key_text(process), slot) if found == name else None


def linked(evidence: Evidence, record: Record, before: Record) -> bool:
    """Say whether a record's base is exactly the result of the step before."""
    return before.status == "ok" and before.result in (record.base, unsigned(evidence, record.base))


def unsigned(evidence: Evidence, ref: str) -> str:
    """Return the unsigned ID of what an ID names; empty if it cannot be read."""
    try:
        item: Value = evidence.cache.read(ref, exact=True)
        return commitments.content_id(item) if isinstance(item, (Message, tuple)) else ref
    except HyperpyError:
        return ""


class _Collector:
    def __init__(self, evidence: Evidence, limits: Limits, slots: tuple[int, int] | None) -> None:
        self.evidence, self.limits, self.range = evidence, limits, slots
        self.plan = Plan("")
        self.known: dict[bytes, Planned] = {}
        self.slots: dict[bytes, tuple[str, int]] = {}
        self.bad: dict[bytes, Finding] = {}
        self.lacking: set[tuple[str, int]] = set()
        self.recorded: dict[str, list[int]] = {}
        """Slots that are recorded, of processes with long gaps."""
        self.inside: set[bytes] = set()
        """Steps that were reached as parts of others."""

    def collect(self, ref: str) -> Plan:
        """See the module's function."""
        plan = self.plan
        plan.ref = ref or b64u(self.evidence.roots[0] if self.evidence.roots else b"")
        plan.roots = self._roots(ref) if ref else list(self.evidence.roots)
        if not plan.roots and not plan.missing:
            raise MessageNotFound(
                f"no recorded step is meant by {ref[:200]}; looked for in {self.evidence.where}",
                hint="Give a result's ID, a hashpath, a record's ID or a process's ID, and the store that holds it.",
            )
        self._walk()
        return plan

    # -- what a reference means ----------------------------------------------------------------

    def _roots(self, ref: str) -> list[bytes]:
        if "/" in ref:
            return self._by_hashpath(ref)
        if not is_id(ref):
            raise ParameterError(f"{ref[:100]!r} is no reference", name="ref", hint="Use an ID, or ID/KEY.")
        name = native(ref)
        if self.range is None and self.evidence.store.get("trail", name) is not None:
            return [name]
        if self.range is None:
            for one in dict.fromkeys((ref, unsigned(self.evidence, ref))):
                found = self.evidence.store.get("by-result", native(one)) if one else None
                if found is not None:
                    return [found]
        return self._by_slots(ref)

    def _by_hashpath(self, ref: str) -> list[bytes]:
        """Return the records that led to a hashpath: of equal steps, and of different ones all."""
        found: dict[tuple[str, ...], bytes] = {}
        for number, (_, name) in enumerate(self.evidence.store.scan("by-hashpath", hashpath_key(ref))):
            record = self._read(name)
            if record is not None and record.hashpath_after == ref:
                found.setdefault((record.base, record.request, record.result, record.status, record.device), name)
            if number >= _ALIKE * _ALIKE or len(found) >= _ALIKE:
                break
        return list(found.values())

    def _by_slots(self, process: str) -> list[bytes]:
        known = dict(self.evidence.trail.slots(process))
        if self.range is not None:
            first, last = self.range
            if not 0 <= first <= last:
                raise ParameterError(f"there are no slots {first} to {last}", name="slots", hint="Use FIRST-LAST.")
        elif known:
            first, last = 0, max(known)
        else:
            return []
        if last - first >= self.limits.slots:
            raise SizeError(f"{last - first + 1} slots are more than an audit looks at", hint="Name fewer slots.")
        if not any(first <= slot <= last for slot in known):
            return []
        return [name for slot in range(first, last + 1) if (name := self._slot(process, slot)) is not None]

    def _slot(self, process: str, slot: int) -> bytes | None:
        """Return the record's ID of a slot; note one that is not there."""
        self.plan.schedules.add(process)
        name = self.evidence.store.get("by-slot", native(process) + slot.to_bytes(8, "big"))
        if name is None:
            if (process, slot) not in self.lacking and len(self.lacking) < _NAMED:
                self.lacking.add((process, slot))
                text = f"slot {slot} of the process {process} has no record"
                self.plan.missing.append(Finding("record", text, where=(self.evidence.where,)))
        else:
            self.slots[name] = (process, slot)
        return name

    # -- backwards -------------------------------------------------------------------------------

    def _walk(self) -> None:
        """Place every step behind what it needs: depth first, without recursion."""
        doing: list[tuple[bytes, Iterator[tuple[bytes, str]]]] = []
        open_: set[bytes] = set()

        def enter(name: bytes) -> bool:
            record = self._read(name)
            if record is None:
                return False
            if len(self.known) >= self.limits.steps:
                raise SizeError("there are more steps than an audit looks at", hint="Name fewer slots, or a part.")
            self.known[name] = Planned(name, record, self.slots.get(name) or slot_of(self.evidence, name, record))
            open_.add(name)
            doing.append((name, iter(self._needs(self.known[name]))))
            return True

        for root in self.plan.roots:
            if root not in self.known and not enter(root):
                self._lost(root)
            while doing:
                name, needs = doing[-1]
                for source, kind in needs:
                    if source in open_:
                        continue  # the result equals what led to it
                    if kind == "part":
                        self.inside.add(source)
                    fresh = source not in self.known
                    if fresh and not enter(source):
                        self._lost(source, self.known[name])
                        continue
                    self.plan.edges.append(Edge(b64u(source), b64u(name), kind))
                    if fresh:
                        break
                else:
                    doing.pop()
                    open_.discard(name)
                    self.known[name].inside = name in self.inside
                    self.plan.steps.append(self.known[name])

    def _needs(self, step: Planned) -> list[tuple[bytes, str]]:
        record = step.record
        found = [(child, "part") for child in self._children(step)]
        if record.cached_from:
            found.append((record.cached_from, "cached"))
        if step.slot is not None:
            self.plan.schedules.add(step.slot[0])
            found += self._slots_before(*step.slot)
        elif snapshot_of(self.evidence, record) is None:
            found += self._before(step)
        state = state_of(self.evidence, record) or snapshot_of(self.evidence, record)
        if state is not None:
            found += self._slots_before(state[0], state[1] + 1)
        return found

    def _slots_before(self, process: str, slot: int) -> list[tuple[bytes, str]]:
        """Return the newest recorded slot before one, within the range; notice those that are not recorded."""
        if slot > self.limits.slots:
            raise SizeError(f"{slot} slots are more than an audit looks at", hint="Name a range of slots.")
        lowest = 0 if self.range is None else self.range[0]
        for earlier in range(slot - 1, max(lowest, slot - _NEAR) - 1, -1):
            name = self._slot(process, earlier)
            if name is not None:
                return [(name, "slot")]
        if slot - _NEAR <= lowest:
            return []
        if (
            process not in self.recorded
        ):  # a long gap: those that are recorded are looked through, not those that are not
            self.recorded[process] = [number for number, _ in self.evidence.trail.slots(process)]
        known = self.recorded[process]
        at = bisect_left(known, slot - _NEAR) - 1
        found = known[at] if at >= 0 and known[at] >= lowest else None
        for earlier in range(slot - _NEAR - 1, lowest - 1 if found is None else found, -1):
            if len(self.lacking) >= _NAMED:
                break
            self._slot(process, earlier)
        name = self._slot(process, found) if found is not None else None
        return [(name, "slot")] if name is not None else []

    def _children(self, step: Planned) -> list[bytes]:
        found: dict[bytes, None] = {}
        for _, name in self.evidence.store.scan("by-parent", step.name):
            found[name] = None
            if len(found) > _PARTS:
                raise SizeError("a step has more sub-steps than an audit looks at")
        for name in list(found):
            record = self._read(name)
            if record is not None and record.parent != step.name:
                step.gaps.append(Finding("parent", f"the sub-step {b64u(name)} names another step as its own"))
                del found[name]
        return list(found)

    def _before(self, step: Planned) -> list[tuple[bytes, str]]:
        """Return the step that made the base, by its hashpath, or by its ID where it came by that."""
        record = step.record
        if "/" not in record.hashpath_before:
            return [(name, "input") for name in self._made(record, step.name)]
        best: tuple[int, bytes] | None = None
        for number, (_, name) in enumerate(
            self.evidence.store.scan("by-hashpath", hashpath_key(record.hashpath_before))
        ):
            if number > _ALIKE * _ALIKE:
                break
            before = self._read(name)
            if before is None or before.hashpath_after != record.hashpath_before:
                continue
            own = not before.parent and before.origin == record.origin  # of the same request rather than an equal one
            rank = 2 * linked(self.evidence, record, before) + own
            if best is None or rank > best[0]:
                best = rank, name
            if rank == 3:
                break
        if best is not None:
            return [(best[1], "next")]
        if step.name not in self.inside:
            text = f"the step that led to {record.hashpath_before} is not recorded"
            step.unled = Finding("record", text, where=(self.evidence.where,))
            step.gaps.append(step.unled)
        return []

    def _made(self, record: Record, own: bytes) -> list[bytes]:
        """Return the step whose result a base is that was named by its ID."""
        found = self.evidence.store.get("by-result", native(record.base)) if is_id(record.base) else None
        if found is None or found == own:
            return []
        made = self._read(found)
        return [] if made is None or made.base == record.base or made.result != record.base else [found]

    # -- records -----------------------------------------------------------------------------------

    def _read(self, name: bytes) -> Record | None:
        """Return a record; None, noted, if it is gone or damaged."""
        known = self.known.get(name)
        if known is not None:
            return known.record
        if name in self.bad:
            return None
        try:
            record = self.evidence.trail.read(name)
        except (Corrupt, CodecError) as error:
            expected, got = getattr(error, "expected", ""), getattr(error, "got", "")
            self.bad[name] = Finding("record", f"{error.message}: {b64u(name)}", expected, got)
            return None
        if record is None:
            self.bad[name] = Finding("record", f"the record {b64u(name)} is gone", where=(self.evidence.where,))
        return record

    def _lost(self, name: bytes, step: Planned | None = None) -> None:
        gap = self.bad[name]
        (self.plan.missing if step is None else step.gaps).append(gap)


Progress = Callable[[int, int], None]
"""Called with how many steps are done and how many there are."""
