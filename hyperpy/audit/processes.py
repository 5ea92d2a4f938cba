"""The slots of one process, computed again from its schedule and compared with their records.

The schedule is the input: every assignment must be signed by a scheduler that the process names, have the
next slot, continue the chain, and be no older than the one before. Rules beside those of a plain step:

    definition           the process's definition is at hand and has its ID
    schedule             the assignment is at hand
    schedule-signature   a scheduler of the process signed all of it
    schedule-slot        it has the slot that it stands at
    schedule-chain       it continues the schedule before it
    schedule-name        the schedule keeps it under its own IDs
    schedule-time        its time is not before the one before
    slot                 the record of a slot is that of this process and slot
    request              the slot's request is what was scheduled
    base                 the slot's base follows from the slot before
    snapshot             a kept snapshot is what resuming at its slot needs
    sealed               another machine alone can open what the slot takes: its result is attested, no more
    state                a reply of ``compute`` or ``now`` is the state of its slot
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from hyperpy import commitments
from hyperpy.audit.collect import PROCESS
from hyperpy.audit.scratch import Scratch
from hyperpy.audit.source import Evidence, Planned
from hyperpy.audit.steps import Checker, Neighbours, report_of, verdict_of
from hyperpy.codecs import canonical
from hyperpy.encoding import native
from hyperpy.errors import Busy, Corrupt, DeviceNotFound, DeviceTimeout, HyperpyError, MessageNotFound, SealedElsewhere
from hyperpy.message import Message, Value
from hyperpy.receipt.content import shallow
from hyperpy.schedule_rules import check_assignment, schedulers_of, slot_of
from hyperpy.slots import Slots
from hyperpy.store.schedule import misnamed
from hyperpy.trail import Record
from hyperpy.verdicts import Finding, StepReport, Verdict

_FIELDS = (
    ("device", "device"),
    ("key", "key"),
    ("hashpath_before", "hashpath-before"),
    ("base", "base"),
    ("request", "request"),
    ("status", "status"),
    ("result", "result"),
    ("hashpath_after", "hashpath-after"),
)


@dataclass(slots=True)
class Story:
    """What of one process is to be looked at.

    Attributes:
        slots: the steps that computed slots, by slot.
        states: the steps that answered with a state, by the slot of it.
        first: where reports begin; above 0, computing goes on from the newest snapshot below.
    """

    process: str
    slots: dict[int, Planned] = field(default_factory=dict)
    states: dict[int, list[Planned]] = field(default_factory=dict)
    first: int = 0

    @property
    def last(self) -> int:
        """The last slot that anything is said of."""
        return max((*self.slots, *self.states), default=-1)


class Teller:
    """Computes one process again and reports on its steps, in the order of its slots."""

    def __init__(self, evidence: Evidence, scratch: Scratch, checker: Checker, story: Story) -> None:
        self.evidence, self.scratch, self.checker, self.story = evidence, scratch, checker, story
        self.kept = Slots(evidence.store, evidence.cache, scratch.actors)
        self.line: Any = None
        self.schedulers: tuple[str, ...] = ()
        self.given = 0
        self.time = -1
        self.lost: Finding | None = None
        """Why computing came to an end before the last slot."""
        self.spoilt: int | None = None
        """The first slot whose record's result did not come out again."""
        self.extra: list[Finding] = []
        """What is wrong and belongs to no step that was asked about."""

    def tell(self) -> Iterator[StepReport]:
        """Yield a report for each step of the story."""
        self.lost = self._begin()
        start = self.line.at + 1 if self.line is not None else 0
        for slot in range(min(start, self.story.first), self.story.last + 1):
            if self.lost is None and self.line is not None and slot > self.line.at:
                found = self._safely(slot)
            else:
                found = [] if self.lost is None else [self.lost]
            step = self.story.slots.get(slot)
            if step is not None:
                yield self._report(step, found)
            elif found:
                self.extra += [one for one in found if one not in self.extra]
            for asked in self.story.states.get(slot, ()):
                try:
                    yield self._state(asked, slot)
                except (HyperpyError, ValueError, TypeError, KeyError) as error:
                    broken = Finding("message", f"the evidence is not of its form: {error}")
                    yield report_of(asked, Verdict.INVALID, [*asked.gaps, broken])

    # -- where to begin --------------------------------------------------------------------------

    def _begin(self) -> Finding | None:
        where = (self.evidence.where,)
        process = self.story.process
        definition = self._definition()
        if definition is None:
            return Finding("definition", f"the definition of the process {process} is not at hand", where=where)
        self.schedulers = schedulers_of(definition)
        kept = _Kept(self.kept if self.story.first > 0 else None)
        line = _audited()(process, definition, self.scratch.jobs, kept, _part("line").Rules(0, 0))
        try:
            line.resume(self.story.first - 1 if self.story.first > 0 else -1)
        except HyperpyError as error:
            if self.story.first > 0 and isinstance(error, Corrupt):
                return Finding("snapshot", f"the snapshot before slot {self.story.first} is damaged: {error.message}")
            return self._failed(error, 0)
        self.line = line
        self.given = 1 if line.at >= 0 else 0
        return None

    def _definition(self) -> Message | None:
        process = self.story.process
        given: Value = Message()
        first = self.kept.read(process, 0)
        if first is not None:
            given = first.get("body", given)
        try:
            return commitments.proven(process, given if isinstance(given, Message) else Message(), self._read)
        except HyperpyError:
            return None

    def _read(self, ref: str) -> Value:
        return self.scratch.cache.read(ref, exact=True)

    # -- one slot --------------------------------------------------------------------------------

    def _slot(self, slot: int) -> list[Finding]:
        """Compute a slot; return what is wrong with its schedule and with its record."""
        try:
            assignment = self._assignment(slot)
        except HyperpyError as error:
            self.lost = Finding("schedule", f"slot {slot} of the schedule cannot be read: {error.message}")
            return [self.lost]
        if assignment is None:
            text = f"slot {slot} of the schedule of {self.story.process} is not at hand"
            self.lost = Finding("schedule", text, where=(self.evidence.where,))
            return [self.lost]
        found = self._scheduled(slot, assignment)
        if any(one.rule in ("schedule-slot", "schedule-chain") for one in found):
            self.lost = Finding("schedule", f"the schedule does not lead on to slot {slot}")
            return found
        self.scratch.seen.last = None
        try:
            self.line.advance([assignment], slot, self.scratch.deadline(), first=False)
        except HyperpyError as error:
            self.lost = self._failed(error, slot)
            return [*found, self.lost]
        return found + self._compared(slot, self.scratch.seen.last) + self._snapshot(slot)

    def _safely(self, slot: int) -> list[Finding]:
        """Compute a slot; evidence that is not of its form ends the story, not the audit."""
        try:
            return self._slot(slot)
        except (HyperpyError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.lost = Finding("message", f"the evidence of slot {slot} is not of its form: {error}")
            return [self.lost]

    def _assignment(self, slot: int) -> Message | None:
        """Return an assignment from the schedule kept here, or from the slot's record, which has it as request."""
        found = self.kept.read(self.story.process, slot)
        if found is not None:
            return found
        step = self.story.slots.get(slot)
        record = step.record if step is not None else self.evidence.trail.by_slot(self.story.process, slot)
        if record is None:
            return None
        try:
            asked = self._read(record.request)
        except MessageNotFound:
            return None
        if not isinstance(asked, Message):
            return None
        return commitments.only_committed(asked) if asked.commitments else asked

    def _scheduled(self, slot: int, assignment: Message) -> list[Finding]:
        """Check an assignment as part of the schedule."""
        found = []
        try:
            check_assignment(self.story.process, assignment, self.schedulers)
        except HyperpyError as error:
            found.append(Finding("schedule-signature", f"slot {slot}: {error.message}"))
        names = misnamed(assignment)
        if names is not None:
            found.append(Finding("schedule-name", f"the assignment of slot {slot} is kept under another ID", *names))
        try:
            number = slot_of(assignment)
        except HyperpyError:
            number = -1
        if number != slot:
            text = "the assignment has another slot than the one it stands at"
            found.append(Finding("schedule-slot", text, str(slot), str(number)))
        elif not self.line.mark.follows(assignment):
            found.append(Finding("schedule-chain", f"slot {slot} does not continue the schedule before it"))
        stamp = assignment.get("timestamp")
        age: Value | None = int(stamp) if isinstance(stamp, bytes) and stamp.isdigit() and len(stamp) < 19 else stamp
        if isinstance(age, int) and not isinstance(age, bool):
            if age < self.time:
                text = f"slot {slot} is older than the one before"
                found.append(Finding("schedule-time", text, f">= {self.time}", str(age)))
            self.time = age
        return found

    def _compared(self, slot: int, got: Record | None) -> list[Finding]:
        """Compare the record of a slot with what came out."""
        step = self.story.slots.get(slot)
        claimed = step.record if step is not None else self.evidence.trail.by_slot(self.story.process, slot)
        if claimed is None or got is None:
            return []
        found = []
        if claimed.parent or claimed.origin:
            found.append(
                Finding("parent", f"the record of slot {slot} says that a request, or another step, asked for it")
            )
        for name, rule in _FIELDS:
            wanted, came = getattr(claimed, name), getattr(got, name)
            if wanted == came or (name == "result" and self.checker.same_failure(claimed, self.scratch.seen.outcome)):
                continue
            found.append(self._difference(slot, rule, claimed, wanted, came))
        if any(one.rule in ("result", "status") for one in found) and self.spoilt is None:
            self.spoilt = slot
        return found

    def _difference(self, slot: int, rule: str, claimed: Record, wanted: str, came: str) -> Finding:
        if rule == "request":
            other = self._slot_asked(claimed)
            if other is not None and other != slot:
                return Finding("slot", f"the record of slot {slot} is that of slot {other}", str(slot), str(other))
            return Finding("request", "the slot's request is not what was scheduled", came, wanted)
        if rule == "base":
            if self.spoilt is None and 0 <= self._resumed == slot - 1:
                return Finding("snapshot", f"slot {slot} does not go on from the snapshot before it", came, wanted)
            if self.spoilt is not None:
                return Finding("base", f"built on slot {self.spoilt}, which does not come out again", came, wanted)
            return Finding("base-link", "the base does not follow from the slot before", came, wanted)
        text = f"made again, the slot has another {rule}"
        return Finding(rule, text, wanted, came)

    @property
    def _resumed(self) -> int:
        return self.line.began if self.line is not None else -1

    def _slot_asked(self, record: Record) -> int | None:
        try:
            asked = self._read(record.request)
        except HyperpyError:
            return None
        slot = asked.get("slot") if isinstance(asked, Message) else None
        if isinstance(slot, bytes) and slot.isdigit() and len(slot) < 19:
            return int(slot)
        return slot if type(slot) is int else None

    def _snapshot(self, slot: int) -> list[Finding]:
        """Compare a snapshot that is kept for good with one taken now."""
        key = native(self.story.process) + ((1 << 64) - 1 - slot).to_bytes(8, "big")
        if self.evidence.store.get("heads", key) is None:
            return []
        try:
            state = self.kept.latest(self.story.process, slot, snapshot=True)
        except HyperpyError as error:
            return [Finding("snapshot", f"the snapshot at slot {slot} cannot be read: {error.message}")]
        if state is None or state[0] != slot:
            return []  # what it names is gone: it is of no use, and of no harm
        kept = state[1]
        try:
            wanted = self.line.resumable("snapshot" in kept)
        except HyperpyError as error:
            return [Finding("snapshot", f"no snapshot can be taken at slot {slot}: {error.message}")]
        pairs = (commitments.content_id(wanted), commitments.content_id(kept))
        if pairs[0] == pairs[1] and kept.hashpath == self.line.state.hashpath:
            return []
        return [Finding("snapshot", f"the snapshot at slot {slot} is not what computing leads to", *pairs)]

    def _failed(self, error: HyperpyError, slot: int) -> Finding:
        where = (self.evidence.where,)
        if isinstance(error, (DeviceTimeout, Busy)):
            return Finding("time", f"slot {slot} was given up: {error.message}")
        if isinstance(error, SealedElsewhere):
            return Finding("sealed", f"slot {slot} is confidential: who holds the key alone can make it again")
        if isinstance(error, DeviceNotFound):
            return Finding("implementation", error.message)
        if isinstance(error, Corrupt):
            return Finding("message", error.message, error.expected, error.got)
        return Finding("missing", f"slot {slot} could not be computed: {error.message}", where=where)

    # -- reports ---------------------------------------------------------------------------------

    def _report(self, step: Planned, found: Sequence[Finding]) -> StepReport:
        """Return the report of a slot's step."""
        own = list(step.gaps) if self._keeps(step.record) else self.checker.result_kept(step)
        code = self.checker.code(step.record)
        known = {one.rule for one in own}
        merged = [*own, *(one for one in found if one.rule not in known)]
        if code:
            merged = [one for one in merged if one.rule not in ("result", "status", "base")] + code
        made = report_of(step, verdict_of(merged, Verdict.REPRODUCED), merged, self.given)
        self.given = 0
        made.attested_by = self._vouching(made)
        return made

    def _vouching(self, made: StepReport) -> tuple[str, ...]:
        """Return who vouches for a step: a schedule is its scheduler's word, what came of sealed slots is not."""
        return self.evidence.attested_by if made.verdict is Verdict.ATTESTED else self.schedulers

    def _keeps(self, record: Record) -> bool:
        """Say whether a record's result came out again, and the store holds its very bytes."""
        last, made = self.scratch.seen.last, self.scratch.seen.outcome
        if last is None or last.result != record.result or made is None or made.commitments:
            return False
        kept = self.scratch.store.get("messages", native(record.result))
        return kept is not None and kept == canonical.encode(shallow(made))

    def _state(self, step: Planned, slot: int) -> StepReport:
        """Return the report of a step that answered with the state after a slot, or took a snapshot of it."""
        found, given = self.checker.checked(step, Neighbours())
        if step.record.device == PROCESS:
            found += self._meant(step.record, slot)
        if self.lost is not None or self.line is None or self.line.at != slot:
            found.append(self.lost or Finding("missing", f"slot {slot} was not computed", where=(self.evidence.where,)))
        else:
            got = self._asked(step)
            if got != step.record.result:
                rule = "result" if self.spoilt is None else "base"
                text = f"the state after slot {slot} is another one"
                found.append(Finding(rule, text, step.record.result, got))
        made = report_of(step, verdict_of(found, Verdict.REPRODUCED), found, given)
        made.attested_by = self._vouching(made)
        return made

    def _meant(self, record: Record, slot: int) -> list[Finding]:
        """Compare the process and slot that were asked for with those of the state in the reply."""
        rules = _part("definition")
        try:
            base, request = self._read(record.base), self._read(record.request)
            if not isinstance(base, Message) or not isinstance(request, Message):
                return []
            process = rules.process_id(rules.ensured(base, self._read), request)
        except HyperpyError:
            return []  # what is missing is said elsewhere
        if process != self.story.process:
            return [Finding("state", "the reply is the state of another process", process, self.story.process)]
        asked = request.get("compute", request.get("slot"))
        if isinstance(asked, bytes) and asked.isdigit() and len(asked) < 19:
            asked = int(asked)
        if type(asked) is int and asked != slot:
            return [Finding("state", "the reply is the state of another slot", str(asked), str(slot))]
        if isinstance(asked, bytes) and len(asked) == 43:
            body = (self.kept.read(process, slot) or Message()).get("body")
            ident = commitments.signed_id(body) if isinstance(body, Message) else ""
            if ident != asked.decode("latin-1"):
                text = "the reply is not the state after the message that was asked for"
                return [Finding("state", text, asked.decode("latin-1"), ident)]
        return []

    def _asked(self, step: Planned) -> str:
        """Return the ID of what a step had to answer about the live state."""
        if step.record.device == PROCESS:
            return commitments.content_id(_shown(self.line.state))
        try:
            return commitments.content_id(self.line.snapshot())
        except HyperpyError as error:
            return error.message


class _Kept:
    """What a line may ask of the node's states: where to begin, if it is not to begin at the first slot."""

    def __init__(self, slots: Slots | None) -> None:
        self._slots = slots

    def latest(self, process: str, limit: int | None = None, *, snapshot: bool = False) -> Any:
        """Return the newest state that computing may go on from."""
        return None if self._slots is None else self._slots.latest(process, limit, snapshot=snapshot)

    def put_state(self, *_: object, **__: object) -> None:
        """Keep nothing."""


@cache
def _audited() -> Any:
    """Return the class of lines that keep nothing, and take a snapshot when they are asked."""
    line: Any = _part("line")

    class Audited(line.Line):  # type: ignore[misc]
        began = -1

        def resume(self, limit: int | None, fits: object = None) -> None:
            super().resume(limit, fits)
            self.began = self.at

        def keep_snapshot(self, *, lasting: bool = False) -> None:
            """Take none."""

        def resumable(self, whole: bool) -> Message:
            """Return the state with what resuming needs, as it would be kept."""
            state: Message = self.state
            made = self.snapshot() if whole else None
            return state | {"snapshot": line.bare(made)} if isinstance(made, Message) else state

        def snapshot(self) -> Value:
            """Return what the execution device needs to go on from here."""
            made: Value = self._jobs.step(line.as_role(self.state, "execution"), line._SNAPSHOT).value
            return made

    return Audited


def _part(name: str) -> Any:
    """Return a module of the device process@1.0, which is loaded when it is used."""
    return import_module(f"hyperpy.devices.process.{name}")


def _shown(state: Message) -> Message:
    """Return a state as callers get it."""
    shown: Message = _part("device")._shown(state)
    return shown
