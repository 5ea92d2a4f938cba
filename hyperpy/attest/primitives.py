"""Signature checks that only say yes or no, whatever the bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

ORDER_P384: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
"""Number of points of the curve P-384."""

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@lru_cache(256)
def public_key(spki: bytes) -> PublicKey | None:
    """Return the RSA or elliptic-curve key of a DER SubjectPublicKeyInfo; None if it is none."""
    try:
        found = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return found if isinstance(found, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)) else None


def is_curve(key: PublicKey | None, curve: type[ec.EllipticCurve]) -> bool:
    """Say whether a key is one of that curve."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, curve)


def ecdsa(key: PublicKey | None, r: int, s: int, data: bytes, digest: hashes.HashAlgorithm) -> bool:
    """Say whether (r, s) is an ECDSA signature of the data."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))
    except (InvalidSignature, ValueError):
        return False
    return True


def ecdsa_raw(key: PublicKey | None, signature: bytes, data: bytes, digest: hashes.HashAlgorithm) -> bool:
    """Say whether r and s, big-endian and of equal length, are an ECDSA signature of the data."""
    half = len(signature) // 2
    if not half or len(signature) % 2:
        return False
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    return ecdsa(key, r, s, data, digest)


def rsa_pss_sha384(key: PublicKey | None, signature: bytes, data: bytes) -> bool:
    """Say whether it is an RSA-PSS signature with SHA-384 and a salt of 48 bytes (tee-attestation 2.5)."""
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    digest = hashes.SHA384()
    try:
        key.verify(signature, data, padding.PSS(padding.MGF1(digest), 48), digest)
    except (InvalidSignature, ValueError):
        return False
    return True
