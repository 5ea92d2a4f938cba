"""What is to be said of a receipt once its steps were made again (docs/receipts.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hyperpy.audit.collect import collect
from hyperpy.audit.replay import Options, replay
from hyperpy.audit.source import Evidence
from hyperpy.errors import HyperpyError
from hyperpy.receipt import decode
from hyperpy.receipt.loading import load
from hyperpy.verdicts import Finding, Report, Verdict
from hyperpy.verify import bad_file, verify

REFUSED = frozenset({Verdict.BAD_FILE, Verdict.INVALID})
"""Verdicts after which nothing is made again."""


def replayed(
    data: bytes,
    options: Options | None = None,
    policy: Mapping[str, Any] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Return the report on a receipt's file: checked as :func:`hyperpy.verify.verify` does, then made again.

    What does not hold is not made again. Nobody needs to have signed what was made again.
    """
    checked = verify(data, policy)
    if checked.verdict in REFUSED:
        return checked
    try:
        receipt = decode(data)
        evidence = Evidence.of_store(load(receipt), "the receipt", roots=receipt.roots, attested_by=receipt.signers)
        report = replay(evidence, collect(evidence), options, progress=progress)
    except HyperpyError as error:
        return bad_file("form", f"the receipt cannot be read: {error.message}")
    report.ref, report.attested_by = checked.ref, checked.attested_by
    again = {step.record for step in report.steps}
    left = [step for step in checked.steps if step.record not in again]
    if left and not report.sample and not (options is not None and options.first):
        text = f"{len(left)} steps of the receipt were not made again"
        report.findings.append(Finding("steps", text))
        report.base_verdict = Verdict.MISSING
    return report
