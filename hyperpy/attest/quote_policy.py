"""Do we accept a genuine SGX or TDX quote? (tee-attestation 3.2, 12)"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hyperpy.attest.quote_chain import Genuine

GOOD: Final = frozenset({"UpToDate", "SWHardeningNeeded"})
_NONE: Final[frozenset[str]] = frozenset()
_CODES: Final = {
    "ConfigurationNeeded": "tcb/configuration-needed",
    "ConfigurationAndSWHardeningNeeded": "tcb/configuration-needed",
    "SWHardeningNeeded": "tcb/configuration-needed",
    "OutOfDate": "tcb/out-of-date",
    "OutOfDateConfigurationNeeded": "tcb/out-of-date",
    "Revoked": "tcb/revoked",
}


@dataclass(frozen=True, slots=True)
class QuotePolicy:
    """What every Intel quote must be. An allow list left out allows everything; an empty one nothing.

    Attributes:
        statuses: TCB statuses that are accepted.
        min_evaluation: least number of Intel's list (``tcbEvaluationDataNumber``).
        denied_advisories: security advisories that must not apply.
        allow_debug, allow_no_collateral: accept what is refused by default.
    """

    statuses: frozenset[str] = GOOD
    min_evaluation: int = 0
    denied_advisories: frozenset[str] = _NONE
    allow_debug: bool = False
    allow_no_collateral: bool = False


@dataclass(frozen=True, slots=True)
class TdxPolicy(QuotePolicy):
    """What a TDX quote must be.

    Attributes:
        mrtds: allowed measurements of the trust domain.
        rtmr0, rtmr1, rtmr2, rtmr3: allowed values of the run-time registers.
        mrconfigids, mrowners: allowed values of those fields.
        allow_service_td: accept a trust domain that another one serves.
    """

    mrtds: frozenset[bytes] | None = None
    rtmr0: frozenset[bytes] | None = None
    rtmr1: frozenset[bytes] | None = None
    rtmr2: frozenset[bytes] | None = None
    rtmr3: frozenset[bytes] | None = None
    mrconfigids: frozenset[bytes] | None = None
    mrowners: frozenset[bytes] | None = None
    allow_service_td: bool = False


@dataclass(frozen=True, slots=True)
class SgxPolicy(QuotePolicy):
    """What an SGX quote must be: allowed enclaves and signers, least security version of the enclave."""

    mrenclaves: frozenset[bytes] | None = None
    mrsigners: frozenset[bytes] | None = None
    min_svn: int = 0


def appraise(found: Genuine, policy: TdxPolicy | SgxPolicy) -> list[str]:
    """Return the codes of everything in a genuine quote that the policy refuses; empty if it is accepted."""
    own = _sgx(found, policy) if isinstance(policy, SgxPolicy) else _tdx(found, policy)
    return list(dict.fromkeys((*_common(found, policy), *own)))


def _common(found: Genuine, policy: QuotePolicy) -> Iterator[str]:
    if found.quote.debug and not policy.allow_debug:
        yield "policy/debug-enabled"
    if not found.has_collateral and not policy.allow_no_collateral:
        yield "collateral/missing"
    level = found.tcb
    if level is None or (found.quote.debug and not policy.allow_debug):
        return
    if level.status is None:
        yield "tcb/unsupported"
    elif level.status not in policy.statuses:
        yield _CODES.get(level.status, "tcb/out-of-date")
    if level.evaluation < policy.min_evaluation:
        yield "tcb/below-minimum"
    if not policy.denied_advisories.isdisjoint(level.advisories):
        yield "policy/advisory-denied"


_KNOWN_ATTRIBUTES: Final = 1 | 1 << 28 | 1 << 30 | 1 << 63
"""Of a trust domain: DEBUG, SEPT_VE_DISABLE, PKS, PERFMON; what others mean is not known, so they must be 0 (3.1)."""


def _tdx(found: Genuine, policy: TdxPolicy) -> Iterator[str]:
    if int.from_bytes(found.quote.body[120:128], "little") & ~_KNOWN_ATTRIBUTES:
        yield "policy/guest-policy"
    if any(found.quote.service_td) and not policy.allow_service_td:
        yield "policy/service-td"
    body = found.quote.body
    places = ((136, policy.mrtds), (328, policy.rtmr0), (376, policy.rtmr1), (424, policy.rtmr2), (472, policy.rtmr3))
    if not all(allowed is None or body[at : at + 48] in allowed for at, allowed in places):
        yield "policy/measurement-not-allowed"
    others = ((184, policy.mrconfigids), (232, policy.mrowners))
    if not all(allowed is None or body[at : at + 48] in allowed for at, allowed in others):
        yield "policy/host-data"


def _sgx(found: Genuine, policy: SgxPolicy) -> Iterator[str]:
    parts = ((found.quote.part("mrenclave"), policy.mrenclaves), (found.quote.part("mrsigner"), policy.mrsigners))
    if not all(allowed is None or value in allowed for value, allowed in parts):
        yield "policy/measurement-not-allowed"
    if int.from_bytes(found.quote.part("svn"), "little") < policy.min_svn:
        yield "tcb/below-minimum"
