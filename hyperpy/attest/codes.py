"""The codes with which evidence is refused: stable, and the only ones (tee-attestation 10)."""

from __future__ import annotations

from typing import Final

from hyperpy.errors import AppraisalError, AttestationError, AttesterError, EndorsementError, EvidenceError

_BY_GROUP: Final = {
    "evidence": "malformed unsupported-version unsupported-type reserved-nonzero too-large",
    "signature": "invalid algorithm masked",
    "endorsement": (
        "missing chain-invalid untrusted-root expired not-yet-valid revoked crl-missing crl-stale "
        "key-type-mismatch product-mismatch hwid-mismatch tcb-mismatch rim-signature rim-version-mismatch"
    ),
    "qe": "binding signature identity",
    "collateral": ("missing expired not-yet-valid signature type-mismatch fmspc-mismatch crl-issuer-mismatch"),
    "tcb": "unsupported below-minimum out-of-date configuration-needed revoked",
    "policy": (
        "debug-enabled migration-agent provisional-firmware vmpl measurement-not-allowed host-data id-key "
        "author-key guest-policy platform-info mitigation-vector service-td pcr chip-denied advisory-denied "
        "software-not-allowed"
    ),
    "binding": "statement-malformed report-data-mismatch key-mismatch purpose-mismatch result-mismatch",
    "freshness": "nonce-mismatch nonce-reused stale epoch-unknown",
    "attester": "unavailable busy rate-limited provider-mismatch race",
    "verifier": "internal",
}
CODES: Final = frozenset(f"{group}/{name}" for group, names in _BY_GROUP.items() for name in names.split())
"""Every code there is."""

_EVIDENCE: Final = frozenset({"evidence", "signature"})
_ENDORSEMENT: Final = frozenset({"endorsement", "qe", "collateral"})


def refusal(code: str, text: str, *, hint: str | None = None) -> AttestationError:
    """Return the error of a code.

    Raises:
        KeyError: there is no such code.
    """
    if code not in CODES:
        raise KeyError(code)
    group = code.partition("/")[0]
    kind: type[AttestationError] = AppraisalError
    if group in _EVIDENCE:
        kind = EvidenceError
    elif group in _ENDORSEMENT:
        kind = EndorsementError
    elif group == "attester":
        kind = AttesterError
    elif group == "verifier":
        kind = AttestationError
    return kind(code, text, hint=hint)


def require(condition: bool, code: str, text: str) -> None:
    """Raise the error of a code unless the condition holds."""
    if not condition:
        raise refusal(code, text)
