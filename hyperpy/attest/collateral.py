"""Intel's collateral: TCB levels, identity of the quoting enclave, revocation lists (tee-attestation 3.2, 6-8).

It comes with the evidence as one JSON object, with the field names of ``dcap-qvl``. What Intel signed are
texts inside it, byte for byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hyperpy.attest import certs, roots
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ecdsa_raw
from hyperpy.errors import AttestationError

MAX_BYTES: Final = 1 << 20
_FIELDS: Final = frozenset(
    {
        "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info",
        "tcb_info_signature", "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
    }
)  # fmt: skip
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_SIGNER: Final = "Intel SGX TCB Signing"


@dataclass(frozen=True, slots=True)
class Collateral:
    """Collateral whose form is right; :func:`verified` says whether it is genuine."""

    fields: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Collateral:
        """Return the collateral of a JSON text.

        Raises:
            EndorsementError: ``collateral/missing``: a field is missing or no text.
            EvidenceError: ``evidence/too-large``.
        """
        require(len(data) <= MAX_BYTES, "evidence/too-large", "the collateral is too long")
        try:
            found = json.loads(data, object_pairs_hook=_unique)
        except (ValueError, RecursionError):
            raise refusal("collateral/missing", "the collateral is no JSON") from None
        if not isinstance(found, dict) or not found.keys() >= _FIELDS:
            raise refusal("collateral/missing", "a part of the collateral is missing")
        texts = {name: found[name] for name in _FIELDS}
        require(all(isinstance(one, str) for one in texts.values()), "collateral/missing", "a part is no text")
        return cls(texts)


@dataclass(frozen=True, slots=True)
class Genuine:
    """Collateral that Intel signed and that is valid now.

    Attributes:
        tcb: the TCB info; ``qe``: the identity of the quoting enclave.
        not_after: when the first part of it ends.
    """

    tcb: Mapping[str, Any]
    qe: Mapping[str, Any]
    not_after: datetime


def verified(given: Collateral, path: Sequence[x509.Certificate], now: datetime, tee: str) -> Genuine:
    """Return collateral that is genuine, valid at ``now`` and meant for this kind of quote.

    Args:
        path: the platform's certificates: leaf, issuing authority, root.
        tee: ``sgx`` or ``tdx``.

    Raises:
        EndorsementError: ``collateral/...``, or ``endorsement/revoked``.
    """
    fields = given.fields
    tcb = _signed(fields["tcb_info"], fields["tcb_info_signature"], fields["tcb_info_issuer_chain"], now)
    qe = _signed(fields["qe_identity"], fields["qe_identity_signature"], fields["qe_identity_issuer_chain"], now)
    names = ("SGX", "QE") if tee == "sgx" else ("TDX", "TD_QE")
    for found, name in zip((tcb, qe), names, strict=True):
        require(found.get("id") == name, "collateral/type-mismatch", f"collateral for {name} is needed")
        require(found.get("version") in (2, 3), "collateral/type-mismatch", "collateral of an unknown version")
    require(tcb.get("tcbType", 0) == 0, "collateral/type-mismatch", "TCB levels of an unknown composition")
    ends = [_valid(found, now) for found in (tcb, qe)]
    signers = [_path(fields[f"{name}_issuer_chain"])[0] for name in ("tcb_info", "qe_identity")]
    ends += _check_revocations(fields, path, signers, now)
    return Genuine(tcb, qe, min(ends))


def _signed(text: str, signature: str, chain: str, now: datetime) -> Mapping[str, Any]:
    """Return what a text says that Intel signed, by a key that is valid now."""
    found = _said(text, signature, chain)
    for one in _path(chain):
        require(one.not_valid_before_utc <= now, "collateral/not-yet-valid", "a signer is not valid yet")
        require(now <= one.not_valid_after_utc, "collateral/expired", "a signer's certificate has expired")
    return found


@lru_cache(32)
def _said(text: str, signature: str, chain: str) -> Mapping[str, Any]:
    """Return what a text says that Intel signed, whatever the time. It is shared: nobody may change it."""
    path = _path(chain)
    key = certs.ec_key(path[0], ec.SECP256R1)
    name = path[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    require(len(name) == 1 and name[0].value == _SIGNER, "collateral/signature", "signed by another key of Intel's")
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        raw = b""
    genuine = len(raw) == 64 and ecdsa_raw(key, raw, text.encode("utf-8", "surrogatepass"), hashes.SHA256())
    require(genuine, "collateral/signature", "the collateral's signature does not verify")
    try:
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise refusal("collateral/signature", "signed collateral is no JSON object")
    return found


@lru_cache(32)
def _path(text: str) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(certs.chain(certs.from_pem(text.encode()), roots.INTEL))
    except AttestationError as error:
        raise refusal("collateral/signature", f"a chain of the collateral: {error.message}") from None


def _valid(found: Mapping[str, Any], now: datetime) -> datetime:
    begin, end = _moment(found.get("issueDate")), _moment(found.get("nextUpdate"))
    require(begin <= now, "collateral/not-yet-valid", "the collateral is not valid yet")
    require(now <= end, "collateral/expired", "the collateral has expired")
    return end


def _moment(text: object) -> datetime:
    try:
        if not isinstance(text, str) or not _DATE.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=UTC)
    except ValueError:
        raise refusal("collateral/signature", "a date of the collateral is malformed") from None


def _check_revocations(
    fields: Mapping[str, str], path: Sequence[x509.Certificate], signers: list[x509.Certificate], now: datetime
) -> list[datetime]:
    """Check both lists and look the certificates of platform and collateral up in them; return when they end."""
    leaf, authority, root = path
    own = _path(fields["pck_crl_issuer_chain"])[0]
    root_list, pck_list = (_list(fields[name]) for name in ("root_ca_crl", "pck_crl"))
    same = pck_list.issuer == authority.subject and own == authority
    require(same, "collateral/crl-issuer-mismatch", "the revocation list is another authority's")
    require(root_list.issuer == root.subject, "collateral/crl-issuer-mismatch", "the root's revocation list is not")
    ends = []
    for found, issuer in ((root_list, root), (pck_list, authority)):
        genuine = found.is_signature_valid(certs.ec_key(issuer, ec.SECP256R1))
        require(genuine, "collateral/signature", "a revocation list's signature does not verify")
        require(not _partial(found), "collateral/signature", "a revocation list holds a part of what was revoked")
        end = found.next_update_utc
        if end is None:
            raise refusal("collateral/signature", "a revocation list has no end")
        require(found.last_update_utc <= now, "collateral/not-yet-valid", "a revocation list is not valid yet")
        require(now <= end, "collateral/expired", "a revocation list has expired")
        ends.append(end)
    for one, found in ((authority, root_list), (leaf, pck_list), *((signer, root_list) for signer in signers)):
        revoked = found.get_revoked_certificate_by_serial_number(one.serial_number)
        require(revoked is None, "endorsement/revoked", "a certificate of the platform or collateral was revoked")
    return ends


def _partial(found: x509.CertificateRevocationList) -> bool:
    """Say whether a list is one of changes, or of some certificates alone (RFC 5280, 5.2.4 and 5.2.5)."""
    kinds = (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint)
    return any(isinstance(one.value, kinds) for one in found.extensions)


def _list(text: str) -> x509.CertificateRevocationList:
    try:
        return certs.revocations(bytes.fromhex(text))
    except ValueError:
        raise refusal("collateral/signature", "a revocation list is no hex text") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found
