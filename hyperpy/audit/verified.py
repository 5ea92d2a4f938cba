"""What is to be said of a receipt once its steps were made again (docs/receipts.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hyperpy.audit.collect import collect
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence, Plan
from hyperpy.audit.turns import signed_with, written
from hyperpy.commitments.combined import raw_id
from hyperpy.message import Message
from hyperpy.receipt import Receipt, ReceiptError, decode
from hyperpy.receipt.checks import CLAIMED
from hyperpy.receipt.loading import load
from hyperpy.receipt.policy import rules_of
from hyperpy.verdicts import Finding, Report, Verdict, worst
from hyperpy.verify import UNREADABLE, bad_file, verify_receipt

REFUSED = frozenset({Verdict.BAD_FILE, Verdict.INVALID})
"""Verdicts after which nothing is made again."""


def replayed(
    data: bytes,
    options: Options | None = None,
    policy: Mapping[str, Any] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    also: Callable[[Report, Plan, Evidence], None] = lambda report, plan, evidence: None,
) -> Report:
    """Return the report on a receipt's file: checked as :func:`hyperpy.verify.verify` does, then made again.

    What does not hold is not made again. Nobody needs to have signed what was made again.

    Args:
        also: adds to the report what else is to be said of the steps.

    Raises:
        ConfigError: the policy names something unknown, or of another type.
    """
    rules_of(policy)
    try:
        receipt = decode(data)
    except ReceiptError as error:
        return bad_file(error.rule, error.message)
    checked = verify_receipt(receipt, policy)
    hold_claims(receipt, checked)
    if checked.verdict in REFUSED:
        return checked
    try:
        evidence = Evidence.of_store(load(receipt), "the receipt", roots=receipt.roots, attested_by=receipt.signers)
        made = _ranged(receipt, options or Options())
        plan = collect(evidence, slots=made.slots)
        report = replay(evidence, plan, made, progress=progress)
    except UNREADABLE as error:
        return bad_file("form", f"the receipt cannot be read: {error!s:.200}")
    report.ref, report.attested_by = checked.ref, checked.attested_by
    report.attestation, report.attestations = checked.attestation, checked.attestations
    join(report, checked, whole=not report.sample and not (options is not None and options.first))
    also(report, plan, evidence)
    return report


def hold_claims(receipt: Receipt, checked: Report) -> None:
    """Compare signatures that parts of a request bear with the request as it came; say which are not its own.

    Args:
        checked: what :func:`hyperpy.verify.verify_receipt` said of the receipt.
    """
    claims = [one for one in checked.findings if one.rule == CLAIMED]
    if not claims:
        return
    sent: set[tuple[str, bytes]] = set()
    for origin in receipt.origins:
        with suppress(*UNREADABLE):
            sent |= signed_with(origin)
    for one in claims:
        item = receipt.index.get(raw_id(one.expected) or b"")
        if not isinstance(item, Message) or not sent >= written(item):
            text = f"the message {one.expected} bears signatures that are not those of the request it is a part of"
            checked.findings.append(Finding("commitment", text))
            checked.base_verdict = Verdict.INVALID


def _ranged(receipt: Receipt, options: Options) -> Options:
    """Let computing begin where the receipt's snapshots are, if it has any."""
    if not receipt.snapshots or not receipt.slots or options.slots is not None:
        return options
    numbers = [one.slot for one in receipt.slots]
    return replace(options, slots=(min(numbers), max(numbers)))


def is_about(data: bytes, ref: str) -> bool:
    """Say whether a receipt that somebody else made is one of what was asked for.

    Args:
        ref: a hashpath, a result's, record's or process's ID.
    """
    try:
        receipt = decode(data)
        evidence = Evidence.of_store(load(receipt), "the receipt")
        return not set(receipt.roots).isdisjoint(collect(evidence, ref).roots)
    except UNREADABLE:
        return False


def join(report: Report, checked: Report, *, whole: bool) -> None:
    """Let what could not be checked without making it again count, too."""
    steps = {step.record: step for step in report.steps}
    left = 0
    for one in checked.steps:
        step = steps.get(one.record)
        if step is None:
            left += 1
        elif one.verdict is Verdict.MISSING:
            known = {found.text for found in step.findings}
            step.findings += tuple(found for found in one.findings if found.text not in known)
            step.verdict = worst([step.verdict, Verdict.MISSING])
    if left and whole:
        report.findings.append(Finding("steps", f"{left} steps of the receipt were not made again"))
        report.base_verdict = worst([report.base_verdict or Verdict.REPRODUCED, Verdict.MISSING])
