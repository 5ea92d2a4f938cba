"""A fake of AMD's key hierarchy and of the chip that signs reports, for tests alone.

Its root is nobody's: the pinned roots refuse it. A test that needs evidence with a binding of its own calls
:func:`trusted`, which pins the fake root for the length of the test.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from hyperpy import attestation
from hyperpy.attest import roots, snp_chain
from hyperpy.encoding import sha256

BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHIP = bytes(range(64))
TCB = bytes((4, 0, 0, 0, 0, 0, 22, 213))
MEASUREMENT = bytes(range(48))
_ARC = "1.3.6.1.4.1.3704.1."
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


class FakeAmd:
    """One root, one intermediate, one chip, all made up."""

    def __init__(self) -> None:
        self._ark, self._ask = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self._chip = ec.generate_private_key(ec.SECP384R1())
        self.root = self._certificate("ARK-Milan", self._ark.public_key(), "ARK-Milan", self._ark)
        issuer = self._certificate("SEV-Milan", self._ask.public_key(), "ARK-Milan", self._ark)
        self.chain = (issuer, self.root)
        self.vek = self._certificate("SEV-VCEK", self._chip.public_key(), "SEV-Milan", self._ask, _extensions())

    def report(
        self, report_data: bytes, *, vmpl: int = 0, policy: int = 0x30000, measurement: bytes = MEASUREMENT
    ) -> bytes:
        """Return a signed report of version 2."""
        made = bytearray(1184)
        fields = {0: (2, 4), 8: (policy, 8), 0x30: (vmpl, 4), 0x34: (1, 4)}
        for at, (value, size) in fields.items():
            made[at : at + size] = value.to_bytes(size, "little")
        made[0x50:0x90], made[0x90:0xC0], made[0x1A0:0x1E0] = report_data, measurement, CHIP
        for at in (0x38, 0x180, 0x1E0, 0x1F0):
            made[at : at + 8] = TCB
        r, s = decode_dss_signature(self._chip.sign(bytes(made[:0x2A0]), ec.ECDSA(hashes.SHA384())))
        made[0x2A0:0x2D0], made[0x2E8:0x318] = r.to_bytes(48, "little"), s.to_bytes(48, "little")
        return bytes(made)

    def _certificate(
        self,
        name: str,
        key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        issuer: str,
        signer: rsa.RSAPrivateKey,
        extensions: tuple[tuple[str, bytes], ...] = (),
    ) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key)
            .serial_number(7)
            .not_valid_before(BEGIN)
            .not_valid_after(BEGIN + timedelta(days=3650))
        )
        for suffix, value in extensions:
            found = x509.UnrecognizedExtension(x509.ObjectIdentifier(_ARC + suffix), value)
            builder = builder.add_extension(found, critical=False)
        return builder.sign(signer, hashes.SHA384(), rsa_padding=_PSS).public_bytes(Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _extensions() -> tuple[tuple[str, bytes], ...]:
    levels = {"3.1": TCB[0], "3.2": TCB[1], "3.3": TCB[6], "3.8": TCB[7]}
    rows = [("1", b"\x02\x01\x00"), ("2", b"\x16\x08Milan-B0"), ("4", CHIP)]
    return (*rows, *((suffix, _integer(level)) for suffix, level in levels.items()))


def _integer(value: int) -> bytes:
    return bytes((2, 1, value)) if value < 128 else bytes((2, 2, 0, value))


@cache
def fake_amd() -> FakeAmd:
    """Return the fake, made once per process."""
    return FakeAmd()


def trusted(monkeypatch: pytest.MonkeyPatch) -> FakeAmd:
    """Return the fake with its root pinned until the test ends; nodes say that they make statements at ``NOW``."""
    found = fake_amd()
    at_now(monkeypatch)
    monkeypatch.setattr(roots, "AMD", {"Milan": sha256(found.root)})
    monkeypatch.setattr(snp_chain, "_chained", snp_chain._chained.__wrapped__)  # nothing of it is remembered
    return found


def at_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes say that they make statements at ``NOW``, until the test ends."""
    monkeypatch.setattr(attestation.Attestation, "clock", staticmethod(NOW.timestamp))
