"""What an audit says: one verdict per step, one for the whole, and why (design 3).

Verdicts, from best to worst, and the exit code of a command that ends with one:

    ======================  ====  ====================================================================
    reproduced              0     made again with the same result ID and hashpath
    attested                2     cannot be made again; a signature vouches for it, named in ``attested_by``
    implementation differs  2     the device's code is not the one that was recorded, so nothing is compared
    missing                 2     a record, message or schedule that is needed is not at hand
    diverged                1     made again with another outcome
    invalid                 1     a signature, digest or link does not hold: no need to make anything again
    bad file                3     not a file of this kind
    ======================  ====  ====================================================================

"Reproduced, given N attested inputs" is reproduced: N recorded answers that cannot be made again were
injected. ``strict`` turns that into exit code 2.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final


class Verdict(enum.Enum):
    """What is said of a step, or of all of them; see the module's table."""

    REPRODUCED = "reproduced"
    ATTESTED = "attested"
    DIFFERS = "implementation differs"
    MISSING = "missing"
    DIVERGED = "diverged"
    INVALID = "invalid"
    BAD_FILE = "bad file"

    @property
    def exit_code(self) -> int:
        """0 reproduced, 1 diverged or invalid, 2 incomplete, 3 bad file."""
        return _CODES[self]


_ORDER: Final = tuple(Verdict)
_CODES: Final = {
    Verdict.REPRODUCED: 0,
    Verdict.ATTESTED: 2,
    Verdict.DIFFERS: 2,
    Verdict.MISSING: 2,
    Verdict.DIVERGED: 1,
    Verdict.INVALID: 1,
    Verdict.BAD_FILE: 3,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of some verdicts; of none, that something is missing."""
    return max(verdicts, key=_ORDER.index, default=Verdict.MISSING)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        rule: name of the broken rule, stable for programs: ``result``, ``hashpath-after``, ``signature``, ...
        text: the same in words, for people.
        expected, got: side by side, where two things were compared.
        where: for what is missing, the places that were looked at.
    """

    rule: str
    text: str
    expected: str = ""
    got: str = ""
    where: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the finding for programs; empty fields are left out."""
        found = {"rule": self.rule, "text": self.text, "expected": self.expected, "got": self.got}
        made: dict[str, Any] = {name: item for name, item in found.items() if item}
        return made | {"where": list(self.where)} if self.where else made


@dataclass(slots=True)
class StepReport:
    """What was found out about one recorded step.

    Attributes:
        record: record ID, base64url.
        parent: that of the enclosing step, or empty.
        device, key, status, base, request, result, before, after: the record's own words.
        slot: process ID and slot, where the step computed one.
        given: attested inputs that were injected when it was made again.
        attested_by: who vouches for what cannot be made again.
    """

    record: str
    device: str
    key: str
    status: str
    base: str
    request: str
    result: str
    before: str
    after: str
    verdict: Verdict
    parent: str = ""
    slot: tuple[str, int] | None = None
    given: int = 0
    attested_by: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the step for programs."""
        made: dict[str, Any] = {
            "record": self.record,
            "device": self.device,
            "key": self.key,
            "status": self.status,
            "base": self.base,
            "request": self.request,
            "result": self.result,
            "hashpath-before": self.before,
            "hashpath-after": self.after,
            "verdict": self.verdict.value,
            "given": self.given,
            "findings": [one.as_json() for one in self.findings],
        }
        if self.parent:
            made["parent"] = self.parent
        if self.slot is not None:
            made["process"], made["slot"] = self.slot
        if self.attested_by:
            made["attested-by"] = list(self.attested_by)
        return made


@dataclass(frozen=True, slots=True)
class Edge:
    """How two steps hang together: ``next`` (result is base), ``part`` (sub-step), ``input``, ``cached``, ``slot``.

    ``source`` and ``target`` are record IDs, base64url; the target needs the source.
    """

    source: str
    target: str
    kind: str


@dataclass(slots=True)
class Report:
    """The outcome of an audit.

    Attributes:
        ref: what was asked about.
        steps: in the order in which they were computed.
        edges: how they hang together.
        findings: what belongs to no single step, such as a damaged file.
        total: steps there are; fewer may have been looked at (a sample, a range, the first lie).
        sample: how the sample was drawn: ``{"size", "seed", "finds-one-lie", "finds-one-percent"}``; empty if all.
        attested_by: who vouches for the whole: the signers of a receipt.
        attestation: what evidence says of the machines that the results come from: ``hardware``, ``software``,
            ``failed`` or ``none``.
        attestations: a row for each piece of evidence; see :class:`hyperpy.receipt.evidence.Looked`.
    """

    ref: str
    steps: list[StepReport] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    total: int = 0
    sample: dict[str, Any] = field(default_factory=dict)
    attested_by: tuple[str, ...] = ()
    attestation: str = "none"
    attestations: tuple[Mapping[str, Any], ...] = ()
    base_verdict: Verdict | None = None

    @property
    def given(self) -> int:
        """How many attested inputs all reproduced steps were given."""
        return sum(step.given for step in self.steps)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all; what is only attested and part of a step made again is counted by ``given``."""
        again = {step.record for step in self.steps if step.verdict is Verdict.REPRODUCED}
        parts = {edge.source for edge in self.edges if edge.kind == "part" and edge.target in again}
        inputs = [step.verdict is Verdict.ATTESTED and step.record in parts for step in self.steps]
        found = [step.verdict for step, given in zip(self.steps, inputs, strict=True) if not given]
        if self.base_verdict is not None:
            found.append(self.base_verdict)
        return worst(found)

    @property
    def first_fault(self) -> StepReport | None:
        """The first step that diverged or is invalid; None if there is none."""
        return next((step for step in self.steps if step.verdict.exit_code == 1), None)

    def exit_code(self, *, strict: bool = False) -> int:
        """Return the exit code; with ``strict``, attested inputs make reproduced a 2."""
        code = self.verdict.exit_code
        return 2 if strict and code == 0 and self.given else code

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        made: dict[str, Any] = {
            "ref": self.ref,
            "verdict": self.verdict.value,
            "given": self.given,
            "total": self.total or len(self.steps),
            "checked": len(self.steps),
            "findings": [one.as_json() for one in self.findings],
            "steps": [step.as_json() for step in self.steps],
            "edges": [{"source": one.source, "target": one.target, "kind": one.kind} for one in self.edges],
        }
        if self.sample:
            made["sample"] = self.sample
        if self.attested_by:
            made["attested-by"] = list(self.attested_by)
        if self.attestations:
            made["attestation"], made["attestations"] = self.attestation, [dict(one) for one in self.attestations]
        return made
