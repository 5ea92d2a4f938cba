"""Checking a receipt with nothing but the receipt: no node, no store, no network (docs/receipts.md).

    from hyperpy.verify import verify
    report = verify(open("r.receipt", "rb").read())
    print(report.verdict.value, report.attested_by)

Nothing is made again here, so the best that is said is *attested*: everything fits together, and somebody signed
it. ``hyperpy verify FILE --replay`` makes the steps again. What is checked, in this order, and the names under
which a report says that it does not hold:

     1. ``digest canonical version form order``: the file is what its writer makes, to the last byte; else *bad file*
     2. ``roots``: what it was asked for is in it
     3. ``commitment``: every signature on a message verifies, and names its committer and itself rightly
     4. ``closed``: whatever is named is there, or is listed as absent; what is listed is named and not there
     5. ``minimal``: whatever is there is named
     6. ``hashpath-after``: base's hashpath and request give the step's, by the base's algorithm
     7. ``hashpath-before``: it is the base's own, or that of a step whose result is the base, but for its device
        and for keys that the request as it came gives
     8. ``parent``: a part belongs to a step of the same request, a slot to none
     9. ``oracle``: each answer a step was given is the outcome of a part of it
    10. ``cached-from``: what was taken from another step is that step's outcome
    11. ``schedule``: slots without a gap, each linked to the one before, signed by a scheduler of the process,
        with times that do not go back, and each holding exactly an assignment's fields
    12. ``slot``: the request of a slot's step is that slot's assignment, its hashpath follows the slot before
    13. ``snapshot``: computing goes on with the slot after it
    14. ``part``: its keys lead from the root's result to something that is there
    15. ``signature``: the receipt's own signatures verify and are over its digest; ``policy``: by whom they must be
    16. ``evidence``: attestations are well-formed, and about steps here and the receipt's signers. What a policy
        accepts of them is the report's ``attestation``: found from the evidence, whatever was said of it
    17. ``attested-by``: whoever a record names as vouching for it signed its result, or the receipt
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from hyperpy.encoding import b64u
from hyperpy.errors import HyperpyError
from hyperpy.receipt import Receipt, ReceiptError, checks, decode, evidence, rules
from hyperpy.receipt.order import computed
from hyperpy.receipt.policy import Rules, rules_of
from hyperpy.trail import Record
from hyperpy.verdicts import Edge, Finding, Report, StepReport, Verdict

__all__ = ["verify", "verify_receipt"]

UNREADABLE = (
    *(HyperpyError, ValueError, TypeError, LookupError, AttributeError),
    *(RuntimeError, ArithmeticError, AssertionError),
)
"""What a receipt may raise that nobody made as one."""


def verify(
    data: bytes,
    policy: Mapping[str, Any] | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
    now: datetime | None = None,
) -> Report:
    """Return what is to be said of a receipt's file. Never raises for what is in the file.

    Args:
        policy: what is accepted, as a policy file has it (:class:`hyperpy.receipt.policy.Rules`): ``signers``, ``tee``,
            ``attested``, ``insecure-software``; None accepts anybody's signature.
        now: UTC, the clock by which evidence is appraised; None is this moment.
        progress: called with how many steps are done, of how many.

    Raises:
        ConfigError: the policy names something unknown, or of another type.
    """
    rules_of(policy)
    try:
        receipt = decode(data)  # 1
    except ReceiptError as error:
        return bad_file(error.rule, error.message)
    return verify_receipt(receipt, policy, progress=progress, now=now)


def bad_file(rule: str, text: str) -> Report:
    """Return the report on what is no receipt."""
    return Report("", findings=[Finding(rule, text)], base_verdict=Verdict.BAD_FILE)


def verify_receipt(
    receipt: Receipt,
    policy: Mapping[str, Any] | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
    now: datetime | None = None,
) -> Report:
    """Return what is to be said of a receipt that was read; see :func:`verify`."""
    accepted = rules_of(policy)
    try:
        return _verified(receipt, accepted, progress, now or datetime.now(UTC))
    except UNREADABLE as error:
        return bad_file("form", f"the receipt cannot be read: {error!s:.200}")


def _verified(
    receipt: Receipt,
    accepted: Rules,
    progress: Callable[[int, int], object] | None,
    now: datetime,
) -> Report:
    report = Report(b64u(receipt.digest), total=len(receipt.steps))
    found = report.findings
    order = computed(receipt)
    found += checks.roots(receipt)  # 2
    found += checks.commitments_hold(receipt)  # 3
    found += checks.closed_and_minimal(receipt, order)  # 4, 5
    found += rules.schedules(receipt)  # 11
    found += rules.snapshots(receipt)  # 13
    found += checks.part(receipt)  # 14
    signed = checks.signature(receipt, accepted.signers)  # 15
    found += signed
    looked = evidence.look(receipt, accepted, now)  # 16
    found += looked.findings
    report.attestation, report.attestations = looked.status, looked.rows
    report.attested_by = receipt.signers
    look = rules.Look(receipt)
    slots = {one.record: (b64u(one.process), one.slot) for one in receipt.slots}
    for count, name in enumerate(order, 1):
        record = receipt.steps[name]
        report.steps.append(_step(receipt, look, name, record, slots.get(name)))
        report.edges += _edges(look, name, record)
        if progress is not None:
            progress(count, len(order))
    report.base_verdict = _base_verdict(receipt, found)
    return report


def _step(receipt: Receipt, look: rules.Look, name: bytes, record: Record, slot: tuple[str, int] | None) -> StepReport:
    """Return what is to be said of one record."""
    wrong, missing = look.step(name, record)  # 6 to 10, 12
    signers = receipt.signers
    if record.attested_by and record.attested_by not in signers:
        signers += look.vouching(record, wrong)  # 17
    return StepReport(
        record=b64u(name),
        device=record.device,
        key=record.key,
        status=record.status,
        base=record.base,
        request=record.request,
        result=record.result,
        before=record.hashpath_before,
        after=record.hashpath_after,
        verdict=Verdict.INVALID if wrong else Verdict.MISSING if missing else Verdict.ATTESTED,
        parent=b64u(record.parent) if record.parent else "",
        slot=slot,
        attested_by=signers,
        findings=(*wrong, *missing),
    )


def _edges(look: rules.Look, name: bytes, record: Record) -> list[Edge]:
    """Return how a record hangs together with others of the receipt."""
    own, made = b64u(name), []
    if record.parent in look.steps:
        made.append(Edge(own, b64u(record.parent), "part"))
    if record.cached_from in look.steps:
        made.append(Edge(b64u(record.cached_from), own, "cached"))
    kind = "slot" if name in look.slot_of else "next"
    made += [Edge(b64u(one), own, kind) for one in look.before(record) if one != name][:1]
    return made


def _base_verdict(receipt: Receipt, found: list[Finding]) -> Verdict:
    """Return what the findings that belong to no step come to."""
    if any(one.rule not in ("unsigned",) and not one.where for one in found):
        return Verdict.INVALID
    lacking = any(one.where for one in found) or not receipt.signers
    return Verdict.MISSING if lacking else Verdict.ATTESTED
