"""What a receipt says of the machines its steps were made on (rule 16 of :mod:`hyperpy.verify`).

Each entry is an attestation (:mod:`hyperpy.attested`) of a reply with the result of one step: it names the step's
request, result, hashpath and code. Evidence that is malformed, or about another step or signer, breaks the receipt.
Evidence that a policy does not accept is no lie: it is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hyperpy import attested
from hyperpy.encoding import b64u, b64u_decode
from hyperpy.errors import AttestationError
from hyperpy.receipt.content import Receipt
from hyperpy.receipt.policy import Rules
from hyperpy.trail import Record
from hyperpy.verdicts import Finding

MAX_ENTRIES: Final = 1000
_BROKEN: Final = ("evidence/", "binding/", "signature/", "verifier/")
_RANK: Final = {name: at for at, name in enumerate(("hardware", "software", "failed", "none"))}


@dataclass(frozen=True, slots=True)
class Looked:
    """What is found of a receipt's evidence.

    Attributes:
        status: the worst of the roots': ``hardware``, ``software``, ``failed`` or ``none``.
        rows: one for each entry: ``record``, ``status``, ``level``, ``kind``, ``codes``, ``verdict``.
    """

    status: str
    rows: tuple[Mapping[str, Any], ...]
    findings: tuple[Finding, ...]


def look(receipt: Receipt, rules: Rules, now: datetime) -> Looked:
    """Return what is found.

    Args:
        now: UTC; what certificates must be valid at.
    """
    findings: list[Finding] = []
    rows: list[dict[str, Any]] = []
    best: dict[bytes, str] = {}
    for data in receipt.evidence[:MAX_ENTRIES]:
        receipt.allow()
        name, found = _entry(receipt, data, rules, now)
        broken = [code for code in found.codes if code.startswith(_BROKEN)]
        if broken:
            findings.append(Finding("evidence", f"the evidence does not belong here, or does not hold: {broken[0]}"))
        kind = found.result.parts["cpu0"].kind if found.result is not None else ""
        verdict = found.result.word if found.result is not None else "none"
        rows.append(
            {"record": b64u(name) if name else "", "status": found.status, "level": found.level, "kind": kind}
            | {"verdict": verdict, "codes": list(found.codes)}
        )
        if name and _RANK[found.status] < _RANK[best.get(name, "none")]:
            best[name] = found.status
    if len(receipt.evidence) > MAX_ENTRIES:
        findings.append(Finding("evidence", f"more than {MAX_ENTRIES} pieces of evidence"))
    status = max((best.get(root, "none") for root in receipt.roots), key=_RANK.__getitem__, default="none")
    wanted = rules.attested
    if wanted is not None and _RANK[status] > _RANK[wanted]:
        findings.append(Finding("policy", "the results are not attested as the policy demands", wanted, status))
    return Looked(status, tuple(rows), tuple(findings))


def _entry(receipt: Receipt, data: bytes, rules: Rules, now: datetime) -> tuple[bytes, attested.Found]:
    """Return the record that a piece of evidence is about, empty if there is none here, and what is found."""
    try:
        made = attested.decode(data)
        fields = made.said().fields
    except AttestationError as error:
        return b"", attested.Found("failed", (error.code,))
    name = next((name for name, record in receipt.steps.items() if _is_about(record, fields)), b"")
    if not name:
        return b"", attested.Found("failed", ("binding/result-mismatch",))
    wanted = attested.Wanted(receipt.signers)
    return name, attested.appraise(made, wanted, rules.tee, now=now, insecure_software=rules.insecure_software)


def _is_about(record: Record, fields: Mapping[str, bytes]) -> bool:
    """Say whether a statement names exactly what a record does."""
    told = (fields["result"], fields["request"], fields["hashpath"], fields["device"])
    return told == about(record)


def about(record: Record) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what a statement says of a step: result, request, hashpath, device with its code's digest."""
    device = f"{record.device} {record.implementation}"
    result, request = (b64u_decode(text) if text else b"" for text in (record.result, record.request))
    return result, request, record.hashpath_after.encode("utf-8", "surrogatepass"), device.encode()
