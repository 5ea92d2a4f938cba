"""Is an SGX or TDX quote genuine? (tee-attestation 3.2; numbers are repeated beside the code)

    1   form                                             :func:`hyperpy.attest.quote.parse`
    2   signature of the attestation key over header and body
    3   that key is the quoting enclave's own (QE report data)
    4   chain of the platform's certificate to Intel's pinned root, in whatever order it comes
    5   signature of the platform's key under the quoting enclave's report
    6   validity at ``now``; revocation lists, where collateral is given
    7,8 TCB info and quoting enclave's identity: signed by Intel, for this platform, valid
    9-11 TCB status

Without collateral steps 6 (lists) to 11 are left out, and a policy says whether that will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hyperpy.attest import certs, collateral, pck, quote, roots, tcb
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ecdsa_raw
from hyperpy.encoding import sha256

_AUTHORITIES: Final = ("Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA")


@dataclass(frozen=True, slots=True)
class Genuine:
    """A quote that is genuine.

    Attributes:
        tcb: how up to date the platform is; None without collateral.
        has_collateral: whether collateral was given and is genuine.
        not_after: when the first of certificates and collateral ends.
        revocation: ``checked`` or ``unknown``.
    """

    quote: quote.Quote
    pck: pck.Pck
    tcb: tcb.Tcb | None
    has_collateral: bool
    not_after: datetime
    revocation: str

    def claims(self) -> Mapping[str, Any]:
        """Return what is known, by name."""
        made = {**self.quote.claims(), "pck": self.pck.claims()}
        if self.tcb is not None:
            made["tcb"] = {
                "status": self.tcb.status,
                "parts": dict(self.tcb.parts),
                "advisories": list(self.tcb.advisories),
            }
        return made


def verify(raw: bytes, given: bytes | None, now: datetime) -> Genuine:
    """Return a quote that is genuine.

    Args:
        given: collateral as JSON, or None.
        now: UTC; the clock of the verification.

    Raises:
        AttestationError: the first check that fails, by its code.
    """
    found = quote.parse(raw)  # 1
    key = _point(found.key)
    genuine = ecdsa_raw(key, found.signature, found.signed, hashes.SHA256())  # 2
    require(genuine, "signature/invalid", "the quote's signature does not verify")
    bound = sha256(found.key + found.qe_data) + bytes(32)  # 3
    require(found.qe_report[320:384] == bound, "qe/binding", "the attestation key is not the quoting enclave's")
    if found.pck_chain is None:
        raise refusal("endorsement/missing", "the quote holds no certificate of the platform")
    path = _platform_path(found.pck_chain)  # 4
    signer = certs.ec_key(path[0], ec.SECP256R1)  # 5
    signed = ecdsa_raw(signer, found.qe_signature, found.qe_report, hashes.SHA256())
    require(signed, "qe/signature", "the quoting enclave's report is not signed by the platform")
    certs.check_validity(path, now)  # 6
    platform = pck.read(path[0])
    end = min(one.not_valid_after_utc for one in path)
    if given is None:
        return Genuine(found, platform, None, False, end, "unknown")
    known = collateral.verified(collateral.Collateral.parse(given), path, now, found.tee)  # 6, 7, 8
    status = tcb.evaluate(found, platform, known.tcb, known.qe)  # 9, 10, 11
    return Genuine(found, platform, status, True, min(end, known.not_after), "checked")


@lru_cache(64)
def _platform_path(text: bytes) -> tuple[x509.Certificate, ...]:
    """Return a platform's certificates, whose chain holds whatever the time."""
    path = tuple(certs.chain(certs.from_pem(text, padded=True), roots.INTEL))
    require(len(path) == 3, "endorsement/chain-invalid", "the platform's chain must have three certificates")
    names = [one.value for one in path[1].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    require(len(names) == 1 and names[0] in _AUTHORITIES, "endorsement/chain-invalid", "not an authority for platforms")
    return path


def _point(raw: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw)
    except ValueError:
        return None
