"""Makes the steps of a plan again, and says of each what came of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import comb
from typing import TYPE_CHECKING, Any, NamedTuple

from hyperpy import commitments
from hyperpy.audit.collect import snapshot_of, state_of
from hyperpy.audit.processes import Story, Teller
from hyperpy.audit.scratch import DEADLINE_S, Scratch
from hyperpy.audit.source import Evidence, Plan, Planned
from hyperpy.audit.steps import Checker, Neighbours, report_of, verdict_of
from hyperpy.encoding import b64u
from hyperpy.errors import HyperpyError
from hyperpy.message import Message, Value
from hyperpy.trail import Record
from hyperpy.verdicts import Finding, Report, StepReport, Verdict
from hyperpy.verify import UNREADABLE

if TYPE_CHECKING:
    from pathlib import Path

    from hyperpy.capabilities import Attester
    from hyperpy.config import Config

Progress = Callable[[int, int], None]
"""Called with how many steps are done and how many are to be done."""


@dataclass(frozen=True, slots=True)
class Options:
    """What an audit is to do.

    Attributes:
        first: stop at the first fault.
        sample: how many steps to draw; 0 takes all. ``seed`` says which.
        slots: the range of slots that was asked for.
        seconds: what one step may take.
        loading: seconds to wait for a language model to be loaded, which counts against no step.
        devices: files or classes beside the bundled and installed devices.
        config: settings that devices may read.
        attester: what opens what was sealed to this node; see :class:`hyperpy.audit.scratch.Scratch`.
    """

    first: bool = False
    sample: int = 0
    seed: int = 0
    slots: tuple[int, int] | None = None
    seconds: float = DEADLINE_S
    loading: float = 0.0
    devices: Sequence[str | Path | type] = ()
    config: Config | None = None
    attester: Attester | None = None


@dataclass(slots=True)
class Unit:
    """Steps that are looked at together: a chain, of which one may need what the one before left, or a process."""

    steps: list[Planned] = field(default_factory=list)
    story: Story | None = None

    def __len__(self) -> int:
        return len(self.steps)


def replay(
    evidence: Evidence, plan: Plan, options: Options | None = None, *, progress: Progress | None = None
) -> Report:
    """Make the steps of a plan again in this process; see :mod:`hyperpy.audit.pool` for several."""
    options = options or Options()
    chosen = drawn(plan, options)
    run = Run(evidence, options, work_of(evidence, plan, options, chosen))
    report = started(evidence, plan, options, chosen)
    found: dict[str, StepReport] = {}
    total = len(chosen)
    for step in run:
        found[step.record] = step
        if progress is not None:
            progress(len(found), total)
        if options.first and step.verdict.exit_code == 1:
            break
    run.close()
    return finished(report, plan, found, run.extra)


def drawn(plan: Plan, options: Options) -> list[Planned]:
    """Return the steps to look at: all, or a sample, in the order of the plan."""
    if not 0 < options.sample < len(plan.steps):
        return list(plan.steps)
    chosen = set(random.Random(options.seed).sample(range(len(plan.steps)), options.sample))
    return [step for at, step in enumerate(plan.steps) if at in chosen]


def odds(total: int, size: int) -> dict[str, float]:
    """Return the probability that a sample holds a lie, if one step lies and if one in a hundred does."""
    lies = -(-total // 100)
    missed = comb(total - lies, size) / comb(total, size) if total else 0.0
    return {"finds-one-lie": size / total if total else 1.0, "finds-one-percent": 1.0 - missed}


def started(evidence: Evidence, plan: Plan, options: Options, chosen: Sequence[Planned]) -> Report:
    """Return a report without steps."""
    report = Report(plan.ref, edges=list(plan.edges), findings=list(plan.missing), total=len(plan.steps))
    report.attested_by = evidence.attested_by
    if len(chosen) < len(plan.steps):
        report.sample = {"size": len(chosen), "seed": options.seed, **odds(len(plan.steps), len(chosen))}
    return report


def finished(report: Report, plan: Plan, found: dict[str, StepReport], extra: Sequence[Finding]) -> Report:
    """Put the steps into a report, in the order of the plan."""
    report.steps = [found[name] for step in plan.steps if (name := b64u(step.name)) in found]
    report.findings += [one for one in extra if one not in report.findings]
    _count_inputs(plan, found)
    if report.findings:
        report.base_verdict = verdict_of(report.findings, Verdict.REPRODUCED)
    return report


def _count_inputs(plan: Plan, found: dict[str, StepReport]) -> None:
    """Count the attested inputs of each step: not what was itself made again, but also what is part of its request."""
    parts: dict[str, list[StepReport]] = {}
    for edge in plan.edges:
        if edge.kind == "part" and edge.source in found:
            parts.setdefault(edge.target, []).append(found[edge.source])
    for step in plan.steps:
        made = found.get(b64u(step.name))
        if made is None or made.verdict is not Verdict.REPRODUCED:
            continue
        asked = {(one.device, one.key, one.request, one.result) for one in step.record.oracles}
        for part in parts.get(made.record, ()):
            listed = (part.device, part.key, part.request, part.result) in asked
            if listed and part.verdict is Verdict.REPRODUCED:
                made.given = max(0, made.given - 1)
            elif not listed and part.verdict is Verdict.ATTESTED:
                made.given += 1


def units(evidence: Evidence, plan: Plan, options: Options, chosen: Sequence[Planned]) -> list[Unit]:
    """Return what is independent of each other, in the order of the plan."""
    if len(chosen) < len(plan.steps):
        return [_alone(evidence, step) for step in chosen]
    stories: dict[str, Unit] = {}
    made: list[Unit] = []
    before = {edge.target: edge.source for edge in plan.edges if edge.kind == "next"}
    by_name: dict[str, Unit] = {}
    for step in chosen:
        state = _at(evidence, step)
        if state is not None:
            process, slot = state
            unit = stories.get(process)
            if unit is None:
                unit = stories[process] = Unit(story=Story(process, first=options.slots[0] if options.slots else 0))
                made.append(unit)
            _told(unit, step, slot)
        else:
            unit = by_name.get(before.get(b64u(step.name), ""), Unit())
            if unit.story is not None or not unit.steps:
                unit = Unit()
                made.append(unit)
            unit.steps.append(step)
        by_name[b64u(step.name)] = unit
    return made


def _told(unit: Unit, step: Planned, slot: int) -> None:
    assert unit.story is not None
    unit.steps.append(step)
    if step.slot is not None:
        unit.story.slots[slot] = step
    else:
        unit.story.states.setdefault(slot, []).append(step)


def _at(evidence: Evidence, step: Planned) -> tuple[str, int] | None:
    """Return the process and slot that a step computed, answered with or took a snapshot of."""
    return step.slot or state_of(evidence, step.record) or snapshot_of(evidence, step.record)


def _alone(evidence: Evidence, step: Planned) -> Unit:
    """Return the unit of one step of a sample; a slot is computed from the newest state before it."""
    state = _at(evidence, step)
    if state is None:
        return Unit([step])
    unit = Unit(story=Story(state[0], first=state[1]))
    _told(unit, step, state[1])
    return unit


class Work(NamedTuple):
    """What one run does: units, the records around their steps, and what each step hangs together with."""

    units: Sequence[Unit]
    known: dict[bytes, Record]
    around: dict[str, tuple[Neighbours, bytes]]

    def part(self, numbers: Sequence[int]) -> Work:
        """Return the work of some units alone."""
        chosen = [self.units[at] for at in numbers]
        names = [step.name for unit in chosen for step in unit.steps]
        around = {text: self.around[text] for name in names if (text := b64u(name)) in self.around}
        known = {name: self.known[name] for name in names}
        return Work(chosen, known, around)


def work_of(evidence: Evidence, plan: Plan, options: Options, chosen: Sequence[Planned]) -> Work:
    """Return what there is to do."""
    known = {step.name: step.record for step in plan.steps}
    return Work(units(evidence, plan, options, chosen), known, _neighbours(plan, known))


@contextmanager
def checker_of(evidence: Evidence, options: Options) -> Iterator[Checker]:
    """Yield what checks steps as the options want it; what it found sound once counts for all that it checks."""
    with Scratch(
        evidence,
        devices=options.devices,
        config=options.config,
        seconds=options.seconds,
        loading=options.loading,
        attester=options.attester,
    ) as scratch:
        yield Checker(evidence, scratch)


class Run:
    """Goes through units, one step after another; may be left and taken up again.

    Args:
        checker: what checks steps, with its scratch node, which stays open; by default one of its own.

    Attributes:
        extra: findings that belong to no step; complete once all was gone through.
    """

    def __init__(self, evidence: Evidence, options: Options, work: Work, checker: Checker | None = None) -> None:
        self.evidence, self.options, self._checker = evidence, options, checker
        self.extra: list[Finding] = []
        self._units, self._known, self._around = work
        self._steps: Any = self._go()

    def __iter__(self) -> Iterator[StepReport]:
        yield from self._steps

    def close(self) -> None:
        """Let go of the devices."""
        self._steps.close()

    def _go(self) -> Iterator[StepReport]:
        with nullcontext(self._checker) if self._checker else checker_of(self.evidence, self.options) as checker:
            for unit in self._units:
                if unit.story is not None:
                    teller = Teller(self.evidence, checker.scratch, checker, unit.story)
                    yield from teller.tell()
                    self.extra += [one for one in teller.extra if one not in self.extra]
                else:
                    for step in unit.steps:
                        yield self._plain(step, checker)
                    checker.live.clear()
                    checker.signed.clear()

    def _plain(self, step: Planned, checker: Checker) -> StepReport:
        """Return the report of a step; evidence that nothing was expected to hold is no reason to stop."""
        try:
            return self._checked(step, checker)
        except UNREADABLE as error:
            found = [*step.gaps, Finding("message", f"the evidence is not of its form: {error}")]
            return report_of(step, Verdict.INVALID, found)

    def _checked(self, step: Planned, checker: Checker) -> StepReport:
        around, source = self._around.get(b64u(step.name), (Neighbours(), b""))
        found, given = checker.checked(step, around)
        best = Verdict.REPRODUCED
        again, wrong = True, list[Finding]()
        code = checker.code(step.record)
        if not code:
            again, wrong = checker.answers(step.record)
        if code:  # other code may well answer a sub-path otherwise
            found = [one for one in found if one.rule != "sub-path"]
        if again and not code and step.record.parent and not step.record.cached_from:
            text = "it is said to be a part of another step, but what can be made again with that one leaves no record"
            wrong.append(Finding("parent", text))
        found += code + wrong
        if not code and not wrong:
            if not again or (step.record.status == "cancelled" and not step.record.result):
                best = Verdict.ATTESTED  # a stream that its reader left has no result to compare
            elif not any(one.rule == "message" for one in found):
                differs, used = self._made(step, checker, source)
                found += [one for one in differs if one.rule not in {old.rule for old in found}]
                given += used
        vouching, forged = self._vouching(step.record, checker)
        found += forged
        made = report_of(step, verdict_of(found, best), found, given)
        if best is Verdict.ATTESTED:
            made.attested_by = vouching
        return made

    def _made(self, step: Planned, checker: Checker, source: bytes) -> tuple[list[Finding], int]:
        """Make a step again; where it fails, with what the step before left alive."""
        live = checker.live.get(source)
        if live is not None:
            return checker.again(step, live)
        found, used = checker.again(step)
        if not found or not source or step.record.parent:
            return found, used
        revived = self._revived(source, checker)
        return checker.again(step, revived) if revived is not None else (found, used)

    def _revived(self, name: bytes, checker: Checker) -> Value | None:
        """Return the result of a step with all that is alive in it, made again from the root of its chain."""
        chain: list[bytes] = []
        while name and name in self._known and name not in chain and name not in checker.live:
            chain.append(name)
            name = self._around.get(b64u(name), (None, b""))[1]
        base = checker.live.get(name)
        for one in reversed(chain):
            record = self._known[one]
            found, _ = checker.again(Planned(one, record), base)
            if found:
                return None
            base = checker.live.get(one)
        return base

    def _vouching(self, record: Record, checker: Checker) -> tuple[tuple[str, ...], list[Finding]]:
        """Return who vouches for a step, and what is wrong with whom its record names: it must have signed."""
        try:
            result = checker.scratch.cache.read(record.result)
        except HyperpyError:
            result = None
        signers = commitments.whole_signers(result) if isinstance(result, Message) else ()
        if not record.attested_by:
            return signers or self.evidence.attested_by, []
        if record.attested_by in (*signers, *self.evidence.attested_by):
            return (record.attested_by,), []
        text = "who is said to vouch for the step signed neither its result nor the receipt"
        return signers, [Finding("attested-by", text, record.attested_by, ", ".join(signers) or "nobody")]


def _neighbours(plan: Plan, known: dict[bytes, Record]) -> dict[str, tuple[Neighbours, bytes]]:
    """Return what each step hangs together with, and the ID of the record before it, by record ID (base64url)."""
    by_name = {b64u(name): (name, record) for name, record in known.items()}
    before: dict[str, str] = {}
    cached: dict[str, str] = {}
    parts: dict[str, list[Record]] = {}
    for edge in plan.edges:
        if edge.kind == "next":
            before[edge.target] = edge.source
        elif edge.kind == "cached":
            cached[edge.target] = edge.source
        elif edge.kind == "part":
            parts.setdefault(edge.target, []).append(by_name[edge.source][1])
    places: dict[str, tuple[int, str]] = {}
    for step in plan.steps:  # each after those that led to it
        own, led = b64u(step.name), before.get(b64u(step.name), "")
        record = step.record
        same = led in places and bool(record.origin) and by_name[led][1].origin == record.origin
        follows = same and not record.parent and not by_name[led][1].parent
        places[own] = (places[led][0] + 1, places[led][1]) if follows else (0, own)
    made = {}
    for target in {*before, *cached, *parts}:
        name, led_by = by_name.get(before.get(target, ""), (b"", None))
        source = by_name.get(cached.get(target, ""), (b"", None))[1]
        place, first = places[target]
        begun = parts.get(first, ())
        around = Neighbours(led_by, source, parts.get(target, ()), place, by_name[first][1], begun)
        made[target] = (around, name)
    return made
