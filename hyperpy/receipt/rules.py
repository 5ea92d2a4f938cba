"""Rules about a receipt's steps and schedules; the numbers are those of :mod:`hyperpy.verify`."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from hyperpy import commitments, hashpath
from hyperpy.commitments.combined import raw_id
from hyperpy.encoding import b64u, key_bytes, sha256
from hyperpy.errors import CodecError, HyperpyError, MessageNotFound
from hyperpy.message import Link, Message, Value
from hyperpy.receipt.content import Receipt
from hyperpy.receipt.order import outcome
from hyperpy.schedule_rules import Mark, check_assignment, schedulers_of, slot_of
from hyperpy.trail import Oracle, Record
from hyperpy.verdicts import Finding

_MOST: Final = 1_000
_USUAL: Final = "sha-256-chain"


_ROLE: Final = frozenset({"device", "input-prefix", "output-prefixes"})
"""Keys that change where a message is taken as another device; the hashpath goes on from what it was."""


_ALIKE: Final = 16
"""Steps with one hashpath that are looked at closely; they are alike but for what cannot be made again."""


class Look:
    """Checks one record after the other against the rest of the receipt."""

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt
        self.steps = receipt.steps
        self.slot_of = {one.record: one for one in receipt.slots}
        self._by_slot = {(one.process, one.slot): self.steps.get(one.record) for one in receipt.slots}
        self._assignments = {
            (process, _slot(one)): one for process, each in receipt.assignments.items() for one in each
        }
        self._origins = {sha256(one): one for one in receipt.origins}
        self._absent = {one.id: one.reason for one in receipt.absent}
        self._by_after: dict[str, list[bytes]] = defaultdict(list)
        self._results: dict[str, set[str]] = defaultdict(set)
        self._parts: dict[bytes, set[Oracle]] = defaultdict(set)
        for name, record in self.steps.items():
            if len(self._by_after[record.hashpath_after]) < _ALIKE:
                self._by_after[record.hashpath_after].append(name)
            self._results[record.hashpath_after].add(record.result)
            if record.parent:
                self._parts[record.parent].add(outcome(record))

    def before(self, record: Record) -> list[bytes]:
        """Return the IDs of the first records whose step led to where this one begins."""
        return self._by_after.get(record.hashpath_before, []) if "/" in record.hashpath_before else []

    def step(self, name: bytes, record: Record) -> tuple[list[Finding], list[Finding]]:
        """Return what does not hold of a record, and what could not be checked."""
        wrong: list[Finding] = []
        missing: list[Finding] = []
        self._receipt.allow()
        base, request = self._read(record.base, missing), self._read(record.request, missing)
        if isinstance(base, Message) and isinstance(request, Message):
            self._check_after(record, base, request, wrong)
        if base is not None:
            self._check_before(name, record, base, wrong)
        self._check_links(record, wrong)
        if name in self.slot_of:
            self._check_slot(name, record, request, wrong, missing)
        return wrong, missing

    def _read(self, ref: str, missing: list[Finding]) -> Value | None:
        try:
            return self._receipt.read(ref)
        except MessageNotFound:
            name = raw_id(ref)
            reason = self._absent.get(name, "") if name is not None else ""
            if reason and reason != "not asked":
                missing.append(Finding("absent", f"the message {ref} is not in the receipt: {reason}"))
            return None

    def _check_after(self, record: Record, base: Message, request: Message, wrong: list[Finding]) -> None:  # 6
        try:
            made = hashpath.combine(record.hashpath_before, hashpath.reference(request), hashpath.algorithm_of(base))
        except HyperpyError as error:
            wrong.append(Finding("hashpath-after", f"there is no such hashpath: {error.message[:200]}"))
            return
        if made != record.hashpath_after:
            text = "the hashpath does not follow from base and request"
            wrong.append(Finding("hashpath-after", text, made, record.hashpath_after))

    def _check_before(self, name: bytes, record: Record, base: Value, wrong: list[Finding]) -> None:  # 7
        told = record.hashpath_before
        if "/" not in told:
            made = commitments.hashpath_id(base)
            if made != told:
                wrong.append(Finding("hashpath-before", "the hashpath is not that of the base", made, told))
            return
        known = [self.steps[one] for one in self.before(record) if one != name]
        if not known or name in self.slot_of or record.parent or any(map(self._is_slot, known)):
            return  # parts may begin at what a step in between made, processes' states are more than results
        if commitments.content_id(base) in self._results[told]:
            return
        if not any(self._recast(base, one.result, record.origin) for one in known):
            text = "the base is not the result of the step that the hashpath names"
            wrong.append(Finding("hashpath-before", text, known[0].result, record.base))

    def _is_slot(self, record: Record) -> bool:
        """Say whether a record's request is an assignment."""
        request = self._receipt.index.get(raw_id(record.request) or b"")
        kind = request.raw("type") if isinstance(request, Message) else None
        return isinstance(kind, bytes) and kind.lower() == b"assignment"

    def _recast(self, base: Value, result: str, origin: bytes) -> bool:
        """Say whether a base is a result as another device (``~device&key=value`` in a path, or a process's role)."""
        try:
            made = self._receipt.read(result)
        except MessageNotFound:
            return raw_id(result) in self._absent
        if not isinstance(made, Message) or not isinstance(base, Message):
            return False
        asked = self._origins.get(origin, b"")
        keys = (set(made.raw_items()) | set(base.raw_items())) - _ROLE
        return not any(_differ(made, base, key) for key in keys if key not in base or not _named(key, asked))

    def _check_links(self, record: Record, wrong: list[Finding]) -> None:
        parent = self.steps.get(record.parent)
        if parent is not None and parent.origin != record.origin:  # 8
            wrong.append(Finding("parent", "the step is part of one that belongs to another request"))
        if record.id in self.slot_of and (record.parent or record.origin):
            wrong.append(Finding("parent", "a slot is computed because it is scheduled, not as part of anything"))
        own = self.steps
        for one in record.oracles:  # 9
            if one not in self._parts[record.id] and not record.cached_from:
                wrong.append(
                    Finding("oracle", f"no part of the step gave the recorded answer of {one.device}/{one.key}")
                )
        source = own.get(record.cached_from)
        if source is not None:  # 10
            fields = ("result", "device", "key", "status", "implementation")
            for field in fields:
                there, here = getattr(source, field), getattr(record, field)
                if there != here:
                    text = f"the step it was taken from has another {field}"
                    wrong.append(Finding("cached-from", text, there, here))

    def vouching(self, record: Record, wrong: list[Finding]) -> tuple[str, ...]:  # 17
        """Return whom a record names as vouching for it, if that one signed the result."""
        try:
            result = self._receipt.read(record.result)
        except MessageNotFound:
            result = None
        signed = commitments.whole_signers(result) if isinstance(result, Message) else ()
        if record.attested_by in signed:
            return (record.attested_by,)
        text = "who is said to vouch for the step signed neither its result nor the receipt"
        wrong.append(Finding("attested-by", text, record.attested_by, ", ".join(signed) or "nobody"))
        return ()

    def _check_slot(
        self, name: bytes, record: Record, request: Value | None, wrong: list[Finding], missing: list[Finding]
    ) -> None:  # 12
        process, slot, _ = self.slot_of[name]
        assignment = self._assignments.get((process, slot))
        if assignment is None:
            missing.append(Finding("schedule", f"the assignment of slot {slot} is not in the receipt"))
        elif isinstance(request, Message):
            for key in assignment.raw_items():
                if key != "path" and _differ(assignment, request, key):
                    wrong.append(Finding("slot", f"the slot's request has another '{key}' than its assignment"))
        before = self._by_slot.get((process, slot - 1))
        if before is not None and before.hashpath_after != record.hashpath_before:
            text = "the slot does not begin where the one before it ended"
            wrong.append(Finding("slot", text, before.hashpath_after, record.hashpath_before))


def _named(key: str, origin: bytes) -> bool:
    """Say whether a request as it came gives a key a value: in its path, its query or as a header."""
    name = key_bytes(key)
    if len(name) > 255:
        return False
    forms = (b"&%b=", b"&%b+", b"?%b=", b"?%b+", b".%b=", b"\xc4" + bytes([len(name)]) + b"%b\xc4")
    return any(form % name in origin for form in forms)


def _differ(assignment: Message, request: Message, key: str) -> bool:
    """Say whether two messages differ in a key, whatever is held and whatever is linked."""
    left, right = assignment.raw(key), request.raw(key)
    if left == right and type(left) is type(right):
        return False
    if right is None or left is None:
        return True
    named = [one.id if isinstance(one, Link) else _id(one) for one in (left, right)]
    return named[0] != named[1] or not named[0]


def _id(item: Value) -> str:
    return commitments.signed_id(item) if isinstance(item, (Message, tuple)) else ""


def _slot(assignment: Message) -> int:
    try:
        return slot_of(assignment)
    except HyperpyError:
        return -1


# -- schedules -------------------------------------------------------------------------------


def schedules(receipt: Receipt) -> list[Finding]:  # 11
    """Refuse assignments that are no schedule."""
    found: list[Finding] = []
    for process, assignments in receipt.assignments.items():
        found += _schedule(receipt, process, assignments)
    return found[:_MOST]


def _schedule(receipt: Receipt, process: bytes, assignments: tuple[Message, ...]) -> list[Finding]:
    name = b64u(process)
    definition = receipt.index.get(process)
    if not isinstance(definition, Message):
        text = f"the definition of {name}, which names its schedulers, is not at hand"
        return [Finding("schedule", text, where=("the receipt",))]
    schedulers = schedulers_of(definition)
    algorithm = algorithm_of(definition)
    found: list[Finding] = []
    mark: Mark | None = Mark(name)
    due, stamp = _slot(assignments[0]), 0
    if due != 0:
        mark = None  # what came before is not here
    for one in assignments:
        receipt.allow()
        try:
            found += _assignment(name, one, schedulers, due)
            if mark is not None and not mark.follows(one):
                found.append(Finding("schedule", f"slot {due} of {name} does not follow the one before it"))
            before = one.get("base-hashpath")
            if mark is None and isinstance(before, bytes):
                mark = Mark(before.decode("latin-1"))
            if mark is not None:
                mark = mark.after(one, algorithm)
        except (HyperpyError, ValueError) as error:
            found.append(Finding("schedule", f"slot {due} of {name}: {error!s:.300}"))
            mark = None
        now = one.raw("timestamp")
        if type(now) is not int or now < stamp:
            found.append(Finding("schedule", f"slot {due} of {name} is earlier than the one before it"))
        else:
            stamp = now
        due += 1
    return found


def _assignment(process: str, one: Message, schedulers: tuple[str, ...], due: int) -> list[Finding]:
    """Return what is wrong with one assignment by itself."""
    if slot_of(one) != due:
        raise CodecError("a slot is missing, or stands twice")
    signers = schedulers or commitments.committers(one)
    check_assignment(process, one, signers)
    return []


def algorithm_of(definition: Value | None) -> str:
    """Return a process's hashpath algorithm; the usual one if it names none that is known, or is not at hand."""
    named = definition.get("hashpath-alg") if isinstance(definition, Message) else None
    text = named.decode("latin-1") if isinstance(named, bytes) else ""
    return text if text in hashpath.ALGORITHMS else _USUAL


def _goes_on(mark: Mark, assignment: Message) -> bool:
    """Say whether an assignment follows a mark by both chains, as far as it has them."""
    if not mark.chain or "hash-chain" not in assignment:
        return mark.follows(assignment)
    return mark.follows(assignment) and mark.follows(assignment.without("base-hashpath"))


def snapshots(receipt: Receipt) -> list[Finding]:  # 13
    """Refuse a snapshot that the schedule does not go on from."""
    found = []
    slots = {(process, _slot(each)): each for process, them in receipt.assignments.items() for each in them}
    for one in receipt.snapshots:
        name = b64u(one.process)
        due = slots.get((one.process, one.slot + 1))
        mark = Mark.read(one.mark)
        try:
            if due is None or mark is None or not _goes_on(mark, due):
                found.append(Finding("snapshot", f"slot {one.slot + 1} of {name} does not go on from the snapshot"))
            state = receipt.index.get(one.state)
            if isinstance(state, Message) and state.get("at-slot") != one.slot:
                found.append(Finding("snapshot", f"the snapshot at slot {one.slot} of {name} is of another slot"))
        except (HyperpyError, ValueError) as error:
            found.append(Finding("snapshot", f"the snapshot at slot {one.slot} of {name}: {error!s:.300}"))
    return found[:_MOST]
