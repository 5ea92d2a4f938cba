"""Attestation results: what a verifier says of evidence, as EAR (draft-ietf-rats-ear; tee-attestation 9).

A relying party acts on ``status`` and the policy's ID; all else says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

PROFILE: Final = "tag:hyperpy,2026:ear"
NONE, AFFIRMING, WARNING, CONTRAINDICATED = 0, 2, 32, 96
WORDS: Final = {NONE: "none", AFFIRMING: "affirming", WARNING: "warning", CONTRAINDICATED: "contraindicated"}
LIFE: Final = timedelta(hours=1)
"""How long a result holds at most."""

_NAMES: Final = ("instance-identity", "configuration", "executables", "hardware", "runtime-opaque")
_ALL_FAILED: Final = 99


class Claims(Mapping[str, Any]):
    """What evidence says, worked out when it is first looked at: most who verify only act on the status."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._make = make
        self._made: Mapping[str, Any] | None = None

    def _all(self) -> Mapping[str, Any]:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __getitem__(self, name: str) -> Any:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


@dataclass(slots=True)
class Appraisal:
    """What is said of one attester: the processor's environment (``cpu0``) or a device (``gpu0``, ...).

    Attributes:
        vector: trustworthiness by claim, -128..127 as EAR has it; 0 is no claim.
        claims: everything the evidence says.
        codes: what was refused, the first failure first.
        checks: name and outcome (``pass``, ``fail``, ``skipped``) of each check, in order.
        revocation: ``checked`` or ``unknown``.
    """

    kind: str
    vector: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_NAMES, 0))
    claims: Mapping[str, Any] = field(default_factory=dict)
    codes: list[str] = field(default_factory=list)
    checks: list[tuple[str, str]] = field(default_factory=list)
    revocation: str = "unknown"

    def failed(self, code: str, at: str) -> None:
        """Note that the evidence is not genuine: nothing it says counts."""
        self.codes.append(code)
        self.checks.append((at, "fail"))
        self.vector = dict.fromkeys(_NAMES, _ALL_FAILED)

    def worsen(self, claim: str, value: int) -> None:
        """Put a claim at least at that value."""
        self.vector[claim] = max(self.vector[claim], value)

    @property
    def status(self) -> int:
        """The worst tier of the vector."""
        return max(map(tier, self.vector.values()))


def tier(value: int) -> int:
    """Return the tier of a claim's value."""
    if value >= CONTRAINDICATED:
        return CONTRAINDICATED
    if value >= WARNING:
        return WARNING
    return AFFIRMING if value >= AFFIRMING else NONE


@dataclass(frozen=True, slots=True)
class Result:
    """The result about a whole machine.

    Attributes:
        parts: an appraisal by submodule.
        policy: name of the policy that was applied.
        nonce: that of the statement, where there was one.
        issued, expires: when the result was made, and until when it holds.
    """

    parts: Mapping[str, Appraisal]
    policy: str
    nonce: bytes | None
    issued: datetime
    expires: datetime

    @property
    def status(self) -> int:
        """The worst status of all parts: NONE, AFFIRMING, WARNING or CONTRAINDICATED."""
        return max(part.status for part in self.parts.values())

    @property
    def word(self) -> str:
        """The status as a word."""
        return WORDS[self.status]

    @property
    def hardware(self) -> str:
        """``hardware``, ``software`` or ``failed``: what a reply says of its own evidence."""
        if any(part.codes for part in self.parts.values()) or self.status == CONTRAINDICATED:
            software = self.parts["cpu0"].kind == "software" and not self.codes
            return "software" if software else "failed"
        return "hardware"

    @property
    def codes(self) -> Sequence[str]:
        """All codes, the processor's first."""
        return tuple(dict.fromkeys(code for part in self.parts.values() for code in part.codes))

    def ear(self, build: str) -> dict[str, Any]:
        """Return the result as EAR claims; ``build`` names the verifier's software."""
        made: dict[str, Any] = {
            "eat_profile": PROFILE,
            "iat": int(self.issued.timestamp()),
            "exp": int(self.expires.timestamp()),
            "ear.verifier-id": {"developer": "hyperpy", "build": build},
            "submods": {name: self._submodule(part) for name, part in self.parts.items()},
        }
        if self.nonce is not None:
            made["eat_nonce"] = self.nonce.hex()
        return made

    def _submodule(self, part: Appraisal) -> dict[str, Any]:
        return {
            "ear.status": part.status,
            "ear.trustworthiness-vector": dict(part.vector),
            "ear.appraisal-policy-id": self.policy,
            "hyperpy.kind": part.kind,
            "hyperpy.claims": dict(part.claims),
            "hyperpy.errors": list(part.codes),
            "hyperpy.checks": [{"check": name, "outcome": outcome} for name, outcome in part.checks],
            "hyperpy.revocation": part.revocation,
        }
