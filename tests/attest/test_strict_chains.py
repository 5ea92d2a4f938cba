"""Chains and revocation lists of our own making: what the vendors' genuine ones never show."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from hyperpy.attest import certs, collateral
from hyperpy.attest.roots import Anchor
from hyperpy.encoding import sha256
from hyperpy.errors import AttestationError
from tests.attest.fake_amd import NOW

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "first", "second", "leaf", "signer")}


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def certificate(who: str, issuer: str, length: int | None, ca: bool = True) -> x509.Certificate:
    made = x509.CertificateBuilder().subject_name(name(who)).issuer_name(name(issuer))
    made = made.public_key(KEYS[who].public_key()).serial_number(sum(who.encode()))
    made = made.not_valid_before(NOW - timedelta(days=1)).not_valid_after(NOW + timedelta(days=1))
    usage = x509.KeyUsage(False, False, False, False, False, ca, ca, False, False)
    made = made.add_extension(x509.BasicConstraints(ca, length if ca else None), True)
    made = made.add_extension(usage, True)
    return made.sign(KEYS[issuer], SHA256())


def der(*found: x509.Certificate) -> list[bytes]:
    return [one.public_bytes(Encoding.DER) for one in found]


@pytest.mark.parametrize(("length", "good"), [(None, True), (2, True), (1, False), (0, False)])
def test_a_chain_is_no_longer_than_its_issuers_allow(length: int | None, good: bool) -> None:
    root = certificate("root", "root", length)
    others = certificate("first", "root", None), certificate("second", "first", None)
    leaf = certificate("leaf", "second", None, ca=False)
    anchor = Anchor(sha256(root.public_bytes(Encoding.DER)))
    if good:
        assert len(certs.chain(der(leaf, *others, root), anchor)) == 4
        return
    with pytest.raises(AttestationError) as caught:
        certs.chain(der(leaf, *others, root), anchor)
    assert caught.value.code == "endorsement/chain-invalid"


def refused(leaf: bytes, root: x509.Certificate) -> str:
    anchor = Anchor(sha256(root.public_bytes(Encoding.DER)))
    with pytest.raises(AttestationError) as caught:
        certs.chain([leaf, root.public_bytes(Encoding.DER)], anchor)
    return caught.value.code


def test_whose_key_signed_and_whose_name_is_given() -> None:
    root = certificate("root", "root", None)
    leaf = certificate("leaf", "root", None, ca=False)
    (good,), anchor = der(leaf), Anchor(sha256(root.public_bytes(Encoding.DER)))
    assert len(certs.chain([good, *der(root)], anchor)) == 2
    KEYS["mallory"] = ec.generate_private_key(ec.SECP256R1())
    forged = x509.CertificateBuilder().subject_name(name("leaf")).issuer_name(name("root")).serial_number(1)
    forged = forged.public_key(KEYS["leaf"].public_key()).not_valid_before(NOW).not_valid_after(NOW)
    (other,) = der(forged.sign(KEYS["mallory"], SHA256()))
    assert refused(other, root) == "endorsement/chain-invalid"
    for at in range(len(good)):
        changed = good[:at] + bytes((good[at] ^ 1 << at % 8,)) + good[at + 1 :]
        assert refused(changed, root).partition("/")[0] == "endorsement", at


def test_one_signature_algorithm_inside_and_outside() -> None:
    """What is not signed may not say otherwise than what is (RFC 5280, 4.1.1.2)."""
    root = certificate("root", "root", None)
    (good,) = der(certificate("leaf", "root", None, ca=False))
    algorithm = bytes.fromhex("06082a8648ce3d040302")  # ecdsa-with-SHA256
    assert good.count(algorithm) == 2
    at = good.rindex(algorithm) + len(algorithm) - 1
    changed = good[:at] + b"\x03" + good[at + 1 :]
    assert refused(changed, root) == "endorsement/chain-invalid"
    with pytest.raises(AttestationError, match="malformed"):
        certs.certificate(changed)


def listed(issuer: str, *serials: int, extension: Any = None) -> str:
    made = x509.CertificateRevocationListBuilder().issuer_name(name(issuer))
    made = made.last_update(NOW - timedelta(hours=1)).next_update(NOW + timedelta(hours=1))
    for serial in serials:
        one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW - timedelta(hours=2))
        made = made.add_revoked_certificate(one.build())
    if extension is not None:
        made = made.add_extension(extension, True)
    return made.sign(KEYS[issuer], SHA256()).public_bytes(Encoding.DER).hex()


class Lists:
    """A platform's path, the signer of its collateral, and two lists."""

    def __init__(self) -> None:
        self.root, self.first = certificate("root", "root", None), certificate("first", "root", None)
        self.leaf, self.signer = certificate("leaf", "first", None, False), certificate("signer", "root", None, False)
        self.fields = {"pck_crl_issuer_chain": "", "root_ca_crl": listed("root"), "pck_crl": listed("first")}

    def check(self) -> list[datetime]:
        path = [self.leaf, self.first, self.root]
        return collateral._check_revocations(self.fields, path, [self.signer, self.signer], NOW)


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> Lists:
    made = Lists()
    monkeypatch.setattr(collateral, "_path", lambda text: [made.first, made.root])
    return made


def test_lists_that_name_nobody_of_ours(lists: Lists) -> None:
    assert lists.check() == [NOW + timedelta(hours=1)] * 2


@pytest.mark.parametrize(("field", "issuer", "who"), [
    ("root_ca_crl", "root", "first"), ("root_ca_crl", "root", "signer"), ("pck_crl", "first", "leaf"),
])  # fmt: skip
def test_who_signed_platform_or_collateral_may_have_been_revoked(
    lists: Lists, field: str, issuer: str, who: str
) -> None:
    lists.fields[field] = listed(issuer, getattr(lists, who).serial_number)
    with pytest.raises(AttestationError) as caught:
        lists.check()
    assert caught.value.code == "endorsement/revoked"


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(None, None, True, False, None, False, False),
    ],
    ids=["changes", "some"],
)
def test_a_list_of_a_part_shows_nothing(lists: Lists, extension: x509.ExtensionType) -> None:
    lists.fields["pck_crl"] = listed("first", extension=extension)
    with pytest.raises(AttestationError) as caught:
        lists.check()
    assert caught.value.code == "collateral/signature"
