"""A report for people: the verdict first, then what is wrong, what was wanted, and what to do next.

What is shown came from outside, so control characters are written as escapes and texts are cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from hyperpy.verdicts import Finding, Report, StepReport, Verdict

MARKS: Final = {
    Verdict.REPRODUCED: "ok",
    Verdict.ATTESTED: "at",
    Verdict.DIFFERS: "im",
    Verdict.MISSING: "??",
    Verdict.DIVERGED: "!=",
    Verdict.INVALID: "xx",
    Verdict.BAD_FILE: "xx",
}
"""Two characters that stand before a step: readable without colours."""

FEW: Final = 12
"""Up to so many steps are listed without being asked for."""
MOST_FAULTS: Final = 20
"""Faults that are shown in full; the rest is counted."""
WIDTH: Final = 200

_NEXT: Final = {
    Verdict.REPRODUCED: "",
    Verdict.ATTESTED: "To have it made again and not only vouched for: hyperpy replay REF, "
    "or hyperpy verify --replay FILE.",
    Verdict.DIFFERS: "Install the version of hyperpy and of the devices that recorded it, then ask again.",
    Verdict.MISSING: "Ask where it is kept: hyperpy replay URL for the node that computed it, or take a receipt "
    "there (hyperpy receipt REF) and give the file.",
    Verdict.DIVERGED: "Do not rely on the result. hyperpy challenge makes a proof of the first such step that "
    "anybody can check.",
    Verdict.INVALID: "Do not rely on it. Get the receipt or the reply again, from another source if you can.",
    Verdict.BAD_FILE: "The file is no receipt, or was cut off on the way: get it again, or ask about another REF.",
}


def render(report: Report, *, details: bool = False, strict: bool = False) -> str:
    """Return a report as text that ends with a line break.

    Args:
        details: every step with all its words; else many steps are counted and the faulty ones shown.
        strict: say that attested inputs do not pass.
    """
    lines = [verdict_line(report, strict=strict), *_summary(report)]
    for finding in report.findings[:MOST_FAULTS]:
        lines += ["", *_finding(finding)]
    lines += _steps(report, details)
    advice = next_step(report)
    if advice:
        lines += ["", "Next: " + advice]
    return "\n".join(lines) + "\n"


def verdict_line(report: Report, *, strict: bool = False) -> str:
    """Return the verdict in one line: what, at which step, why."""
    verdict, total = report.verdict, max(report.total, len(report.steps))
    if verdict is Verdict.REPRODUCED:
        given = f", given {_count(report.given, 'attested input')}" if report.given else ""
        refused = " (strict: attested inputs do not pass)" if strict and report.given else ""
        return f"reproduced{given}{refused}"
    if verdict is Verdict.ATTESTED:
        signers = _signers(report)
        by = ", ".join(map(shown, signers[:3])) + (f" and {len(signers) - 3} more" if len(signers) > 3 else "")
        return f"attested by {by}" if signers else "attested, by nobody who is named"
    at = next((number for number, step in enumerate(report.steps, 1) if step.verdict is verdict), None)
    if at is None:
        reason = next(iter(report.findings), None)
        return f"{verdict.value}: {_reason(reason)}" if reason else verdict.value
    step = report.steps[at - 1]
    reason = next(iter(step.findings), None)
    what = f": {_reason(reason)}" if reason else ""
    return f"{verdict.value} at step {at} of {total}: {title(step)}{what}"


def next_step(report: Report) -> str:
    """Return what the reader may do now; empty if there is nothing to do."""
    return _NEXT[report.verdict]


def title(step: StepReport) -> str:
    """Return a step's device and key, and the slot it computed."""
    name = f"{shown(step.device, 60) or 'no device'} {shown(step.key, 60)}".rstrip()
    if step.slot is None:
        return name
    return f"{name}, slot {step.slot[1]} of {shown(step.slot[0], 60)}"


def shown(text: object, width: int = WIDTH) -> str:
    """Return a text on one line: control and invisible characters escaped, cut to ``width`` characters."""
    raw = str(text)
    cut = raw if len(raw) <= width else raw[: width - 1] + "…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in cut)


def _reason(finding: Finding) -> str:
    return shown(finding.text or finding.rule)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _signers(report: Report) -> list[str]:
    found = dict.fromkeys(report.attested_by)
    for step in report.steps:
        found.update(dict.fromkeys(step.attested_by))
    return list(found)


def _summary(report: Report) -> list[str]:
    """Return what was asked, how many steps there are, and how each kind of verdict is spread."""
    total = max(report.total, len(report.steps))
    counted = Counter(step.verdict for step in report.steps)
    kinds = ", ".join(f"{counted[one]:,} {one.value}" for one in Verdict if counted[one])
    checked = (
        f"all {_count(total, 'step')}" if len(report.steps) == total else f"{len(report.steps):,} of {total:,} steps"
    )
    lines = [f"  of      {shown(report.ref)}", f"  checked {checked}" + (f": {kinds}" if kinds else "")]
    first = report.first_fault
    if first is not None and first.verdict is not report.verdict:
        at = next(number for number, step in enumerate(report.steps, 1) if step is first)
        lines.append(f"  first   step {at} {first.verdict.value}: {title(first)}")
    if report.attested_by:
        lines.append("  signed  " + ", ".join(shown(one, 60) for one in report.attested_by[:8]))
    if report.attestations:
        codes = ", ".join(dict.fromkeys(code for one in report.attestations for code in one["codes"]))
        lines.append(f"  attested  {report.attestation}" + (f" ({shown(codes, 200)})" if codes else ""))
    if report.sample:
        words = ", ".join(f"{shown(name, 40)} {shown(item, 60)}" for name, item in report.sample.items())
        lines.append(f"  sample  {words}")
    return lines


def _steps(report: Report, details: bool) -> list[str]:
    """Return the steps: all of few, else those that are not in order."""
    all_steps = list(enumerate(report.steps, 1))
    if details or len(all_steps) <= FEW:
        chosen = all_steps
    else:
        chosen = [(at, step) for at, step in all_steps if step.findings or step.verdict.exit_code == 1]
    left = 0 if details else max(len(chosen) - max(MOST_FAULTS, FEW), 0)
    lines = [""] if chosen else []
    for at, step in chosen[: len(chosen) - left]:
        lines += _step(at, step, details)
    if left:
        lines.append(f"  … and {_count(left, 'more step')} with findings; --details shows all")
    return lines


def _step(at: int, step: StepReport, details: bool) -> list[str]:
    words = [step.verdict.value]
    if step.given:
        words.append(f"given {_count(step.given, 'attested input')}")
    if step.attested_by:
        words.append("by " + ", ".join(shown(one, 50) for one in step.attested_by[:3]))
    lines = [f"{at:5,}  {MARKS[step.verdict]}  {title(step)}: {', '.join(words)}"]
    if details:
        fields = ("record", "parent", "base", "request", "result", "status", "before", "after")
        lines += [f"           {name:8} {shown(getattr(step, name))}" for name in fields if getattr(step, name)]
    for finding in step.findings:
        lines += [f"           {line}" for line in _finding(finding)]
    return lines


def _finding(finding: Finding) -> list[str]:
    lines = [f"{shown(finding.rule, 60)}: {shown(finding.text, 400)}"]
    if finding.expected or finding.got:
        lines += [
            f"  expected  {shown(finding.expected) or '(nothing)'}",
            f"  got       {shown(finding.got) or '(nothing)'}",
        ]
    return lines + _places(finding.where)


def _places(where: Iterable[str]) -> list[str]:
    return [f"  looked in {shown(place)}" for place in where]
