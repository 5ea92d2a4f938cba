"""Is an SEV-SNP report genuine? (tee-attestation 2.5, 2.6; numbers are repeated beside the code)

    1, 2  form, version, reserved bytes, signing key        :func:`hyperpy.attest.snp.parse`
    3     the chip's certificate is there, and of the kind that the report names
    4     chain: pinned root (ARK), intermediate (ASK or ASVK), chip key (VCEK or VLEK), PSS exactly as AMD's
    5     every certificate is valid at ``now``
    6     revocation list of the root, where one is given
    7     product of the chip's certificate = of the root = of the report's CPUID
    8     hardware ID of the certificate = chip ID of the report (VCEK)
    9     TCB of the certificate = reported TCB, component by component
    10    signature of the report

Whether to accept a genuine report is a policy's affair: :mod:`hyperpy.attest.snp_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from hyperpy.attest import certs, der, roots, snp
from hyperpy.attest.codes import refusal, require
from hyperpy.attest.primitives import ORDER_P384, ecdsa, is_curve, public_key, rsa_pss_sha384

_PSS: Final = (
    bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402020500"
        "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
    ),
    bytes.fromhex(
        "304606092a864886f70d01010a3039a00f300d06096086480165030402020500"
        "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101"
    ),
)
"""RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt 48; the default trailer left out or written."""
_ARC: Final = "1.3.6.1.4.1.3704.1."
_SPL: Final = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_NAMES: Final = {"vcek": ("SEV-VCEK", "SEV-{}"), "vlek": ("SEV-VLEK", "SEV-VLEK-{}")}


@dataclass(frozen=True, slots=True)
class Endorsement:
    """What vouches for a report: the chip's certificate and its chain, DER; issuer first, root last.

    ``crl`` is the root's revocation list, DER, or None.
    """

    vek: bytes
    chain: tuple[bytes, ...]
    crl: bytes | None = None


@dataclass(frozen=True, slots=True)
class Genuine:
    """A report that is genuine, and what its endorsement adds.

    Attributes:
        csp: who runs the platform, where a VLEK signed.
        not_after: when the first of the certificates ends.
        revocation: ``checked`` or ``unknown``.
    """

    report: snp.Report
    product: str
    csp: str | None
    not_after: datetime
    revocation: str

    def claims(self) -> Mapping[str, Any]:
        """Return what is known, by name."""
        return {**self.report.claims(self.product), "csp_id": self.csp}


@dataclass(frozen=True)
class _Vek:
    """A chip's certificate whose chain holds; what its extensions say is read when it is first looked at."""

    product: str
    key: bytes
    certificates: tuple[der.Certificate, ...]

    @cached_property
    def said(self) -> str:
        """The product that it names."""
        return _ia5(self.certificates[0], "2").partition("-")[0]

    @cached_property
    def levels(self) -> Mapping[str, int]:
        """The TCB components that it names."""
        names = snp.tcb_parts(bytes(8), self.product)
        return {name: _level(self.certificates[0], _SPL[name]) for name in names}

    @cached_property
    def not_after(self) -> datetime:
        """When the first of the certificates ends."""
        return min(one.not_after for one in self.certificates)


def verify(raw: bytes, endorsement: Endorsement | None, now: datetime) -> Genuine:
    """Return a report that is genuine.

    Args:
        now: UTC; the clock of the verification.

    Raises:
        AttestationError: the first check that fails, by its code.
    """
    report = snp.parse(raw)  # 1, 2
    if endorsement is None:
        raise refusal("endorsement/missing", "the certificate of the chip is missing")
    kind = report.signing_key
    vek = _chained(endorsement.vek, endorsement.chain, kind)  # 3, 4
    for one in vek.certificates:  # 5
        if now < one.not_before:
            raise refusal("endorsement/not-yet-valid", f"{one.subject_name} is not valid yet")
        if now > one.not_after:
            raise refusal("endorsement/expired", f"{one.subject_name} has expired")
    revocation = _revocation(endorsement.crl, vek, now)  # 6
    leaf = vek.certificates[0]
    _check_product(report, vek)  # 7
    if kind == "vcek":
        _check_chip(report, leaf, vek.product)  # 8
    _check_tcb(report, vek)  # 9
    in_range = 0 < report.r < ORDER_P384 and 0 < report.s < ORDER_P384  # 10
    genuine = in_range and ecdsa(public_key(vek.key), report.r, report.s, raw[: snp.SIGNED], hashes.SHA384())
    require(genuine, "signature/invalid", "the report's signature does not verify")
    csp = _ia5(leaf, "5") if kind == "vlek" else None
    return Genuine(report, vek.product, csp, vek.not_after, revocation)


@lru_cache(64)
def _chained(vek: bytes, chain: Sequence[bytes], kind: str) -> _Vek:
    """Return a chip's certificate once its chain holds, whatever the time."""
    leaf = der.certificate(vek)
    name, issuer_name = _NAMES[kind]
    require(leaf.subject_name == name, "endorsement/key-type-mismatch", f"{leaf.subject_name} where {name} signed")
    require(len(chain) == 2, "endorsement/chain-invalid", "the chain must be issuer and root")
    product = roots.amd_product(chain[1])
    if product is None:
        raise refusal("endorsement/untrusted-root", "the chain ends in no root key of AMD's")
    issuer, root = der.certificate(chain[0]), _root(chain[1])
    require(issuer.subject_name == issuer_name.format(product), "endorsement/chain-invalid", "another issuer's chain")
    _check_signed(issuer, root)
    _check_signed(leaf, issuer)
    require(is_curve(public_key(leaf.key), ec.SECP384R1), "endorsement/chain-invalid", "the chip's key is not P-384")
    return _Vek(product, leaf.key, (leaf, issuer, root))


@lru_cache(4)
def _root(data: bytes) -> der.Certificate:
    """Return a root whose bytes are pinned, and which signed itself."""
    root = der.certificate(data)
    _check_signed(root, root)
    return root


def _check_signed(one: der.Certificate, issuer: der.Certificate) -> None:
    linked = one.issuer == issuer.subject and one.algorithm in _PSS
    if not linked or not rsa_pss_sha384(public_key(issuer.key), one.signature, one.signed):
        raise refusal("endorsement/chain-invalid", f"{one.subject_name} is not signed by {issuer.subject_name}")


def _revocation(data: bytes | None, vek: _Vek, now: datetime) -> str:
    """Look the certificates up in the root's list; the chip's own have no serial number (2.5)."""
    if data is None:
        return "unknown"
    listed = certs.revocations(data)
    leaf, issuer, root = vek.certificates
    signed = listed.issuer.public_bytes() == root.subject and _pss(listed.signature_algorithm_parameters)
    if not signed or not rsa_pss_sha384(public_key(root.key), listed.signature, listed.tbs_certlist_bytes):
        raise refusal("endorsement/crl-stale", "the revocation list is not the root's")
    end = listed.next_update_utc
    fresh = end is not None and listed.last_update_utc <= now <= end
    require(fresh, "endorsement/crl-stale", "the revocation list is not valid at this time")
    for one in (issuer, root, *((leaf,) if leaf.serial else ())):
        found = listed.get_revoked_certificate_by_serial_number(one.serial)
        require(found is None, "endorsement/revoked", f"{one.subject_name} was revoked")
    return "checked"


def _pss(parameters: object) -> bool:
    return isinstance(parameters, padding.PSS) and isinstance(parameters.mgf, padding.MGF1)


def _check_product(report: snp.Report, vek: _Vek) -> None:
    said, product = vek.said, vek.product
    require(said == product, "endorsement/product-mismatch", f"a certificate of {said} under the root of {product}")
    expected = report.product
    if expected is None:  # version 2 does not say; a chip ID of 8 bytes is Turin's
        expected = "Turin" if product == "Turin" or _short(report.chip_id) else product
    require(expected == product, "endorsement/product-mismatch", f"a report of {expected} under the root of {product}")


def _short(chip: bytes) -> bool:
    return any(chip[:8]) and not any(chip[8:])


def _check_chip(report: snp.Report, leaf: der.Certificate, product: str) -> None:
    size = 8 if product == "Turin" else 64
    known = leaf.extensions.get(f"{_ARC}4", b"")
    if len(known) == size + 2 and known[:2] == bytes((der.OCTET_STRING, size)):
        known = known[2:]
    require(len(known) == size, "endorsement/chain-invalid", "the certificate names no hardware ID")
    same = report.chip_id[:size] == known and not any(report.chip_id[size:])
    require(same, "endorsement/hwid-mismatch", "the certificate is another chip's")


def _check_tcb(report: snp.Report, vek: _Vek) -> None:
    product = vek.product
    require(
        not snp.tcb_reserved(report.reported_tcb, product),
        "evidence/reserved-nonzero",
        "a byte of the reported TCB has no meaning",
    )
    for name, level in snp.tcb_parts(report.reported_tcb, product).items():
        known = vek.levels[name]
        if known != level:
            text = f"{name} is {level} in the report, {known} in the key"
            raise refusal("endorsement/tcb-mismatch", text)


def _level(leaf: der.Certificate, suffix: str) -> int:
    return _component(leaf.extensions.get(_ARC + suffix, b""))


@lru_cache(512)
def _component(data: bytes) -> int:
    at = der.Reader(data)
    found = der.integer(at.take(der.INTEGER))
    at.finish()
    require(0 <= found <= 255, "endorsement/chain-invalid", "a TCB component is no byte")
    return found


def _ia5(leaf: der.Certificate, suffix: str) -> str:
    at = der.Reader(leaf.extensions.get(_ARC + suffix, b""))
    found = at.take(der.IA5_STRING)
    at.finish()
    require(found.isascii(), "endorsement/chain-invalid", "a name in the certificate is no ASCII")
    return found.decode("ascii", "replace")
