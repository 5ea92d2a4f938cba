"""The keys of a zone: one per epoch, from it one per purpose; how an epoch's key reaches a member (8.1, 8.3)."""

from __future__ import annotations

import re
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hyperpy import commitments
from hyperpy.attest.codes import refusal
from hyperpy.encoding import b64u_decode
from hyperpy.errors import ParameterError

from .epochs import Entry

KEM: Final = b"\x00\x20"
"""HPKE's number of DHKEM(X25519, HKDF-SHA256)."""
SECRET: Final = b"hyperpy/greenzone/secret/v1\0"
_GRANT: Final = b"hyperpy/greenzone/grant/v1\0"
_DERIVED: Final = b"hyperpy/greenzone/key/v1\0"
_NAMED: Final = b"hyperpy/greenzone/key-id/v1\0"
_PURPOSE: Final = re.compile(r"[a-z0-9-]{1,64}")


def named(key: bytes | bytearray) -> bytes:
    """Return what an epoch's key is known by (32 bytes)."""
    return _hkdf(key, b"", _NAMED)


def derived(key: bytes | bytearray, entry: Entry, purpose: str) -> bytes:
    """Return the key (32 bytes) of an epoch for one purpose.

    Raises:
        ParameterError: the purpose is no short lower-case word.
    """
    if _PURPOSE.fullmatch(purpose) is None:
        raise ParameterError("a purpose may hold a-z, 0-9 and -", name="purpose")
    where = entry.epoch.to_bytes(8, "big") + b64u_decode(entry.message.text("key-id"))
    return _hkdf(key, b64u_decode(entry.zone), _DERIVED + where + purpose.encode())


def grant_info(entry: Entry, recipient: str) -> bytes:
    """Return the context that a grant is sealed in: zone, epoch, its entry, recipient, and its attestation."""
    return b"".join(
        (
            _GRANT,
            b64u_decode(entry.zone),
            entry.epoch.to_bytes(8, "big"),
            b64u_decode(commitments.content_id(entry.message)),
            b64u_decode(recipient),
            entry.members[recipient].attestation,
        )
    )


def seal(plain: bytes, kem: bytes, info: bytes) -> bytes:
    """Return HPKE (X25519, HKDF-SHA256, AES-256-GCM) of bytes to a public key.

    Raises:
        AppraisalError: ``binding/key-mismatch``: the key is none.
    """
    try:
        return bytes(_suite().encrypt(plain, X25519PublicKey.from_public_bytes(kem), info))
    except ValueError:
        raise refusal("binding/key-mismatch", "the KEM key is no key") from None


def unseal(sealed: bytes, key: X25519PrivateKey, info: bytes) -> bytes:
    """Return what was sealed; raise AppraisalError ``binding/key-mismatch`` if it was not, or not for this."""
    try:
        return bytes(_suite().decrypt(sealed, key, info))
    except (InvalidTag, ValueError):
        raise refusal("binding/key-mismatch", "it was not sealed to this node's key, or for something else") from None


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _hkdf(key: bytes | bytearray, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt or None, info).derive(key)
